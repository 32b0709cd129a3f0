//! Host functions and stream callbacks: a thread of this process runs them when the worker says that a stream has got there.
//!
//! The worker knows a callback by a number; function and argument stay here. The thread has a lane of its own, since what other
//! threads wait for may be waiting for it. It asks only while there is a callback that could become due.

use crate::{calls, capture, client, error, handles, thread};
use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};
use vgpu_client::{AloneLane, LaneError};
use vgpu_spec::wire::lane::function_id;

type HostFunction = unsafe extern "C" fn(*mut c_void);
type StreamCallback = unsafe extern "C" fn(u64, u32, *mut c_void);

/// What to call, and with what: addresses, so that another thread can have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Callback {
    pub function: u64,
    pub argument: usize,
    /// The stream of a stream callback.
    stream: Option<u64>,
    /// Runs once; those of graphs run with each launch.
    once: bool,
}

#[derive(Default)]
struct Registry {
    callbacks: Option<HashMap<u64, Callback>>,
    last: u64,
    has_thread: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { callbacks: None, last: 0, has_thread: false });
/// Signalled when there is a callback to wait for.
static REGISTERED: Condvar = Condvar::new();

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers a callback, and sees to it that there is a thread to run it.
fn register(callback: Callback) -> error::Result<u64> {
    if callback.function == 0 {
        return Err(error::INVALID_VALUE);
    }
    let mut registry = registry();
    if !registry.has_thread {
        start_thread()?;
        registry.has_thread = true;
    }
    registry.last += 1;
    let number = registry.last;
    registry.callbacks.get_or_insert_default().insert(number, callback);
    REGISTERED.notify_one();
    Ok(number)
}

/// A callback of a graph's node. It is kept: the driver says nowhere when the last copy of a node is gone.
pub fn of_node(function: u64, argument: *mut c_void) -> error::Result<u64> {
    register(Callback { function, argument: argument.expose_provenance(), stream: None, once: false })
}

/// A callback that runs once, at a time that no stream tells.
pub fn of_object(function: u64, argument: *mut c_void) -> error::Result<u64> {
    register(Callback { function, argument: argument.expose_provenance(), stream: None, once: true })
}

/// What the program gave for a number.
pub fn find(number: u64) -> Option<Callback> {
    registry().callbacks.as_ref()?.get(&number).copied()
}

/// The callback will not become due.
pub fn forget(number: u64) {
    if let Some(callbacks) = &mut registry().callbacks {
        callbacks.remove(&number);
    }
}

/// The callback is due: what to call.
fn take(number: u64) -> Option<Callback> {
    let mut registry = registry();
    let callbacks = registry.callbacks.as_mut()?;
    match callbacks.get(&number) {
        Some(callback) if callback.once => callbacks.remove(&number),
        other => other.copied(),
    }
}

fn start_thread() -> error::Result {
    let lane = client::get()?.lanes.alone().map_err(|e| {
        vgpu_client::warn!("running callbacks: no lane is left for their thread: {e}");
        error::lane(&e)
    })?;
    thread::spawn("vgpu-callbacks", &[], move || serve(&lane)).map_err(|e| {
        vgpu_client::warn!("running callbacks: starting their thread: {e}");
        error::OUT_OF_MEMORY
    })
}

/// The thread: until the worker is lost or the process ends.
fn serve(lane: &AloneLane) {
    let mut done = 0;
    loop {
        if done == 0 {
            let idle = |r: &mut Registry| r.callbacks.as_ref().is_none_or(HashMap::is_empty);
            drop(REGISTERED.wait_while(registry(), idle).unwrap_or_else(PoisonError::into_inner));
        }
        match next(lane, done) {
            Ok((0, _)) => done = 0,
            Ok((number, status)) => {
                if let Some(callback) = take(number) {
                    callback.run(status);
                }
                done = number;
            }
            Err(reason) => {
                vgpu_client::info!("callbacks end: error {reason}");
                return;
            }
        }
    }
}

/// Says that `done` has run, and waits a while for the next.
fn next(lane: &AloneLane, done: u64) -> error::Result<(u64, u32)> {
    let answer = lane.with(|lane| -> Result<(u32, Option<(u64, u64)>), LaneError> {
        let mut message = lane.begin_unordered(function_id("vgpuNextCallback"), 8, 16)?;
        message.u64(done);
        let reply = message.submit_and_wait()?;
        let mut reader = reply.reader();
        Ok((reply.status, reader.u64().ok().zip(reader.u64().ok())))
    });
    match answer {
        Ok(Ok((0, Some((number, status))))) => Ok((number, status as u32)),
        Ok(Ok((status, _))) => Err(if status == 0 { error::UNKNOWN } else { status }),
        Ok(Err(e)) | Err(e) => Err(error::lane(&e)),
    }
}

impl Callback {
    fn run(self, status: u32) {
        let function = std::ptr::with_exposed_provenance::<()>(self.function as usize);
        let argument = std::ptr::with_exposed_provenance_mut::<c_void>(self.argument);
        match self.stream {
            // SAFETY: the program's function of this type, and its argument.
            None => unsafe { std::mem::transmute::<*const (), HostFunction>(function)(argument) },
            // SAFETY: as above.
            Some(stream) => unsafe {
                std::mem::transmute::<*const (), StreamCallback>(function)(stream, status, argument);
            },
        }
    }
}

pub unsafe fn cuLaunchHostFunc(hStream: u64, function: u64, userData: *mut c_void) -> error::Result {
    handles::check_stream(hStream)?;
    let once = !capture::captures(hStream)?;
    let argument = userData.expose_provenance();
    let number = register(Callback { function, argument, stream: None, once })?;
    calls::vgpuLaunchHostFunc(hStream, number).inspect_err(|_| forget(number))
}

pub unsafe fn cuStreamAddCallback(
    hStream: u64,
    callback: u64,
    userData: *mut c_void,
    flags: u32,
) -> error::Result {
    handles::check_stream(hStream)?;
    if flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    let argument = userData.expose_provenance();
    let number = register(Callback { function: callback, argument, stream: Some(hStream), once: true })?;
    calls::vgpuStreamAddCallback(hStream, number).inspect_err(|_| forget(number))
}
