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

/// Refuses what is not this process, or this process before cuInit.
fn own(pid: i32) -> error::Result {
    exists(pid)?;
    if u32::try_from(pid) != Ok(std::process::id()) {
        unsupported::note("the checkpoint state of another process", "it is not known here");
        return Err(error::NOT_SUPPORTED);
    }
    client::get().map(|_| ())
}

/// Refuses a change of the state.
fn change(pid: i32) -> error::Result {
    exists(pid)?;
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuCheckpointProcessGetState(pid: i32, state: *mut u32) -> error::Result {
    own(pid)?;
    // SAFETY: the program's pointer.
    unsafe { put(state, RUNNING) }
}

/// The thread that has to run for a restore: any, as none of them takes part in one. Of these the main thread is always there; its
/// number is the process's.
pub unsafe fn cuCheckpointProcessGetRestoreThreadId(pid: i32, tid: *mut i32) -> error::Result {
    own(pid)?;
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
