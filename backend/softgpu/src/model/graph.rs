//! Graphs: work that is described once and done as often as it is launched; and capture, which describes instead of doing.
//!
//! A launch does the nodes one after another, in an order that their dependencies allow.

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Context;
use super::copy::{Copy, Fill};
use super::handle::{self, Kind};
use super::launch::LaunchWork;
use super::stream::Stream;
use super::work::{Work, next_id};
use super::{CudaError, Result, state};

/// `CUhostFn`.
pub type HostFunction = unsafe extern "C" fn(*mut c_void);

/// A function of the program and what it gets, which another thread calls.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    /// The function.
    pub function: HostFunction,
    /// Its argument: an address, or any number.
    pub data: usize,
}

impl HostCall {
    /// What the program gave.
    pub fn new(function: HostFunction, data: *mut c_void) -> HostCall {
        HostCall { function, data: data.expose_provenance() }
    }

    fn call(self) {
        // SAFETY: the caller of the exported function answers for the function and what it gives it.
        unsafe { (self.function)(std::ptr::with_exposed_provenance_mut(self.data)) }
    }
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Op {
    /// A kernel.
    Kernel(LaunchWork),
    /// A copy.
    Copy(Box<Copy>),
    /// A memset.
    Fill(Fill),
    /// A function of the program.
    Host(HostCall),
    /// Nothing.
    Empty,
}

impl Op {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Op::Kernel(_) => 0,
            Op::Copy(_) => 1,
            Op::Fill(_) => 2,
            Op::Host(_) => 3,
            Op::Empty => 5,
        }
    }

    /// The work of one launch.
    pub fn work(&self) -> Work {
        match self.clone() {
            Op::Kernel(launch) => Work::Launch(Box::new(launch)),
            Op::Copy(copy) => Work::Task(Box::new(move |_| copy.run())),
            Op::Fill(fill) => Work::Task(Box::new(move |_| fill.run())),
            Op::Host(host) => Work::Task(Box::new(move |_| host.call())),
            Op::Empty => Work::Wait,
        }
    }
}

/// Gives `op` to `stream`: to be done, or, while the stream captures, to its graph.
pub fn give(context: &Context, stream: &Arc<Stream>, op: Op) -> Result {
    if stream.captures() {
        return capture_op(stream, op);
    }
    context.submit(stream, Vec::new(), op.work()).map(drop)
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The `CUgraphNode`.
    pub handle: u64,
    /// What it does.
    pub op: Op,
    /// The nodes that come before it.
    pub after: Vec<u64>,
}

/// A `CUgraph`.
#[derive(Debug)]
pub struct Graph {
    handle: u64,
    nodes: Mutex<Vec<Node>>,
}

impl Graph {
    /// An empty graph, which the state knows.
    pub fn create() -> Result<Arc<Graph>> {
        let graph = Arc::new(Graph { handle: handle::new_handle(Kind::Graph), nodes: Mutex::default() });
        state()?.graphs.insert(graph.handle, Arc::clone(&graph));
        Ok(graph)
    }

    /// The `CUgraph`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node after others of this graph; its handle.
    pub fn add(self: &Arc<Self>, op: Op, after: &[u64]) -> Result<u64> {
        let mut nodes = self.lock();
        if !after.iter().all(|wanted| nodes.iter().any(|node| node.handle == *wanted)) {
            return Err(CudaError::InvalidValue);
        }
        let handle = handle::new_handle(Kind::GraphNode);
        nodes.push(Node { handle, op, after: after.to_vec() });
        drop(nodes);
        state()?.graph_nodes.insert(handle, Arc::clone(self));
        Ok(handle)
    }

    /// All nodes, in the order in which they were added.
    pub fn nodes(&self) -> Vec<Node> {
        self.lock().clone()
    }

    /// Works on one node.
    pub fn with_node<R>(&self, handle: u64, work: impl FnOnce(&mut Node) -> R) -> Result<R> {
        self.lock().iter_mut().find(|node| node.handle == handle).map(work).ok_or(CudaError::InvalidValue)
    }

    /// Takes a node out, with its edges.
    pub fn remove(&self, handle: u64) -> Result {
        let mut nodes = self.lock();
        nodes.retain(|node| node.handle != handle);
        nodes.iter_mut().for_each(|node| node.after.retain(|before| *before != handle));
        state()?.graph_nodes.remove(handle).map(drop)
    }

    /// Ends the graph and its nodes.
    pub fn destroy(&self) -> Result {
        let state = state()?;
        state.graphs.remove(self.handle)?;
        for node in self.lock().drain(..) {
            let _ = state.graph_nodes.remove(node.handle);
        }
        Ok(())
    }

    /// The nodes in an order that the dependencies allow; `INVALID_VALUE` if there is none.
    pub fn in_order(&self) -> Result<Vec<Node>> {
        let mut left = self.nodes();
        let (mut done, mut ordered) = (HashSet::new(), Vec::new());
        while !left.is_empty() {
            let (ready, waiting): (Vec<Node>, Vec<Node>) =
                left.into_iter().partition(|node| node.after.iter().all(|before| done.contains(before)));
            if ready.is_empty() {
                return Err(CudaError::InvalidValue);
            }
            done.extend(ready.iter().map(|node| node.handle));
            ordered.extend(ready);
            left = waiting;
        }
        Ok(ordered)
    }
}

/// A `CUgraphExec`.
#[derive(Debug)]
pub struct Exec {
    handle: u64,
    /// The flags it was made with.
    pub flags: u64,
    steps: Mutex<Vec<Node>>,
}

impl Exec {
    /// What is launched: a copy of the graph as it is now.
    pub fn create(graph: &Graph, flags: u64) -> Result<Arc<Exec>> {
        let steps = Mutex::new(graph.in_order()?);
        let exec = Arc::new(Exec { handle: handle::new_handle(Kind::GraphExec), flags, steps });
        state()?.graph_execs.insert(exec.handle, Arc::clone(&exec));
        Ok(exec)
    }

    /// The `CUgraphExec`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does all nodes in `stream`.
    pub fn launch(&self, context: &Context, stream: &Arc<Stream>) -> Result {
        if stream.captures() {
            return Err(CudaError::NotSupported);
        }
        let steps: Vec<Op> = self.lock().iter().map(|node| node.op.clone()).collect();
        steps.iter().try_for_each(|op| context.submit(stream, Vec::new(), op.work()).map(drop))
    }

    /// Changes what a node of the graph it was made from does; not its type.
    pub fn set(&self, node: u64, op: Op) -> Result {
        let mut steps = self.lock();
        let step = steps.iter_mut().find(|step| step.handle == node).ok_or(CudaError::InvalidValue)?;
        if step.op.node_type() != op.node_type() {
            return Err(CudaError::InvalidValue);
        }
        step.op = op;
        Ok(())
    }

    /// Takes over what another graph of the same form does; the `CUgraphExecUpdateResult` and the node that differs.
    pub fn update(&self, graph: &Graph) -> Result<(u32, u64)> {
        const TOPOLOGY_CHANGED: u32 = 2;
        const NODE_TYPE_CHANGED: u32 = 3;
        let new = graph.in_order()?;
        let mut steps = self.lock();
        if new.len() != steps.len() {
            return Ok((TOPOLOGY_CHANGED, 0));
        }
        let place = |nodes: &[Node]| -> HashMap<u64, usize> {
            nodes.iter().enumerate().map(|(index, node)| (node.handle, index)).collect()
        };
        let (old_places, new_places) = (place(&steps), place(&new));
        for (old, new) in steps.iter().zip(&new) {
            let edges = |node: &Node, places: &HashMap<u64, usize>| -> HashSet<Option<usize>> {
                node.after.iter().map(|before| places.get(before).copied()).collect()
            };
            if edges(old, &old_places) != edges(new, &new_places) {
                return Ok((TOPOLOGY_CHANGED, new.handle));
            }
            if old.op.node_type() != new.op.node_type() {
                return Ok((NODE_TYPE_CHANGED, new.handle));
            }
        }
        for (old, new) in steps.iter_mut().zip(new) {
            old.op = new.op;
        }
        Ok((0, 0))
    }
}

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

/// From now on `stream` describes.
pub fn begin(stream: &Arc<Stream>) -> Result {
    if stream.captures() {
        return Err(CudaError::IllegalState);
    }
    let capture = Capture {
        graph: Graph::create()?,
        id: next_id(),
        after: Vec::new(),
        is_origin: true,
        broken: Arc::default(),
        members: Arc::new(Mutex::new(vec![Arc::clone(stream)])),
    };
    stream.set_capture(Some(capture));
    Ok(())
}

fn capture_op(stream: &Arc<Stream>, op: Op) -> Result {
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
    let members = std::mem::take(&mut *capture.members.lock().unwrap_or_else(PoisonError::into_inner));
    let ends: Vec<u64> = members.iter().filter_map(|s| s.capture()).flat_map(|c| c.after).collect();
    members.iter().for_each(|member| member.set_capture(None));
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
