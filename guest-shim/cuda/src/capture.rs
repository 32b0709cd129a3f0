//! Stream capture. The worker's driver captures; here it is known whether anything in this process captures at all, so that
//! what is asked all the time costs nothing without a capture.

use crate::{call, call::put, calls, context, error, handles};
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    ffi::c_void,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use vgpu_spec::{plain::Blob1, result::CudaError};

/// CU_STREAM_CAPTURE_STATUS_NONE.
const NONE: u32 = 0;
/// CU_STREAM_CAPTURE_MODE_GLOBAL, _THREAD_LOCAL and _RELAXED are 0, 1 and 2.
const GLOBAL: u32 = 0;
const LAST_MODE: u32 = 2;
/// Dependencies that are asked for at first, and at most.
const FEW: usize = 256;
const MOST: usize = 8192;

type EdgeData = Blob1<8>;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
    /// What cuStreamGetCaptureInfo pointed to: valid until the thread asks again.
    static DEPENDENCIES: RefCell<(Vec<u64>, Vec<EdgeData>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Streams in which a capture began and has not ended; the per-thread stream with its thread.
static BEGUN: Mutex<Option<HashSet<(u64, u32)>>> = Mutex::new(None);
/// How many these are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn key(stream: u64) -> (u64, u32) {
    (stream, if stream == handles::PER_THREAD { vgpu_client::lanes::thread_number() } else { 0 })
}

fn note(stream: u64, begun: bool) {
    let mut streams = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
    let streams = streams.get_or_insert_default();
    if begun {
        streams.insert(key(stream));
    } else {
        streams.remove(&key(stream));
    }
    COUNT.store(streams.len(), Ordering::Release);
}

/// Whether anything in this process captures.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Acquire) > 0
}

/// Refuses what a capturing stream does not allow, which ends the capture: so does a query.
pub fn refuse_capturing(stream: u64) -> error::Result {
    if handles::is_default_stream(stream) || !captures(stream)? {
        return Ok(());
    }
    calls::cuStreamQuery(stream)?;
    Err(CudaError::StreamCaptureUnsupported as u32)
}

/// Whether the driver may refuse a copy in the default stream, since it would wait for streams that capture. The refusal ends their
/// captures, so it has to come from the copy itself, not from a question.
#[inline]
pub fn may_refuse(stream: u64) -> bool {
    handles::is_default_stream(stream) && any()
}

/// Whether a copy in `stream` is captured; in the default stream none is.
#[inline]
pub fn captures_copy(stream: u64) -> error::Result<bool> {
    if handles::is_default_stream(stream) { Ok(false) } else { captures(stream) }
}

/// Whether something in this process captures, and there is a context in which the driver can be asked what that means.
#[inline]
fn is_relevant() -> bool {
    any() && context::require().is_ok()
}

/// Refuses a call that is unsafe during a capture, unless this thread's mode allows it. The captures that forbid it end by it; which
/// these are the driver knows.
#[inline]
pub fn refuse_unsafe() -> error::Result {
    if is_relevant() { calls::vgpuCaptureUnsafeCall() } else { Ok(()) }
}

/// Refuses a call that works in the legacy default stream while a stream captures that it would have to wait for. The captures end by it.
#[inline]
pub fn refuse_legacy() -> error::Result {
    if is_relevant() { calls::vgpuCaptureLegacyCall() } else { Ok(()) }
}

/// Waits for the device, for what ends memory: unlike a wait of the program's it breaks no capture.
pub fn wait_for_device() -> error::Result {
    if is_relevant() { calls::vgpuCaptureWaitForDevice() } else { calls::cuCtxSynchronize() }
}

/// Refuses what no captured stream can have, and what cannot run in the default stream now. The capture ends by it.
pub fn refuse_in(stream: u64) -> error::Result {
    if handles::is_default_stream(stream) { refuse_legacy() } else { refuse_capturing(stream) }
}

/// Whether a stream captures. Any can once one has begun: capture spreads by event waits.
#[inline]
pub fn captures(stream: u64) -> error::Result<bool> {
    Ok(status(stream)? != NONE)
}

#[inline]
fn status(stream: u64) -> error::Result<u32> {
    let mut status = NONE;
    if any() {
        calls::vgpuStreamIsCapturing(stream, &mut status)?;
    }
    Ok(status)
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> error::Result {
    // SAFETY: the program's pointer.
    let place = unsafe { mode.as_mut() }.ok_or(error::INVALID_VALUE)?;
    if *place > LAST_MODE {
        return Err(error::INVALID_VALUE);
    }
    if *place != MODE.get() {
        calls::vgpuThreadCaptureMode(*place)?;
    }
    *place = MODE.replace(*place);
    Ok(())
}

fn begin(stream: u64, mode: u32, call: impl FnOnce() -> error::Result) -> error::Result {
    handles::check_stream(stream)?;
    if mode > LAST_MODE {
        return Err(error::INVALID_VALUE);
    }
    // Before: another thread may see the stream capture as soon as the worker has begun.
    let was = BEGUN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .is_some_and(|streams| streams.contains(&key(stream)));
    note(stream, true);
    call().inspect_err(|_| note(stream, was))
}

pub unsafe fn cuStreamBeginCapture(hStream: u64) -> error::Result {
    begin(hStream, GLOBAL, || calls::vgpuStreamBeginCapture(hStream, GLOBAL))
}

pub unsafe fn cuStreamBeginCapture_v2(hStream: u64, mode: u32) -> error::Result {
    begin(hStream, mode, || calls::vgpuStreamBeginCapture(hStream, mode))
}

pub unsafe fn cuStreamBeginCaptureToGraph(
    hStream: u64,
    hGraph: u64,
    dependencies: *const u64,
    dependencyData: *const EdgeData,
    numDependencies: usize,
    mode: u32,
) -> error::Result {
    handles::check_stream(hStream)?;
    let begun = |streams: &HashSet<_>| streams.contains(&key(hStream));
    if BEGUN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(begun) {
        return Err(CudaError::IllegalState as u32);
    }
    handles::check_graph(hGraph)?;
    if handles::is_default_stream(hStream) {
        return Err(CudaError::StreamCaptureUnsupported as u32);
    }
    // SAFETY: the program's arrays of so many elements, or NULL.
    let (nodes, data) =
        unsafe { (call::slice(dependencies, numDependencies), call::slice(dependencyData, numDependencies)) };
    nodes.into_iter().flatten().try_for_each(|&node| handles::check_graphnode(node))?;
    begin(hStream, mode, || {
        calls::vgpuStreamBeginCaptureToGraph(hStream, hGraph, nodes, data, numDependencies, mode)
    })
}

/// The worker's answer is the driver's; an earlier error of this thread's makes the graph incomplete, so it is not given.
pub unsafe fn cuStreamEndCapture(hStream: u64, phGraph: *mut u64) -> error::Result {
    handles::check_stream(hStream)?;
    // SAFETY: the program's pointer. With NULL the capture ends as well; nothing can name the graph.
    let place = unsafe { phGraph.as_mut() };
    let mut nowhere = 0;
    let place = place.unwrap_or(&mut nowhere);
    let mut graph = 0;
    if let Err(status) = calls::vgpuStreamEndCapture(hStream, &mut graph) {
        // Some errors end the capture, others leave it.
        let mut captures = NONE;
        if calls::vgpuStreamIsCapturing(hStream, &mut captures).is_err() || captures == NONE {
            note(hStream, false);
        }
        *place = 0;
        return Err(status);
    }
    note(hStream, false);
    if let Err(status) = call::settle() {
        let _ = calls::cuGraphDestroy(graph);
        handles::remove(graph);
        *place = 0;
        return Err(status);
    }
    *place = graph;
    Ok(())
}

pub unsafe fn cuStreamIsCapturing(hStream: u64, captureStatus: *mut u32) -> error::Result {
    handles::check_stream(hStream)?;
    if captureStatus.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let status = status(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(captureStatus, status) }
}

/// Where cuStreamGetCaptureInfo puts what it finds; each may be NULL.
struct Places {
    id: *mut u64,
    graph: *mut u64,
    dependencies: *mut *mut c_void,
    edges: *mut *mut c_void,
    count: *mut usize,
}

/// # Safety
/// All places are NULL or valid for a write.
unsafe fn info(stream: u64, status_out: *mut u32, places: &Places) -> error::Result {
    handles::check_stream(stream)?;
    if status_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (mut status, mut id, mut graph, mut count) = (NONE, 0, 0, 0);
    let (mut nodes, mut edges) = (Vec::new(), Vec::new());
    if any() {
        let mut room = FEW;
        loop {
            nodes = vec![0; room];
            edges = vec![EdgeData::default(); room];
            calls::vgpuStreamCaptureInfo(
                stream,
                &mut status,
                &mut id,
                &mut graph,
                &mut nodes,
                &mut edges,
                room,
                &mut count,
            )?;
            if count <= room {
                break;
            }
            if room == MOST {
                vgpu_client::warn!("a capture with {count} dependencies cannot be described: at most {MOST}");
                return Err(error::NOT_SUPPORTED);
            }
            room = count.min(MOST);
        }
        nodes.truncate(count);
        edges.truncate(count);
    }
    if places.dependencies.is_null() && !places.edges.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let lossy = edges.iter().any(|edge| edge.0 != [0; 8]);
    if lossy && places.edges.is_null() && !places.dependencies.is_null() {
        return Err(error::LOSSY_QUERY);
    }
    // SAFETY: the caller's promise; the others are written only for a capturing stream.
    unsafe {
        put(status_out, status)?;
        if status == NONE {
            return Ok(());
        }
        let _ = put(places.id, id);
        let _ = put(places.graph, graph);
        let _ = put(places.count, nodes.len());
        DEPENDENCIES.with_borrow_mut(|kept| {
            *kept = (nodes, edges);
            let any = !kept.0.is_empty();
            let of = |list: *mut c_void| if any { list } else { std::ptr::null_mut() };
            let _ = put(places.dependencies, of(kept.0.as_mut_ptr().cast()));
            let _ = put(places.edges, of(kept.1.as_mut_ptr().cast()));
        });
    }
    Ok(())
}

pub unsafe fn cuStreamGetCaptureInfo(
    hStream: u64,
    captureStatus_out: *mut u32,
    id_out: *mut u64,
) -> error::Result {
    let null = std::ptr::null_mut();
    let places = Places {
        id: id_out,
        graph: std::ptr::null_mut(),
        dependencies: null,
        edges: null,
        count: null.cast(),
    };
    // SAFETY: the program's pointers.
    unsafe { info(hStream, captureStatus_out, &places) }
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    hStream: u64,
    captureStatus_out: *mut u32,
    id_out: *mut u64,
    graph_out: *mut u64,
    dependencies_out: *mut *mut c_void,
    numDependencies_out: *mut usize,
) -> error::Result {
    let places = Places {
        id: id_out,
        graph: graph_out,
        dependencies: dependencies_out,
        edges: std::ptr::null_mut(),
        count: numDependencies_out,
    };
    // SAFETY: the program's pointers.
    unsafe { info(hStream, captureStatus_out, &places) }
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    hStream: u64,
    captureStatus_out: *mut u32,
    id_out: *mut u64,
    graph_out: *mut u64,
    dependencies_out: *mut *mut c_void,
    edgeData_out: *mut *mut c_void,
    numDependencies_out: *mut usize,
) -> error::Result {
    let places = Places {
        id: id_out,
        graph: graph_out,
        dependencies: dependencies_out,
        edges: edgeData_out,
        count: numDependencies_out,
    };
    // SAFETY: the program's pointers.
    unsafe { info(hStream, captureStatus_out, &places) }
}
