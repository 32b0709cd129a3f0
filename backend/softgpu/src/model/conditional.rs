//! Conditional nodes: a value that kernels set chooses which graph runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::graph::{Graph, Node, run_all};
use super::handle::{self, Kind};
use super::work::Core;
use super::{CudaError, Result, state};

/// What a `CUgraphConditionalHandle` means.
#[derive(Debug)]
pub struct Condition {
    handle: u64,
    graph: u64,
    /// What it is at the begin of each launch.
    default: Option<u32>,
    value: AtomicU32,
}

impl Condition {
    /// A condition of a graph, which the state knows.
    pub fn create(graph: &Graph, value: u32, is_default: bool) -> Result<u64> {
        let handle = handle::new_handle(Kind::Condition);
        let default = is_default.then_some(value);
        let condition = Condition { handle, graph: graph.handle(), default, value: AtomicU32::new(0) };
        state()?.conditions.insert(handle, Arc::new(condition));
        Ok(handle)
    }

    /// The handle of its graph.
    pub fn graph(&self) -> u64 {
        self.graph
    }

    /// The `CUgraphConditionalHandle`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// A launch begins.
    pub fn reset(&self) {
        if let Some(default) = self.default {
            self.set(default);
        }
    }

    /// What `cudaGraphSetConditional` does.
    pub fn set(&self, value: u32) {
        self.value.store(value, Ordering::Release);
    }

    fn get(&self) -> u32 {
        self.value.load(Ordering::Acquire)
    }
}

/// How a value chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    If,
    While,
    Switch,
}

/// A conditional node's bodies.
#[derive(Clone, Debug)]
pub struct Choice<Body> {
    condition: Arc<Condition>,
    how: How,
    /// What is chosen of.
    pub bodies: Vec<Body>,
}

impl Choice<Arc<Graph>> {
    /// New bodies, which the state knows. `kind`: `CUgraphConditionalNodeType`.
    pub fn create(condition: Arc<Condition>, kind: u32, size: u32) -> Result<Choice<Arc<Graph>>> {
        let how = match (kind, size) {
            (0, 1 | 2) => How::If,
            (1, 1) => How::While,
            (2, 1..) => How::Switch,
            _ => return Err(CudaError::InvalidValue),
        };
        let bodies = (0..size).map(|_| Graph::create()).collect::<Result<_>>()?;
        Ok(Choice { condition, how, bodies })
    }

    /// The bodies as they are now.
    pub fn ready(&self) -> Result<Choice<Vec<Node>>> {
        let bodies = self.bodies.iter().map(|body| body.ready_nodes()).collect::<Result<Vec<_>>>()?;
        // Allowed are kernels, copies, memsets, empty nodes, embedded graphs and conditional nodes.
        let is_allowed = |node: &Node| matches!(node.op.node_type(), 0..=2 | 4 | 5 | 13);
        if !bodies.iter().flatten().all(is_allowed) {
            return Err(CudaError::NotSupported);
        }
        Ok(Choice { condition: Arc::clone(&self.condition), how: self.how, bodies })
    }
}

impl Choice<Vec<Node>> {
    /// Does what the value chooses.
    pub fn run(&self, core: &Core) {
        let body = |index: usize| self.bodies.get(index).into_iter().for_each(|nodes| run_all(nodes, core));
        match self.how {
            How::If => body(usize::from(self.condition.get() == 0)),
            How::While => {
                while self.condition.get() != 0 && core.fault_code() == 0 {
                    body(0);
                }
            }
            How::Switch => body(usize::try_from(self.condition.get()).unwrap_or(usize::MAX)),
        }
    }
}
