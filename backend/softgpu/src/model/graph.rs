//! Graphs: work that is described once and done as often as it is launched; and capture, which describes instead of doing.
//!
//! A launch does the nodes one after another, in an order that their dependencies allow.

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use super::capture::{
    Capture, begin, begin_in, capture_op, check_legacy, end, exchange_mode, forbid, forbid_unsafe, join,
    update,
};
use super::conditional::{Choice, Condition};
use super::context::Context;
use super::copy::{Copy, Fill};
use super::event::Event;
pub use super::graph_exec::Exec;
use super::graph_memory::GraphMemory;
use super::handle::{self, Kind};
use super::launch::LaunchWork;
use super::memory_operation::Operation;
use super::stream::Stream;
use super::user_object::{Destroyer, Objects};
use super::work::{Core, Work};
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

    /// Calls it.
    pub fn call(self) {
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
    /// The nodes of another graph.
    Child(Arc<Graph>),
    /// The same, as they were when it was made ready to launch.
    Nested(Vec<Node>),
    /// Waits for an event's last record.
    Wait(Arc<Event>),
    /// Records an event.
    Record(Arc<Event>),
    /// Signals external semaphores, of which there are none, or waits for them.
    Semaphores {
        /// It waits.
        wait: bool,
    },
    /// Allocates memory.
    Allocate(Arc<GraphMemory>),
    /// Frees memory.
    Free(Arc<GraphMemory>),
    /// Waits for and writes values.
    Operations(Vec<Operation>),
    /// Bodies of which a value chooses.
    Conditional(Choice<Arc<Graph>>),
    /// The same, as they were when it was made ready to launch.
    Ready(Choice<Vec<Node>>),
}

impl Op {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Op::Kernel(_) => 0,
            Op::Copy(_) => 1,
            Op::Fill(_) => 2,
            Op::Host(_) => 3,
            Op::Child(_) | Op::Nested(_) => 4,
            Op::Empty => 5,
            Op::Wait(_) => 6,
            Op::Record(_) => 7,
            Op::Semaphores { wait } => 8 + u32::from(*wait),
            Op::Allocate(_) => 10,
            Op::Free(_) => 11,
            Op::Operations(_) => 12,
            Op::Conditional(_) | Op::Ready(_) => 13,
        }
    }

    /// The work of one launch; events and memory are the launch's to see to.
    pub fn work(&self) -> Work {
        match self.clone() {
            Op::Kernel(launch) => Work::Launch(Box::new(launch)),
            Op::Empty | Op::Semaphores { .. } => Work::Wait,
            Op::Wait(_) | Op::Record(_) | Op::Allocate(_) | Op::Free(_) => Work::Wait,
            op => Work::Task(Box::new(move |core| op.run(core))),
        }
    }

    /// Does it now.
    pub fn run(self, core: &Core) {
        if core.fault_code() != 0 {
            return;
        }
        match self {
            Op::Kernel(launch) => launch.run(core),
            Op::Copy(copy) => copy.run(),
            Op::Fill(fill) => fill.run(),
            Op::Host(host) => host.call(),
            Op::Operations(list) => list.iter().for_each(|operation| operation.run(core)),
            Op::Nested(nodes) => run_all(&nodes, core),
            Op::Ready(choice) => choice.run(core),
            Op::Child(_) | Op::Conditional(_) | Op::Empty | Op::Semaphores { .. } => {}
            Op::Wait(_) | Op::Record(_) | Op::Allocate(_) | Op::Free(_) => {}
        }
    }

    /// The operation as it is now, whatever becomes of the graphs in it.
    pub fn ready(&self) -> Result<Op> {
        Ok(match self {
            Op::Child(graph) => Op::Nested(graph.ready_nodes()?),
            Op::Conditional(choice) => Op::Ready(choice.ready()?),
            op => op.clone(),
        })
    }

    /// The graphs that belong to it.
    pub fn graphs(&self) -> Vec<Arc<Graph>> {
        match self {
            Op::Child(graph) => vec![Arc::clone(graph)],
            Op::Conditional(choice) => choice.bodies.clone(),
            _ => Vec::new(),
        }
    }

    /// The same in a copy of its graph.
    fn copied(&self) -> Result<Op> {
        match self {
            Op::Child(graph) => Ok(Op::Child(graph.copy()?)),
            Op::Conditional(_) | Op::Allocate(_) | Op::Free(_) => Err(CudaError::NotSupported),
            op => Ok(op.clone()),
        }
    }
}

/// Does nodes that are in order, one after another.
pub fn run_all(nodes: &[Node], core: &Core) {
    nodes.iter().for_each(|node| node.op.clone().run(core));
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
    /// Attributes of a kernel that were set.
    pub attributes: HashMap<u32, [u8; 64]>,
}

/// A `CUgraph`.
#[derive(Debug)]
pub struct Graph {
    handle: u64,
    nodes: Mutex<Vec<Node>>,
    /// Of a clone: its nodes by those of the graph that it was made of.
    origins: Mutex<HashMap<u64, u64>>,
    objects: Mutex<Objects>,
    /// A capture adds to it.
    is_captured: AtomicBool,
}

impl Graph {
    /// An empty graph, which the state knows.
    pub fn create() -> Result<Arc<Graph>> {
        let graph = Arc::new(Graph {
            handle: handle::new_handle(Kind::Graph),
            nodes: Mutex::default(),
            origins: Mutex::default(),
            objects: Mutex::default(),
            is_captured: AtomicBool::new(false),
        });
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
        nodes.push(Node { handle, op, after: after.to_vec(), attributes: HashMap::new() });
        drop(nodes);
        state()?.graph_nodes.insert(handle, Arc::clone(self));
        Ok(handle)
    }

    /// A capture that adds to it begins or ends.
    pub fn set_captured(&self, is_captured: bool) {
        self.is_captured.store(is_captured, Ordering::Release);
    }

    /// Refuses what cannot be done while a capture adds to it.
    pub fn check_not_captured(&self) -> Result {
        if self.is_captured.load(Ordering::Acquire) { Err(CudaError::IllegalState) } else { Ok(()) }
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
        let graphs = nodes.iter().filter(|node| node.handle == handle).flat_map(|node| node.op.graphs());
        for graph in graphs.collect::<Vec<_>>() {
            let _ = graph.destroy();
        }
        nodes.retain(|node| node.handle != handle);
        nodes.iter_mut().for_each(|node| node.after.retain(|before| *before != handle));
        state()?.graph_nodes.remove(handle).map(drop)
    }

    /// Ends the graph and its nodes.
    pub fn destroy(&self) -> Result {
        let state = state()?;
        state.graphs.remove(self.handle)?;
        // Conditions stay: launches of what was instantiated may set them.
        for node in self.lock().drain(..) {
            let _ = state.graph_nodes.remove(node.handle);
            for graph in node.op.graphs() {
                let _ = graph.destroy();
            }
        }
        drop(std::mem::take(&mut *self.objects()));
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

    /// The nodes in order, as they are now.
    pub fn ready_nodes(&self) -> Result<Vec<Node>> {
        let mut nodes = self.in_order()?;
        nodes.iter_mut().try_for_each(|node| node.op.ready().map(|op| node.op = op))?;
        Ok(nodes)
    }

    /// A new graph with the same nodes. What cannot be copied: `NOT_SUPPORTED`.
    pub fn copy(&self) -> Result<Arc<Graph>> {
        let nodes = self.nodes();
        let ops = nodes.iter().map(|node| node.op.copied()).collect::<Result<Vec<_>>>()?;
        let graph = Graph::create()?;
        let names: HashMap<u64, u64> =
            nodes.iter().map(|node| (node.handle, handle::new_handle(Kind::GraphNode))).collect();
        let new = |old: &u64| names.get(old).copied().unwrap_or(0);
        for (node, op) in nodes.into_iter().zip(ops) {
            let handle = new(&node.handle);
            let after = node.after.iter().map(new).collect();
            graph.lock().push(Node { handle, op, after, ..node });
            state()?.graph_nodes.insert(handle, Arc::clone(&graph));
        }
        *graph.origins.lock().unwrap_or_else(PoisonError::into_inner) = names;
        *graph.objects() = self.objects().clone();
        Ok(graph)
    }

    /// The node of this clone that was made of `original`.
    pub fn clone_of(&self, original: u64) -> Option<u64> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).get(&original).copied()
    }

    /// What it keeps for the program.
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it and the graphs in it keep for the program.
    pub fn all_objects(&self) -> Vec<Arc<Destroyer>> {
        let mut all = self.objects().all();
        all.extend(self.nodes().iter().flat_map(|node| node.op.graphs()).flat_map(|g| g.all_objects()));
        all
    }

    /// The conditions of it and the graphs in it.
    pub fn conditions(&self) -> Result<Vec<Arc<Condition>>> {
        let mut all = state()?.conditions.all();
        all.retain(|condition| condition.graph() == self.handle);
        for graph in self.nodes().iter().flat_map(|node| node.op.graphs()) {
            all.extend(graph.conditions()?);
        }
        Ok(all)
    }
}
