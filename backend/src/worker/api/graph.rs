//! Graphs, their nodes, and what is made of them.
#![allow(non_snake_case)]

use super::{
    callback::{argument, host_function_address},
    error::{CudaError, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, check},
    graph_edges::{Neighbours, neighbours},
    graph_pageable::{self, Role},
    thread::Thread,
};
use std::{
    ffi::c_void,
    sync::{MutexGuard, PoisonError},
};
use vgpu_spec::{
    plain::{Blob1, Blob8},
    structure::launch_attribute::{self, Content},
};

/// The most entries of a list in a reply.
pub const MAX_LIST: usize = 8192;
/// CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH: kernels would be given the driver's own handle.
const DEVICE_LAUNCH: u64 = 4;

/// CUgraphEdgeData.
pub type EdgeData = Blob1<8>;

impl Thread {
    pub fn graph(&self, number: u64) -> Result<u64, CudaError> {
        self.session.graphs.table.get(number)
    }

    pub fn graphnode(&self, number: u64) -> Result<u64, CudaError> {
        self.session.graph_nodes.table.get(number)
    }

    pub fn graphexec(&self, number: u64) -> Result<u64, CudaError> {
        self.session.graph_execs.table.get(number)
    }

    /// An executable graph, or 0 for none.
    pub fn optional_exec(&self, number: u64) -> Result<u64, CudaError> {
        if number == 0 { Ok(0) } else { self.graphexec(number) }
    }

    fn graph_ends(&self) -> MutexGuard<'_, ()> {
        self.session.graph_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn number_graph(&self, real: u64, owner: u64) -> Result<u64, CudaError> {
        let _order = self.graph_ends();
        self.session.graphs.number(real, owner)
    }

    /// The number of a node that the driver names: of a copy's helper, that of the copy.
    pub fn number_graphnode(&self, real: u64, owner: u64) -> Result<u64, CudaError> {
        let real = if real == 0 { 0 } else { graph_pageable::shown(self, real) };
        let _order = self.graph_ends();
        self.session.graph_nodes.number(real, owner)
    }

    pub fn number_graphexec(&self, real: u64, owner: u64) -> Result<u64, CudaError> {
        self.session.graph_execs.number(real, owner)
    }

    /// The driver's graph of a node.
    pub fn graph_of(&self, node: u64) -> u64 {
        self.session.graph_nodes.owner(node)
    }

    fn forget_graph(&self, real: u64) {
        self.session.graphs.forget(real);
        self.session.conditionals.forget_graph(real);
        for node in self.session.graph_nodes.owned_by(real) {
            self.session.conditionals.forget_node(node);
            self.session.graph_nodes.forget(node);
        }
        for child in self.session.graphs.owned_by(real) {
            if child != real {
                self.forget_graph(child);
            }
        }
    }

    pub fn take_graphexec(&self, number: u64) -> Result<u64, CudaError> {
        let real = self.graphexec(number)?;
        self.session.graph_execs.forget(real);
        Ok(real)
    }
}

/// Ends a graph, its number, and those of all that is in it. A graph that belongs to a node is not the program's to destroy.
pub fn cuGraphDestroy(t: &mut Thread, graph: u64) -> Result<(), CudaError> {
    if t.session.graphs.owner(graph) != 0 {
        return Err(INVALID_VALUE);
    }
    let destroy = t.driver.cuGraphDestroy.ok_or(NOT_SUPPORTED)?;
    let _order = t.graph_ends();
    // SAFETY: a live graph of this client.
    check(unsafe { destroy(graph) })?;
    t.forget_graph(graph);
    Ok(())
}

/// Ends a node, the helpers of a copy, and what belongs to the node.
pub fn cuGraphDestroyNode(t: &mut Thread, node: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuGraphDestroyNode.ok_or(NOT_SUPPORTED)?;
    let helpers = graph_pageable::helpers(t, node);
    let graphs = t.graphs_in(node);
    let _order = t.graph_ends();
    // SAFETY: a live node of this client.
    check(unsafe { destroy(node) })?;
    for helper in helpers {
        // SAFETY: a live node, of which no number is known.
        unsafe { destroy(helper) };
    }
    t.session.conditionals.forget_node(node);
    t.session.graph_nodes.forget(node);
    graphs.into_iter().for_each(|graph| t.forget_graph(graph));
    Ok(())
}

/// CUDA_GRAPH_INSTANTIATE_PARAMS.
#[repr(C)]
struct Instantiate {
    flags: u64,
    stream: u64,
    error_node: u64,
    result: u32,
    _padding: u32,
}

pub fn vgpuGraphInstantiate(
    t: &mut Thread,
    graph: u64,
    flags: u64,
    stream: u64,
) -> Result<(u64, u32, u64, u32), CudaError> {
    const { assert!(size_of::<Instantiate>() == 32) };
    let mut exec = 0_u64;
    let mut parameters = Instantiate { flags, stream, error_node: 0, result: 0, _padding: 0 };
    let instantiate = t.driver.cuGraphInstantiateWithParams.ok_or(NOT_SUPPORTED)?;
    // SAFETY: live handles of this client, and places that outlive the call.
    let status = unsafe { instantiate(&raw mut exec, graph, (&raw mut parameters).cast()) };
    if status == 0 && flags & DEVICE_LAUNCH != 0 {
        if let Some(destroy) = t.driver.cuGraphExecDestroy {
            // SAFETY: the graph just made, of which no number is known.
            unsafe { destroy(exec) };
        }
        return Err(NOT_SUPPORTED);
    }
    let exec = if status == 0 { t.number_graphexec(exec, 0)? } else { 0 };
    // Nodes of embedded graphs can be named too; they are numbered as this graph's, with which they end.
    let node = t.number_graphnode(parameters.error_node, owner_or(t, parameters.error_node, graph))?;
    Ok((exec, status, node, parameters.result))
}

/// The graph of a node that is known, else `graph`.
fn owner_or(t: &Thread, node: u64, graph: u64) -> u64 {
    match t.graph_of(node) {
        0 => graph,
        known => known,
    }
}

/// CUgraphExecUpdateResultInfo.
#[repr(C)]
#[derive(Default)]
struct UpdateResult {
    result: u32,
    _padding: u32,
    node: u64,
    from: u64,
}

pub fn vgpuGraphExecUpdate(t: &mut Thread, exec: u64, graph: u64) -> Result<(u32, u32, u64, u64), CudaError> {
    let update = t.driver.cuGraphExecUpdate_v2.ok_or(NOT_SUPPORTED)?;
    const { assert!(size_of::<UpdateResult>() == 24) };
    let mut info = UpdateResult::default();
    // SAFETY: live handles of this client, and a place that outlives the call.
    let status = unsafe { update(exec, graph, (&raw mut info).cast()) };
    let node = t.number_graphnode(info.node, owner_or(t, info.node, graph))?;
    let from = t.number_graphnode(info.from, owner_or(t, info.from, graph))?;
    Ok((status, info.result, node, from))
}

/// Asks for the count, then for as many as there is room for: the driver's nodes and the count. With `all`, for as many as there are.
fn list(
    room: usize,
    all: bool,
    mut ask: impl FnMut(*mut u64, *mut usize) -> u32,
) -> Result<(Vec<u64>, usize), CudaError> {
    let mut count = 0;
    check(ask(std::ptr::null_mut(), &raw mut count))?;
    let mut given = if all { count } else { room.min(count) }.min(MAX_LIST);
    let mut nodes = vec![0_u64; given];
    if given > 0 {
        check(ask(nodes.as_mut_ptr(), &raw mut given))?;
    }
    Ok((nodes, count))
}

fn numbers(t: &Thread, graph: u64, nodes: &[u64]) -> Result<Vec<u64>, CudaError> {
    nodes.iter().map(|&n| t.number_graphnode(n, graph)).collect()
}

pub fn vgpuGraphGetNodes(
    t: &mut Thread,
    graph: u64,
    which: u32,
    room: usize,
    _: usize,
) -> Result<(Vec<u64>, usize), CudaError> {
    let ask = match which {
        0 => t.driver.cuGraphGetNodes,
        1 => t.driver.cuGraphGetRootNodes,
        _ => return Err(INVALID_VALUE),
    };
    let ask = ask.ok_or(NOT_SUPPORTED)?;
    let hidden = which == 0 && graph_pageable::recorded();
    // SAFETY: a live graph; the list has as much room as the count says.
    let (mut nodes, mut count) = list(room, hidden, |nodes, count| unsafe { ask(graph, nodes, count) })?;
    if hidden {
        let before = nodes.len();
        nodes.retain(|&node| graph_pageable::role(t, node).is_none());
        count -= before - nodes.len();
        nodes.truncate(room);
    }
    Ok((numbers(t, graph, &nodes)?, count))
}

/// Leaves out what is not `kept`, and what there is no room for.
fn keep<T>(list: &mut Vec<T>, kept: &[bool], room: usize) {
    let mut kept = kept.iter();
    list.retain(|_| kept.next().is_none_or(|&kept| kept));
    list.truncate(room);
}

/// From, to, data of each edge, and how many there are.
type Edges = (Vec<u64>, Vec<u64>, Vec<EdgeData>, usize);

pub fn vgpuGraphGetEdges(
    t: &mut Thread,
    graph: u64,
    room: usize,
    _: usize,
    _: usize,
    _: usize,
) -> Result<Edges, CudaError> {
    let hidden = graph_pageable::recorded();
    let most = if hidden { MAX_LIST } else { room.min(MAX_LIST) };
    let mut to = vec![0_u64; most];
    let mut data = vec![EdgeData::default(); most];
    let (from, mut count) = match t.driver.cuGraphGetEdges_v2 {
        // SAFETY: a live graph; the lists have as much room as the count says, which is at most `room`.
        Some(ask) => list(room, hidden, |from, count| unsafe {
            if from.is_null() {
                ask(graph, from, from, std::ptr::null_mut(), count)
            } else {
                ask(graph, from, to.as_mut_ptr(), data.as_mut_ptr(), count)
            }
        }),
        None => {
            let ask = t.driver.cuGraphGetEdges.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            list(room, hidden, |from, count| unsafe {
                if from.is_null() {
                    ask(graph, from, from, count)
                } else {
                    ask(graph, from, to.as_mut_ptr(), count)
                }
            })
        }
    }?;
    to.truncate(from.len());
    data.truncate(from.len());
    let (mut from, mut to) = (numbers(t, graph, &from)?, numbers(t, graph, &to)?);
    if hidden {
        let kept: Vec<bool> = from.iter().zip(&to).map(|(from, to)| from != to).collect();
        count -= kept.iter().filter(|&&kept| !kept).count();
        keep(&mut from, &kept, room);
        keep(&mut to, &kept, room);
        keep(&mut data, &kept, room);
    }
    Ok((from, to, data, count))
}

pub fn vgpuGraphNodeGetNeighbours(
    t: &mut Thread,
    node: u64,
    which: u32,
    room: usize,
    _: usize,
    _: usize,
) -> Result<(Vec<u64>, Vec<EdgeData>, usize), CudaError> {
    let (side, after) = match which {
        0 => (Role::Before, false),
        1 => (Role::After, true),
        _ => return Err(INVALID_VALUE),
    };
    let graph = t.graph_of(node);
    let node = graph_pageable::helper(t, node, side).unwrap_or(node);
    let Neighbours { mut nodes, mut data } = neighbours(t, node, after)?;
    let count = nodes.len();
    nodes.truncate(room.min(MAX_LIST));
    data.truncate(nodes.len());
    Ok((numbers(t, graph, &nodes)?, data, count))
}

/// Dependencies of a node to add, as the driver takes them: the guest's count is checked against the array.
pub fn dependencies(list: Option<&Vec<u64>>, count: usize) -> Result<(*const u64, usize), CudaError> {
    match list {
        _ if count == 0 => Ok((std::ptr::null(), 0)),
        Some(list) if list.len() >= count => Ok((list.as_ptr(), count)),
        _ => Err(INVALID_VALUE),
    }
}

/// CUDA_HOST_NODE_PARAMS.
#[repr(C)]
struct HostNode {
    function: u64,
    argument: *mut c_void,
}

impl HostNode {
    fn new(callback: u64) -> Self {
        HostNode { function: host_function_address(), argument: argument(callback) }
    }
}

pub fn vgpuGraphAddHostNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    callback: u64,
) -> Result<u64, CudaError> {
    let add = t.driver.cuGraphAddHostNode.ok_or(NOT_SUPPORTED)?;
    let (after, n) = dependencies(after.as_ref(), n)?;
    let parameters = HostNode::new(callback);
    let mut node = 0_u64;
    // SAFETY: live handles of this client; parameters and places outlive the call, which copies them.
    check(unsafe { add(&raw mut node, graph, after, n, (&raw const parameters).cast()) })?;
    t.number_graphnode(node, graph)
}

pub fn vgpuGraphHostNodeSetParams(
    t: &mut Thread,
    exec: u64,
    node: u64,
    callback: u64,
) -> Result<(), CudaError> {
    let parameters = HostNode::new(callback);
    let place = (&raw const parameters).cast();
    match t.optional_exec(exec)? {
        0 => {
            let set = t.driver.cuGraphHostNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: a live node; the parameters outlive the call, which copies them.
            check(unsafe { set(node, place) })
        }
        exec => {
            let set = t.driver.cuGraphExecHostNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(exec, node, place) })
        }
    }
}

/// The shim's number of the callback.
pub fn vgpuGraphHostNodeGetParams(t: &mut Thread, node: u64) -> Result<u64, CudaError> {
    let get = t.driver.cuGraphHostNodeGetParams.ok_or(NOT_SUPPORTED)?;
    let mut parameters = HostNode { function: 0, argument: std::ptr::null_mut() };
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, (&raw mut parameters).cast()) })?;
    if parameters.function != host_function_address() {
        return Err(INVALID_HANDLE);
    }
    Ok(parameters.argument.addr() as u64)
}

/// Has the driver write the text to a file without a name, and gives the part from `offset` on.
pub fn vgpuGraphDot(
    t: &mut Thread,
    graph: u64,
    flags: u32,
    offset: usize,
    room: usize,
    _: usize,
) -> Result<(Vec<u8>, usize), CudaError> {
    use std::os::{fd::AsRawFd, unix::fs::FileExt};
    let print = t.driver.cuGraphDebugDotPrint.ok_or(NOT_SUPPORTED)?;
    let failed = |e: &dyn std::fmt::Display| {
        tracing::warn!("printing a graph: {e}");
        CudaError(304) // CUDA_ERROR_OPERATING_SYSTEM
    };
    let file = rustix::fs::memfd_create("graph", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| failed(&e))?;
    let path =
        std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| failed(&e))?;
    // SAFETY: a live graph and a NUL-terminated path.
    check(unsafe { print(graph, path.as_ptr(), flags) })?;
    let file = std::fs::File::from(file);
    let len = usize::try_from(file.metadata().map_err(|e| failed(&e))?.len()).map_err(|_| INVALID_VALUE)?;
    let mut text = vec![0; room.min(len.saturating_sub(offset)).min(MAX_LIST * 8)];
    file.read_exact_at(&mut text, offset as u64).map_err(|e| failed(&e))?;
    Ok((text, len))
}

/// What is understood of kernel nodes' attributes: those in which the driver would find, or give, an event are for launches only.
fn understood(id: u32) -> Result<(), CudaError> {
    match launch_attribute::content(id) {
        Some(Content::Plain | Content::DeviceNode) => Ok(()),
        _ => Err(INVALID_VALUE),
    }
}

pub fn cuGraphKernelNodeGetAttribute(t: &mut Thread, node: u64, id: u32) -> Result<Blob8<64>, CudaError> {
    understood(id)?;
    let get = t.driver.cuGraphKernelNodeGetAttribute.ok_or(NOT_SUPPORTED)?;
    let mut value = Blob8::default();
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, id, &raw mut value) })?;
    Ok(value)
}

/// The value afterwards: of a node that the device may update, the driver gives the device's handle, which only kernels use.
pub fn vgpuGraphKernelNodeSetAttribute(
    t: &mut Thread,
    node: u64,
    id: u32,
    value: Option<Vec<Blob8<64>>>,
) -> Result<Blob8<64>, CudaError> {
    understood(id)?;
    let set = t.driver.cuGraphKernelNodeSetAttribute.ok_or(NOT_SUPPORTED)?;
    let mut value = value.and_then(|v| v.first().copied()).ok_or(INVALID_VALUE)?;
    // SAFETY: a live node, and a private value that outlives the call.
    check(unsafe { set(node, id, &raw mut value) })?;
    Ok(value)
}

pub use super::{
    graph_copy::{cuGraphMemcpyNodeGetParams, vgpuGraphAddMemcpyNode, vgpuGraphMemcpyNodeSetParams},
    graph_kernel::{
        vgpuDescribeCallable, vgpuGraphAddKernelNode, vgpuGraphKernelNodeGetParams,
        vgpuGraphKernelNodeSetParams,
    },
    graph_memory::{vgpuGraphAddMemAllocNode, vgpuGraphMemAllocNodeGetParams},
    graph_node::{
        cuGraphConditionalHandleCreate, vgpuGraphAddBatchMemOpNode, vgpuGraphAddChildGraphNode,
        vgpuGraphAddConditionalNode, vgpuGraphBatchMemOpNodeGetParams, vgpuGraphBatchMemOpNodeSetParams,
    },
    graph_pageable::cuGraphNodeSetEnabled,
};
