//! Stream capture: describes instead of doing.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

use super::graph::{Graph, Op};
use super::stream::{Order, Stream};
use super::work::next_id;
use super::{CudaError, Result};

/// A stream's part in a capture.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Where the work goes.
    pub graph: Arc<Graph>,
    /// The number of the capture.
    pub id: u64,
    /// What the stream's next node comes after.
    pub after: Vec<u64>,
    is_origin: bool,
    /// Something was called that a capture cannot have.
    broken: Arc<AtomicBool>,
    members: Arc<Mutex<Vec<Arc<Stream>>>>,
}

/// `CU_STREAM_CAPTURE_STATUS_ACTIVE` and `_INVALIDATED`.
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

impl Capture {
    /// `CUstreamCaptureStatus`.
    pub fn status(&self) -> u32 {
        if self.broken.load(Ordering::Acquire) { INVALIDATED } else { ACTIVE }
    }

    fn check(&self) -> Result {
        if self.status() == ACTIVE { Ok(()) } else { Err(CudaError::StreamCaptureInvalidated) }
    }
}

/// `CUstreamCaptureMode`.
pub const GLOBAL: u32 = 0;
pub const RELAXED: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// A capture that has not ended.
struct Ongoing {
    id: u64,
    mode: u32,
    thread: ThreadId,
    origin: Weak<Stream>,
    broken: Arc<AtomicBool>,
}

static ONGOING: Mutex<Vec<Ongoing>> = Mutex::new(Vec::new());
/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Those that have not ended, without those whose stream has.
fn ongoing() -> MutexGuard<'static, Vec<Ongoing>> {
    let mut list = ONGOING.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|capture| capture.origin.strong_count() > 0);
    COUNT.store(list.len(), Ordering::Release);
    list
}

/// Sets the calling thread's mode; the one before.
pub fn exchange_mode(mode: u32) -> u32 {
    MODE.replace(mode)
}

/// Breaks the captures that `forbid` a call; whether there are any.
fn break_those(forbid: impl Fn(&Ongoing) -> bool) -> bool {
    if COUNT.load(Ordering::Acquire) == 0 {
        return false;
    }
    let mut any = false;
    for capture in ongoing().iter().filter(|capture| forbid(capture)) {
        capture.broken.store(true, Ordering::Release);
        any = true;
    }
    any
}

/// A call that is unsafe during captures: it breaks those that forbid it to the calling thread.
pub fn forbid_unsafe() -> Result {
    let (mode, me) = (MODE.get(), thread::current().id());
    let forbids = |capture: &Ongoing| {
        mode != RELAXED
            && capture.mode != RELAXED
            && (capture.thread == me || (mode, capture.mode) == (GLOBAL, GLOBAL))
    };
    if break_those(forbids) { Err(CudaError::StreamCaptureUnsupported) } else { Ok(()) }
}

/// Whether `stream` is a legacy default stream that would have to wait for this capture.
fn is_in_the_way(capture: &Ongoing, stream: &Stream) -> bool {
    stream.order() == Order::Legacy
        && capture
            .origin
            .upgrade()
            .is_some_and(|origin| origin.order() == Order::Blocking && origin.context() == stream.context())
}

/// Whether work in `stream`, if it is a legacy default stream, would have to wait for a capture; the capture goes on.
pub fn check_legacy(stream: &Stream) -> Result {
    let in_the_way = ongoing().iter().any(|capture| is_in_the_way(capture, stream));
    if in_the_way { Err(CudaError::StreamCaptureImplicit) } else { Ok(()) }
}

/// From now on `stream` describes.
pub fn begin(stream: &Arc<Stream>, mode: u32) -> Result {
    begin_in(stream, mode, None)
}

/// From now on `stream` describes; its work goes to `graph`, after nodes of it, or to a new graph.
pub fn begin_in(stream: &Arc<Stream>, mode: u32, graph: Option<(Arc<Graph>, &[u64])>) -> Result {
    if stream.captures() {
        return Err(CudaError::IllegalState);
    }
    let (graph, after) = match graph {
        Some((graph, after)) => {
            after.iter().try_for_each(|node| graph.with_node(*node, |_| ()))?;
            (graph, after.to_vec())
        }
        None => (Graph::create()?, Vec::new()),
    };
    let capture = Capture {
        graph,
        id: next_id(),
        after,
        is_origin: true,
        broken: Arc::default(),
        members: Arc::new(Mutex::new(vec![Arc::clone(stream)])),
    };
    capture.graph.set_captured(true);
    let mut list = ongoing();
    list.push(Ongoing {
        id: capture.id,
        mode,
        thread: thread::current().id(),
        origin: Arc::downgrade(stream),
        broken: Arc::clone(&capture.broken),
    });
    COUNT.store(list.len(), Ordering::Release);
    stream.set_capture(Some(capture));
    Ok(())
}

/// Replaces what `stream`'s next work comes after, or, with `add`, adds to it.
pub fn update(stream: &Arc<Stream>, nodes: &[u64], add: bool) -> Result {
    let mut capture = stream.capture().ok_or(CudaError::IllegalState)?;
    capture.check()?;
    nodes.iter().try_for_each(|node| capture.graph.with_node(*node, |_| ()))?;
    if !add {
        capture.after.clear();
    }
    for node in nodes {
        if !capture.after.contains(node) {
            capture.after.push(*node);
        }
    }
    stream.set_capture(Some(capture));
    Ok(())
}

/// Adds a node to what `stream` describes.
pub fn capture_op(stream: &Arc<Stream>, op: Op) -> Result {
    let mut capture = stream.capture().ok_or(CudaError::IllegalState)?;
    capture.check()?;
    let node = capture.graph.add(op, &capture.after)?;
    capture.after = vec![node];
    stream.set_capture(Some(capture));
    Ok(())
}

/// `stream`'s next work comes after what `event` stood for in its capture.
pub fn join(stream: &Arc<Stream>, event: &Capture) -> Result {
    event.check()?;
    let mut joined = match stream.capture() {
        None => {
            event.members.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(stream));
            Capture { is_origin: false, after: Vec::new(), ..event.clone() }
        }
        Some(own) if own.id == event.id => own,
        Some(_) => return Err(CudaError::StreamCaptureMerge),
    };
    for node in &event.after {
        if !joined.after.contains(node) {
            joined.after.push(*node);
        }
    }
    stream.set_capture(Some(joined));
    Ok(())
}

/// A call that a capturing stream cannot have: it breaks the capture.
pub fn forbid(stream: &Arc<Stream>) -> Result {
    match stream.capture() {
        None => Ok(()),
        Some(capture) => {
            capture.broken.store(true, Ordering::Release);
            Err(CudaError::StreamCaptureUnsupported)
        }
    }
}

/// Ends the capture that began in `stream`; its graph.
pub fn end(stream: &Arc<Stream>) -> Result<Arc<Graph>> {
    let capture = stream.capture().ok_or(CudaError::IllegalState)?;
    if !capture.is_origin {
        return Err(CudaError::StreamCaptureUnmatched);
    }
    {
        let mut list = ongoing();
        list.retain(|ongoing| ongoing.id != capture.id);
        COUNT.store(list.len(), Ordering::Release);
    }
    let members = std::mem::take(&mut *capture.members.lock().unwrap_or_else(PoisonError::into_inner));
    let ends: Vec<u64> = members.iter().filter_map(|s| s.capture()).flat_map(|c| c.after).collect();
    members.iter().for_each(|member| member.set_capture(None));
    capture.graph.set_captured(false);
    let problem = match capture.check() {
        Ok(()) if ends.iter().all(|end| comes_before(&capture.graph, *end, &capture.after)) => None,
        Ok(()) => Some(CudaError::StreamCaptureUnjoined),
        Err(broken) => Some(broken),
    };
    match problem {
        None => Ok(capture.graph),
        Some(problem) => {
            capture.graph.destroy()?;
            Err(problem)
        }
    }
}

/// Whether `node` is one of `ends` or comes before one.
fn comes_before(graph: &Graph, node: u64, ends: &[u64]) -> bool {
    let after: HashMap<u64, Vec<u64>> = graph.nodes().into_iter().map(|n| (n.handle, n.after)).collect();
    let (mut open, mut seen) = (ends.to_vec(), HashSet::new());
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(after.get(&next).into_iter().flatten());
        }
    }
    seen.contains(&node)
}
