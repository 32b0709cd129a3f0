//! Callbacks: a stream that reaches one waits here until a thread of the guest process has run it.
//!
//! The driver's functions get the shim's number of the callback as their argument: functions and arguments of the program never
//! come here.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::{
    collections::{HashSet, VecDeque},
    ffi::c_void,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long `vgpuNextCallback` waits: a lane must come back from a call soon enough to be stopped.
const WAIT: Duration = Duration::from_millis(500);

/// A callback that is due.
struct Due {
    sequence: u64,
    callback: u64,
    status: u32,
}

#[derive(Default)]
struct State {
    next: u64,
    due: VecDeque<Due>,
    /// Given to the guest, not done yet.
    running: Option<(u64, u64)>,
    /// Driver threads wait for these.
    awaited: HashSet<u64>,
}

/// The callbacks of this worker's one client.
pub struct Callbacks {
    state: Mutex<State>,
    due: Condvar,
    done: Condvar,
}

pub static CALLBACKS: std::sync::LazyLock<Callbacks> = std::sync::LazyLock::new(|| Callbacks {
    state: Mutex::default(),
    due: Condvar::new(),
    done: Condvar::new(),
});

impl Callbacks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the guest run `callback`; with `wait`, returns when it has.
    pub fn run(&self, callback: u64, status: u32, wait: bool) {
        let mut state = self.lock();
        state.next += 1;
        let sequence = state.next;
        state.due.push_back(Due { sequence, callback, status });
        if wait {
            state.awaited.insert(sequence);
        }
        self.due.notify_one();
        while state.awaited.contains(&sequence) {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The guest has run `done` (0: none) and asks for the next: its number, or 0 after `wait`, and the stream's status.
    fn next(&self, done: u64, wait: Duration) -> Result<(u64, u32), CudaError> {
        let mut state = self.lock();
        if done != 0 {
            let (sequence, callback) = state.running.take().ok_or(INVALID_VALUE)?;
            if callback != done {
                state.running = Some((sequence, callback));
                return Err(INVALID_VALUE);
            }
            if state.awaited.remove(&sequence) {
                self.done.notify_all();
            }
        }
        let (mut state, _) = self
            .due
            .wait_timeout_while(state, wait, |s| s.due.is_empty() || s.running.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        if state.running.is_some() {
            return Ok((0, 0));
        }
        let Some(due) = state.due.pop_front() else { return Ok((0, 0)) };
        state.running = Some((due.sequence, due.callback));
        Ok((due.callback, due.status))
    }
}

/// The driver's host function.
pub extern "C" fn host_function(callback: *mut c_void) {
    CALLBACKS.run(callback.addr() as u64, 0, true);
}

/// The driver's stream callback.
extern "C" fn stream_callback(_stream: u64, status: u32, callback: *mut c_void) {
    CALLBACKS.run(callback.addr() as u64, status, true);
}

/// The address of [`host_function`], as the driver's tables take it.
pub fn host_function_address() -> u64 {
    host_function as extern "C" fn(*mut c_void) as usize as u64
}

/// A callback's number as the driver's argument.
pub fn argument(callback: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(callback as usize)
}

pub fn vgpuLaunchHostFunc(t: &mut Thread, stream: u64, callback: u64) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchHostFunc.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live stream of this client; the function takes any argument.
    check(unsafe { launch(stream, host_function_address(), argument(callback)) })
}

pub fn vgpuStreamAddCallback(t: &mut Thread, stream: u64, callback: u64) -> Result<(), CudaError> {
    let add = t.driver.cuStreamAddCallback.ok_or(NOT_SUPPORTED)?;
    let function = stream_callback as extern "C" fn(u64, u32, *mut c_void) as usize as u64;
    // SAFETY: as above.
    check(unsafe { add(stream, function, argument(callback), 0) })
}

pub fn vgpuNextCallback(_: &mut Thread, done: u64) -> Result<(u64, u32), CudaError> {
    CALLBACKS.next(done, WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callbacks() -> Callbacks {
        Callbacks { state: Mutex::default(), due: Condvar::new(), done: Condvar::new() }
    }

    #[test]
    fn a_stream_waits_until_the_guest_has_run_its_callback() {
        let callbacks = callbacks();
        let (sent, received) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                callbacks.run(7, 3, true);
                sent.send(()).unwrap();
            });
            assert_eq!(callbacks.next(0, Duration::from_secs(10)), Ok((7, 3)));
            assert!(received.recv_timeout(Duration::from_millis(20)).is_err(), "it is not done yet");
            assert_eq!(callbacks.next(8, Duration::ZERO), Err(INVALID_VALUE), "another was running");
            assert_eq!(callbacks.next(7, Duration::ZERO), Ok((0, 0)));
            received.recv_timeout(Duration::from_secs(10)).unwrap();
        });
    }

    #[test]
    fn what_nobody_waits_for_is_given_in_order() {
        let callbacks = callbacks();
        callbacks.run(1, 0, false);
        callbacks.run(2, 0, false);
        assert_eq!(callbacks.next(0, Duration::ZERO), Ok((1, 0)));
        assert_eq!(callbacks.next(1, Duration::ZERO), Ok((2, 0)));
        assert_eq!(callbacks.next(2, Duration::ZERO), Ok((0, 0)));
        assert_eq!(callbacks.next(2, Duration::ZERO), Err(INVALID_VALUE), "nothing is running");
    }
}
