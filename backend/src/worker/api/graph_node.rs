//! Nodes of memory operations, embedded graphs and conditional nodes.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph::dependencies,
    stream_memory_operation::{Operation, operations},
    thread::Thread,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::plain::Blob8;

/// CUgraphNodeParams.
type NodeParams = Blob8<256>;
/// Where the part of the type begins.
const INNER: usize = 16;
/// CUgraphNodeType.
pub const MEMCPY: u32 = 1;
pub const HOST: u32 = 3;
const GRAPH: u32 = 4;
const CONDITIONAL: u32 = 13;
/// The most bodies of a conditional node.
const MAX_BODIES: usize = 4096;

/// CUDA_BATCH_MEM_OP_NODE_PARAMS.
#[repr(C)]
struct BatchNode {
    context: u64,
    count: u32,
    operations: *mut Operation,
    flags: u32,
}
const _: () = assert!(size_of::<BatchNode>() == 32);

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphAddBatchMemOpNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    ctx: u64,
    list: Option<Vec<Operation>>,
    count: u32,
    flags: u32,
) -> Result<u64, CudaError> {
    let add = t.driver.cuGraphAddBatchMemOpNode.ok_or(NOT_SUPPORTED)?;
    let mut list = operations(list, count)?;
    let context = t.optional_context(ctx)?;
    let wanted = BatchNode { context, count, operations: list.as_mut_ptr(), flags };
    let (after, n) = dependencies(after.as_ref(), n)?;
    let mut node = 0_u64;
    // SAFETY: live handles of this client; private parameters that outlive the call, which copies them.
    check(unsafe { add(&raw mut node, graph, after, n, (&raw const wanted).cast()) })?;
    t.number_graphnode(node, graph)
}

pub fn vgpuGraphBatchMemOpNodeSetParams(
    t: &mut Thread,
    exec: u64,
    node: u64,
    ctx: u64,
    list: Option<Vec<Operation>>,
    count: u32,
    flags: u32,
) -> Result<(), CudaError> {
    let mut list = operations(list, count)?;
    let context = t.optional_context(ctx)?;
    let wanted = BatchNode { context, count, operations: list.as_mut_ptr(), flags };
    let place = (&raw const wanted).cast();
    match t.optional_exec(exec)? {
        0 => {
            let set = t.driver.cuGraphBatchMemOpNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(node, place) })
        }
        exec => {
            let set = t.driver.cuGraphExecBatchMemOpNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(exec, node, place) })
        }
    }
}

/// Context, operations, their count, flags.
type Batch = (u64, Vec<Operation>, u32, u32);

pub fn vgpuGraphBatchMemOpNodeGetParams(
    t: &mut Thread,
    node: u64,
    room: usize,
    _: usize,
) -> Result<Batch, CudaError> {
    let get = t.driver.cuGraphBatchMemOpNodeGetParams.ok_or(NOT_SUPPORTED)?;
    let mut found = BatchNode { context: 0, count: 0, operations: std::ptr::null_mut(), flags: 0 };
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, (&raw mut found).cast()) })?;
    let given = room.min(found.count as usize);
    let mut list = if found.operations.is_null() {
        Vec::new()
    } else {
        // SAFETY: the driver's own array of `count` operations, valid until the node changes.
        unsafe { std::slice::from_raw_parts(found.operations, given) }.to_vec()
    };
    // The last member is the driver's own.
    list.iter_mut().for_each(|o| o.0[32..].fill(0));
    Ok((t.number_context(found.context), list, found.count, found.flags))
}

/// Adds a node by the structure for any type, in which the driver may write.
fn add_any(
    t: &Thread,
    graph: u64,
    after: Option<&Vec<u64>>,
    n: usize,
    parameters: &mut NodeParams,
) -> Result<u64, CudaError> {
    let (after, n) = dependencies(after, n)?;
    let mut node = 0_u64;
    let place = &raw mut *parameters;
    let status = if let Some(add) = t.driver.cuGraphAddNode_v2 {
        // SAFETY: live handles of this client; a private structure of this type that outlives the call.
        unsafe { add(&raw mut node, graph, after, std::ptr::null(), n, place) }
    } else {
        let add = t.driver.cuGraphAddNode.ok_or(NOT_SUPPORTED)?;
        // SAFETY: as above.
        unsafe { add(&raw mut node, graph, after, n, place) }
    };
    check(status)?;
    Ok(node)
}

/// Puts the type and the numbers of its part, in order, into a structure.
fn parameters(kind: u32, words: &[(usize, u64)]) -> NodeParams {
    let mut all = NodeParams::default();
    all.0[..4].copy_from_slice(&kind.to_le_bytes());
    for &(at, value) in words {
        all.0[INNER + at..INNER + at + 8].copy_from_slice(&value.to_le_bytes());
    }
    all
}

pub fn vgpuGraphAddChildGraphNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    child: u64,
    ownership: u32,
) -> Result<u64, CudaError> {
    /// CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE.
    const MOVE: u32 = 1;
    let mut wanted = parameters(GRAPH, &[(0, child), (8, u64::from(ownership))]);
    let node = add_any(t, graph, after.as_ref(), n, &mut wanted)?;
    if ownership == MOVE {
        // It lives on as the node's, and ends with this graph.
        t.number_graph(child, graph)?;
    }
    t.number_graphnode(node, graph)
}

/// What conditional nodes have, by the driver's handles.
#[derive(Default)]
pub struct Conditionals {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Conditional handles that the driver gave, with their graphs.
    handles: HashSet<(u64, u64)>,
    /// Bodies of a node.
    bodies: HashMap<u64, Vec<u64>>,
}

impl Conditionals {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A graph has ended.
    pub fn forget_graph(&self, graph: u64) {
        self.lock().handles.retain(|&(_, owner)| owner != graph);
    }

    fn bodies(&self, node: u64) -> Vec<u64> {
        self.lock().bodies.get(&node).cloned().unwrap_or_default()
    }

    /// A node has ended.
    pub fn forget_node(&self, node: u64) {
        self.lock().bodies.remove(&node);
    }
}

/// The driver's own value: kernels of the program get it among their parameters.
pub fn cuGraphConditionalHandleCreate(
    t: &mut Thread,
    graph: u64,
    ctx: u64,
    default_value: u32,
    flags: u32,
) -> Result<u64, CudaError> {
    let create = t.driver.cuGraphConditionalHandleCreate.ok_or(NOT_SUPPORTED)?;
    let mut handle = 0_u64;
    // SAFETY: live handles of this client, and a place that outlives the call.
    check(unsafe { create(&raw mut handle, graph, ctx, default_value, flags) })?;
    t.session.conditionals.lock().handles.insert((handle, graph));
    Ok(handle)
}

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphAddConditionalNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    handle: u64,
    kind: u32,
    size: u32,
    ctx: u64,
    room: usize,
    _: usize,
) -> Result<(u64, Vec<u64>), CudaError> {
    let known = t.session.conditionals.lock().handles.iter().any(|&(known, _)| known == handle);
    if !known || room != size as usize || room > MAX_BODIES {
        return Err(INVALID_VALUE);
    }
    let context = t.optional_context(ctx)?;
    let shape = u64::from(kind) | u64::from(size) << 32;
    let mut wanted = parameters(CONDITIONAL, &[(0, handle), (8, shape), (24, context)]);
    let node = add_any(t, graph, after.as_ref(), n, &mut wanted)?;
    let mut word = [0; 8];
    word.copy_from_slice(&wanted.0[INNER + 16..INNER + 24]);
    let bodies = std::ptr::with_exposed_provenance::<u64>(u64::from_le_bytes(word) as usize);
    if bodies.is_null() {
        return Err(NOT_SUPPORTED);
    }
    // SAFETY: the driver's own array of `size` graphs, valid as long as the node.
    let bodies = unsafe { std::slice::from_raw_parts(bodies, room) }.to_vec();
    let numbers = bodies.iter().map(|&body| t.number_graph(body, graph)).collect::<Result<_, _>>()?;
    t.session.conditionals.lock().bodies.insert(node, bodies);
    Ok((t.number_graphnode(node, graph)?, numbers))
}

/// CUgraphNodeType of a node; `None` if the driver does not say.
pub fn type_of(t: &Thread, node: u64) -> Option<u32> {
    let ask = t.driver.cuGraphNodeGetType?;
    let mut kind = 0;
    // SAFETY: a live node, and a place that outlives the call.
    (unsafe { ask(node, &raw mut kind) } == 0).then_some(kind)
}

impl Thread {
    /// A context, or 0 for none.
    fn optional_context(&self, number: u64) -> Result<u64, CudaError> {
        if number == 0 { Ok(0) } else { self.context(number) }
    }

    /// The driver's graphs that a node has: they end with it.
    pub fn graphs_in(&self, node: u64) -> Vec<u64> {
        match type_of(self, node) {
            Some(GRAPH) => {
                let mut child = 0_u64;
                let ask = self.driver.cuGraphChildGraphNodeGetGraph;
                // SAFETY: a live node, and a place that outlives the call.
                let found = ask.is_some_and(|ask| unsafe { ask(node, &raw mut child) } == 0);
                if found { vec![child] } else { Vec::new() }
            }
            Some(CONDITIONAL) => self.session.conditionals.bodies(node),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_where_the_driver_reads_them() {
        let p = parameters(13, &[(0, 0x11), (8, 2 | 1 << 32), (24, 0x22)]).0;
        assert_eq!((p[0], p[16], p[24], p[28], p[40]), (13, 0x11, 2, 1, 0x22));
        assert_eq!(p.iter().filter(|&&b| b != 0).count(), 5);
    }
}
