//! Graphs that are ready to launch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::conditional::Condition;
use super::context::Context;
use super::event::Marker;
use super::graph::{Graph, Node, Op, capture_op};
use super::handle::{self, Kind};
use super::stream::Stream;
use super::user_object::Destroyer;
use super::work::Work;
use super::{CudaError, Result, state};

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const AUTO_FREE: u64 = 1;
/// Kernels, copies and memsets can be switched off: types 0 to 2.
const LAST_SWITCHED: u32 = 2;

/// A `CUgraphExec`.
#[derive(Debug)]
pub struct Exec {
    handle: u64,
    /// The flags it was made with.
    pub flags: u64,
    steps: Mutex<Vec<Node>>,
    /// Nodes that are switched off.
    disabled: Mutex<HashSet<u64>>,
    conditions: Mutex<Vec<Arc<Condition>>>,
    /// What the program keeps for it.
    objects: Mutex<Vec<Arc<Destroyer>>>,
}

impl Exec {
    /// What is launched: a copy of the graph as it is now.
    pub fn create(graph: &Graph, flags: u64) -> Result<Arc<Exec>> {
        let exec = Arc::new(Exec {
            handle: handle::new_handle(Kind::GraphExec),
            flags,
            steps: Mutex::new(graph.ready_nodes()?),
            disabled: Mutex::default(),
            conditions: Mutex::new(graph.conditions()?),
            objects: Mutex::new(graph.all_objects()),
        });
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

    /// Does all nodes in `stream`; a capturing stream gets them as one node.
    pub fn launch(&self, context: &Context, stream: &Arc<Stream>) -> Result {
        let steps = self.enabled();
        if stream.captures() {
            return capture_op(stream, Op::Nested(steps));
        }
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !conditions.is_empty() {
            let reset = Box::new(move |_: &_| conditions.iter().for_each(|condition| condition.reset()));
            context.submit(stream, Vec::new(), Work::Task(reset))?;
        }
        self.submit(&steps, context, stream)?;
        // What the program keeps for the graph it keeps for its launches too.
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !objects.is_empty() {
            let end = Box::new(move |_: &_| drop(objects));
            context.submit(stream, Vec::new(), Work::Task(end))?;
        }
        Ok(())
    }

    fn submit(&self, steps: &[Node], context: &Context, stream: &Arc<Stream>) -> Result {
        for node in steps {
            match &node.op {
                Op::Nested(nodes) => self.submit(nodes, context, stream)?,
                Op::Wait(event) => {
                    let after = event.point().into_iter().collect();
                    context.submit(stream, after, Work::Wait)?;
                }
                Op::Record(event) => {
                    let marker = Arc::new(Marker::default());
                    let point = context.submit(stream, Vec::new(), Work::Marker(Arc::clone(&marker)))?;
                    event.set_record(point, marker);
                }
                Op::Allocate(memory) => memory.allocate(self.flags & AUTO_FREE != 0)?,
                Op::Free(memory) => memory.free()?,
                op => drop(context.submit(stream, Vec::new(), op.work())?),
            }
        }
        Ok(())
    }

    fn enabled(&self) -> Vec<Node> {
        let disabled = self.disabled.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().iter().filter(|node| !disabled.contains(&node.handle)).cloned().collect()
    }

    /// Whether a node is switched on; `INVALID_VALUE` for one that cannot be switched.
    pub fn is_enabled(&self, node: u64) -> Result<bool> {
        let steps = self.lock();
        let step = steps.iter().find(|step| step.handle == node).ok_or(CudaError::InvalidValue)?;
        if step.op.node_type() > LAST_SWITCHED {
            return Err(CudaError::InvalidValue);
        }
        Ok(!self.disabled.lock().unwrap_or_else(PoisonError::into_inner).contains(&node))
    }

    /// Switches a node on or off.
    pub fn enable(&self, node: u64, enabled: bool) -> Result {
        self.is_enabled(node)?;
        let mut disabled = self.disabled.lock().unwrap_or_else(PoisonError::into_inner);
        if enabled {
            disabled.remove(&node);
        } else {
            disabled.insert(node);
        }
        Ok(())
    }

    /// Changes what a node of the graph it was made from does; not its type.
    pub fn set(&self, node: u64, op: Op) -> Result {
        let mut steps = self.lock();
        let step = steps.iter_mut().find(|step| step.handle == node).ok_or(CudaError::InvalidValue)?;
        if step.op.node_type() != op.node_type() {
            return Err(CudaError::InvalidValue);
        }
        step.op = op.ready()?;
        Ok(())
    }

    /// Takes over what another graph of the same form does; the `CUgraphExecUpdateResult` and the node that differs.
    pub fn update(&self, graph: &Graph) -> Result<(u32, u64)> {
        const TOPOLOGY_CHANGED: u32 = 2;
        const NODE_TYPE_CHANGED: u32 = 3;
        let new = graph.ready_nodes()?;
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
        *self.conditions.lock().unwrap_or_else(PoisonError::into_inner) = graph.conditions()?;
        let objects = graph.all_objects();
        let ended =
            std::mem::replace(&mut *self.objects.lock().unwrap_or_else(PoisonError::into_inner), objects);
        drop(ended);
        Ok((0, 0))
    }
}
