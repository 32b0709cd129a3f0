//! Stream capture. A guest thread's capture mode is that of its lane's thread here.
#![allow(non_snake_case)]

pub use super::graph_pageable::vgpuCapturePageableCopy;
use super::{
    driver::{self, Driver},
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph::MAX_LIST,
    thread::Thread,
};
use std::collections::HashMap;
use vgpu_spec::plain::Blob1;

/// CU_STREAM_CAPTURE_MODE_RELAXED.
const RELAXED: u32 = 2;
/// CU_STREAM_CAPTURE_STATUS_NONE.
pub const NONE: u32 = 0;
/// CU_STREAM_LEGACY.
const LEGACY: u64 = 1;
/// CU_EVENT_DISABLE_TIMING.
const DISABLE_TIMING: u32 = 2;

/// Lets the calling thread do what a capture of another thread would forbid (and be broken by). For this worker's own work, which
/// a program knows nothing of.
pub fn allow_here() {
    if let Some(exchange) = driver::get().and_then(|d| d.cuThreadExchangeStreamCaptureMode) {
        let mut mode = RELAXED;
        // SAFETY: a place that outlives the call. A driver that refuses leaves the mode as it is.
        unsafe { exchange(&raw mut mode) };
    }
}

/// Runs `f`, which does what a capture of another thread would forbid (and be broken by); the thread's mode is what it was after it.
///
/// # Errors
/// The driver's, without having run `f`, if it does not let the thread do that.
pub fn relaxed<T>(driver: &Driver, f: impl FnOnce() -> T) -> Result<T, CudaError> {
    let exchange = driver.cuThreadExchangeStreamCaptureMode.ok_or(NOT_SUPPORTED)?;
    let mut mode = RELAXED;
    // SAFETY: a place that outlives the call.
    check(unsafe { exchange(&raw mut mode) })?;
    let result = f();
    // SAFETY: as above; the mode is the one that the driver gave.
    unsafe { exchange(&raw mut mode) };
    Ok(result)
}

/// Capture modes of the guest threads that a lane serves.
#[derive(Default)]
pub struct Modes {
    thread: u32,
    /// The driver's mode of this thread.
    now: u32,
    /// Modes other than 0 (CU_STREAM_CAPTURE_MODE_GLOBAL), by guest thread.
    wanted: HashMap<u32, u32>,
}

impl Modes {
    /// A message of guest thread `thread` is next.
    #[inline]
    pub fn enter(&mut self, driver: &Driver, thread: u32) {
        if thread != self.thread {
            self.thread = thread;
            let mode = self.wanted.get(&thread).copied().unwrap_or(0);
            let _ = self.exchange(driver, mode);
        }
    }

    /// Whether the last message was of that thread.
    #[inline]
    pub fn is_in(&self, thread: u32) -> bool {
        thread == self.thread
    }

    fn exchange(&mut self, driver: &Driver, mode: u32) -> Result<(), CudaError> {
        if mode == self.now {
            return Ok(());
        }
        let function = driver.cuThreadExchangeStreamCaptureMode.ok_or(NOT_SUPPORTED)?;
        let mut place = mode;
        // SAFETY: a place that outlives the call.
        check(unsafe { function(&raw mut place) })?;
        self.now = mode;
        Ok(())
    }

    fn set(&mut self, driver: &Driver, mode: u32) -> Result<(), CudaError> {
        self.exchange(driver, mode)?;
        if mode == 0 {
            self.wanted.remove(&self.thread);
        } else {
            self.wanted.insert(self.thread, mode);
        }
        Ok(())
    }
}

/// The guest thread's mode from now on.
pub fn vgpuThreadCaptureMode(t: &mut Thread, mode: u32) -> Result<(), CudaError> {
    t.modes.set(t.driver, mode)
}

pub fn vgpuStreamBeginCapture(t: &mut Thread, stream: u64, mode: u32) -> Result<(), CudaError> {
    let begin = t.driver.cuStreamBeginCapture_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live stream of this client.
    t.begin_capture(stream, || unsafe { begin(stream, mode) })
}

pub fn vgpuStreamBeginCaptureToGraph(
    t: &mut Thread,
    stream: u64,
    graph: u64,
    dependencies: Option<Vec<u64>>,
    data: Option<Vec<Blob1<8>>>,
    n: usize,
    mode: u32,
) -> Result<(), CudaError> {
    let begin = t.driver.cuStreamBeginCaptureToGraph.ok_or(NOT_SUPPORTED)?;
    let short = |len: Option<usize>| len.is_some_and(|len| len < n);
    if short(dependencies.as_ref().map(Vec::len))
        || short(data.as_ref().map(Vec::len))
        || (n > 0 && dependencies.is_none())
    {
        return Err(INVALID_VALUE);
    }
    let dependencies = dependencies.as_ref().map_or(std::ptr::null(), |d| d.as_ptr());
    let data = data.as_ref().map_or(std::ptr::null(), |d| d.as_ptr());
    // SAFETY: live handles of this client; the arrays are long enough and outlive the call.
    t.begin_capture(stream, || unsafe { begin(stream, graph, dependencies, data, n, mode) })
}

pub fn vgpuStreamEndCapture(t: &mut Thread, stream: u64) -> Result<u64, CudaError> {
    let end = t.driver.cuStreamEndCapture.ok_or(NOT_SUPPORTED)?;
    let mut graph = 0_u64;
    // SAFETY: a live stream of this client, and a place that outlives the call.
    let status = unsafe { end(stream, &raw mut graph) };
    t.capture_may_have_ended(stream);
    check(status)?;
    t.number_graph(graph, 0)
}

impl Thread {
    /// Begins a capture, of which the client's other threads know from before on.
    fn begin_capture(&self, stream: u64, begin: impl FnOnce() -> u32) -> Result<(), CudaError> {
        self.session.turns.capture(stream, true);
        let status = begin();
        if status != 0 {
            self.capture_may_have_ended(stream);
        }
        check(status)
    }

    /// Looks whether `stream` still captures.
    pub fn capture_may_have_ended(&self, stream: u64) {
        if self.session.turns.captures() && !self.is_capturing(stream) {
            self.session.turns.capture(stream, false);
        }
    }

    /// Whether what is done in `stream` is recorded.
    pub fn is_capturing(&self, stream: u64) -> bool {
        let Some(ask) = self.driver.cuStreamIsCapturing else { return false };
        let mut state = 0;
        // SAFETY: a live stream of this client, and a place that outlives the call.
        unsafe { ask(stream, &raw mut state) == 0 && state != 0 }
    }
}

/// An event that is made for one call.
struct Event<'a> {
    driver: &'a Driver,
    event: u64,
}

impl<'a> Event<'a> {
    /// Making and ending one is allowed in every capture.
    fn new(driver: &'a Driver) -> Result<Self, CudaError> {
        let create = driver.cuEventCreate.ok_or(NOT_SUPPORTED)?;
        let mut event = 0_u64;
        // SAFETY: a place that outlives the call.
        check(unsafe { create(&raw mut event, DISABLE_TIMING) })?;
        Ok(Event { driver, event })
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if let Some(destroy) = self.driver.cuEventDestroy_v2 {
            // SAFETY: the event just made, which nobody else knows.
            unsafe { destroy(self.event) };
        }
    }
}

/// Asks whether an event that was never recorded is reached: it is, unless a capture forbids the question, which ends the capture.
pub fn vgpuCaptureUnsafeCall(t: &mut Thread) -> Result<(), CudaError> {
    let query = t.driver.cuEventQuery.ok_or(NOT_SUPPORTED)?;
    let event = Event::new(t.driver)?;
    // SAFETY: a live event.
    check(unsafe { query(event.event) })
}

/// Records an event in the legacy default stream if it cannot be, which ends the captures that are in the way.
pub fn vgpuCaptureLegacyCall(t: &mut Thread) -> Result<(), CudaError> {
    let refused = match vgpuStreamIsCapturing(t, LEGACY) {
        Ok(_) => return Ok(()),
        Err(refused) => refused,
    };
    let record = t.driver.cuEventRecord.ok_or(NOT_SUPPORTED)?;
    let event = Event::new(t.driver)?;
    // SAFETY: a live event; the stream always lives.
    check(unsafe { record(event.event, LEGACY) })?;
    Err(refused)
}

/// Waits for the device by ending an allocation, which waits for it as cuCtxSynchronize does but, in a thread that relaxes its mode, breaks
/// no capture.
pub fn vgpuCaptureWaitForDevice(t: &mut Thread) -> Result<(), CudaError> {
    let (allocate, free) =
        (t.driver.cuMemAlloc_v2.ok_or(NOT_SUPPORTED)?, t.driver.cuMemFree_v2.ok_or(NOT_SUPPORTED)?);
    relaxed(t.driver, || {
        let mut address = 0_u64;
        // SAFETY: a place that outlives the calls; only what was allocated here is freed.
        unsafe { check(allocate(&raw mut address, 1)).and_then(|()| check(free(address))) }
    })?
}

pub fn vgpuStreamIsCapturing(t: &mut Thread, stream: u64) -> Result<u32, CudaError> {
    let ask = t.driver.cuStreamIsCapturing.ok_or(NOT_SUPPORTED)?;
    let mut status = NONE;
    // SAFETY: a live stream of this client, and a place that outlives the call.
    check(unsafe { ask(stream, &raw mut status) })?;
    Ok(status)
}

/// Status, id, graph, dependencies, edge data, and how many dependencies there are.
pub type Info = (u32, u64, u64, Vec<u64>, Vec<Blob1<8>>, usize);

pub fn vgpuStreamCaptureInfo(
    t: &mut Thread,
    stream: u64,
    room: usize,
    _: usize,
    _: usize,
) -> Result<Info, CudaError> {
    let (mut status, mut id, mut graph, mut count) = (NONE, 0_u64, 0_u64, 0_usize);
    let (mut nodes, mut edges) = (std::ptr::null::<u64>(), std::ptr::null::<Blob1<8>>());
    let nodes_place = (&raw mut nodes).cast();
    if let Some(ask) = t.driver.cuStreamGetCaptureInfo_v3 {
        let edges_place = (&raw mut edges).cast();
        // SAFETY: a live stream of this client, and places that outlive the call.
        check(unsafe {
            ask(
                stream,
                &raw mut status,
                &raw mut id,
                &raw mut graph,
                nodes_place,
                edges_place,
                &raw mut count,
            )
        })?;
    } else {
        let ask = t.driver.cuStreamGetCaptureInfo_v2.ok_or(NOT_SUPPORTED)?;
        // SAFETY: as above.
        check(unsafe {
            ask(stream, &raw mut status, &raw mut id, &raw mut graph, nodes_place, &raw mut count)
        })?;
    }
    if status == NONE || graph == 0 {
        return Ok((status, id, 0, Vec::new(), Vec::new(), 0));
    }
    let len = count.min(room).min(MAX_LIST);
    // SAFETY: the driver's array of `count` nodes, valid until the stream's next call, which is this thread's or a defect of the program.
    let nodes = if nodes.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(nodes, len) } };
    let numbers = nodes.iter().map(|&n| t.number_graphnode(n, graph)).collect::<Result<Vec<_>, _>>()?;
    let edges = if edges.is_null() {
        vec![Blob1::default(); numbers.len()]
    } else {
        // SAFETY: as the nodes.
        unsafe { std::slice::from_raw_parts(edges, len) }.to_vec()
    };
    Ok((status, id, t.number_graph(graph, 0)?, numbers, edges, count))
}
