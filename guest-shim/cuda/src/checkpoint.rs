//! Checkpoints of processes. A client is suspended by the operator, without its knowledge: to itself it always runs.
//!
//! The functions are of any process, so they need neither a context nor cuInit (measured): they fail with CUDA_ERROR_OPERATING_SYSTEM if
//! there is no such process. Only what is not known here, the state of another one, and changes of a state are refused.

use crate::{call::put, client, error, unsupported};
use std::path::Path;
use vgpu_spec::plain::Blob8;

/// CU_PROCESS_STATE_RUNNING.
const RUNNING: u32 = 0;

/// Refuses a number that no process of this guest has.
fn exists(pid: i32) -> error::Result {
    if Path::new(&format!("/proc/{pid}")).exists() { Ok(()) } else { Err(error::OPERATING_SYSTEM) }
}

/// Refuses what is not known here to be a client: this process before cuInit, and another one unless this was forked from it.
fn client(pid: i32) -> error::Result {
    exists(pid)?;
    let asked = u32::try_from(pid).ok();
    if asked == client::process() {
        return Ok(());
    }
    if asked == Some(std::process::id()) {
        return Err(error::NOT_INITIALIZED);
    }
    unsupported::note("the checkpoint state of another process", "it is not known here");
    Err(error::NOT_SUPPORTED)
}

/// Refuses a change of the state.
fn change(pid: i32) -> error::Result {
    exists(pid)?;
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuCheckpointProcessGetState(pid: i32, state: *mut u32) -> error::Result {
    client(pid)?;
    // SAFETY: the program's pointer.
    unsafe { put(state, RUNNING) }
}

/// The thread that has to run for a restore: any, as none of them takes part in one. Of these the main thread is always there; its
/// number is the process's.
pub unsafe fn cuCheckpointProcessGetRestoreThreadId(pid: i32, tid: *mut i32) -> error::Result {
    client(pid)?;
    // SAFETY: the program's pointer.
    unsafe { put(tid, pid) }
}

pub unsafe fn cuCheckpointProcessLock(pid: i32, _: *mut Blob8<64>) -> error::Result {
    change(pid)
}

pub unsafe fn cuCheckpointProcessCheckpoint(pid: i32, _: *mut Blob8<64>) -> error::Result {
    change(pid)
}

pub unsafe fn cuCheckpointProcessRestore(pid: i32, _: *mut Blob8<64>) -> error::Result {
    change(pid)
}

pub unsafe fn cuCheckpointProcessUnlock(pid: i32, _: *mut Blob8<64>) -> error::Result {
    change(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_is_no_process_and_this_one_is_no_client_yet() {
        let (mut state, mut thread) = (7, 7);
        let gone = 0x7fff_fff0;
        let own = i32::try_from(std::process::id()).unwrap();
        for (pid, status) in [
            (gone, error::OPERATING_SYSTEM),
            (0, error::OPERATING_SYSTEM),
            (-1, error::OPERATING_SYSTEM),
            (own, error::NOT_INITIALIZED),
            (1, error::NOT_SUPPORTED),
        ] {
            // SAFETY: places of this function.
            let (asked, found) = unsafe {
                (
                    cuCheckpointProcessGetState(pid, &raw mut state),
                    cuCheckpointProcessGetRestoreThreadId(pid, &raw mut thread),
                )
            };
            assert_eq!((asked, found), (Err(status), Err(status)), "{pid}");
        }
        assert_eq!((state, thread), (7, 7));
    }

    #[test]
    fn the_state_of_what_is_there_cannot_be_changed() {
        let own = i32::try_from(std::process::id()).unwrap();
        let null = std::ptr::null_mut();
        // SAFETY: the arguments may be NULL.
        unsafe {
            assert_eq!(cuCheckpointProcessLock(own, null), Err(error::NOT_SUPPORTED));
            assert_eq!(cuCheckpointProcessLock(0x7fff_fff0, null), Err(error::OPERATING_SYSTEM));
            assert_eq!(cuCheckpointProcessUnlock(-1, null), Err(error::OPERATING_SYSTEM));
        }
    }
}
