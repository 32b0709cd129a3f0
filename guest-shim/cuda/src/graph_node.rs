//! Host nodes, and nodes of any type by one structure.

use crate::{
    call::{self, put},
    callback, calls, context, error,
    graph::EdgeData,
    graph_copy, graph_kernel, handles,
};
use std::ffi::c_void;
use vgpu_spec::plain::Blob8;

/// CUDA_HOST_NODE_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
struct HostNode {
    function: u64,
    argument: *mut c_void,
}

/// # Safety
/// `parameters` is NULL or valid.
unsafe fn number(parameters: *const Blob8<16>) -> error::Result<u64> {
    // SAFETY: the caller's promise; same size and alignment.
    let node = unsafe { parameters.cast::<HostNode>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    callback::of_node(node.function, node.argument)
}

pub unsafe fn cuGraphAddHostNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *const Blob8<16>,
) -> error::Result {
    handles::check_graph(hGraph)?;
    // SAFETY: the program's pointers.
    let (after, number) = unsafe { (call::slice(dependencies, numDependencies), number(nodeParams)?) };
    let mut node = 0;
    after
        .into_iter()
        .flatten()
        .try_for_each(|&n| handles::check_graphnode(n))
        .and_then(|()| calls::vgpuGraphAddHostNode(&mut node, hGraph, after, numDependencies, number))
        .inspect_err(|_| callback::forget(number))?;
    // SAFETY: the program's pointer.
    unsafe { put(phGraphNode, node) }
}

unsafe fn set(exec: u64, node: u64, parameters: *const Blob8<16>) -> error::Result {
    handles::check_graphnode(node)?;
    // SAFETY: the program's pointer.
    let number = unsafe { number(parameters) }?;
    calls::vgpuGraphHostNodeSetParams(exec, node, number).inspect_err(|_| callback::forget(number))
}

pub unsafe fn cuGraphHostNodeSetParams(hNode: u64, nodeParams: *const Blob8<16>) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { set(0, hNode, nodeParams) }
}

pub unsafe fn cuGraphExecHostNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    nodeParams: *const Blob8<16>,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    // SAFETY: the program's pointer.
    unsafe { set(hGraphExec, hNode, nodeParams) }
}

pub unsafe fn cuGraphHostNodeGetParams(hNode: u64, nodeParams: *mut Blob8<16>) -> error::Result {
    handles::check_graphnode(hNode)?;
    let mut number = 0;
    calls::vgpuGraphHostNodeGetParams(hNode, &mut number)?;
    let known = callback::find(number).ok_or(error::INVALID_HANDLE)?;
    let argument = std::ptr::with_exposed_provenance_mut(known.argument);
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(nodeParams.cast::<HostNode>(), HostNode { function: known.function, argument }) }
}

/// CUgraphNodeType.
mod node_type {
    pub const KERNEL: u32 = 0;
    pub const MEMCPY: u32 = 1;
    pub const MEMSET: u32 = 2;
    pub const HOST: u32 = 3;
    pub const GRAPH: u32 = 4;
    pub const EMPTY: u32 = 5;
    pub const WAIT_EVENT: u32 = 6;
    pub const EVENT_RECORD: u32 = 7;
}

/// CUgraphNodeParams: the type, and from byte 16 on what the type needs.
struct Node {
    kind: u32,
    inner: *mut u8,
}

impl Node {
    /// # Safety
    /// `parameters` is NULL or valid, for as long as the node is used.
    unsafe fn new(parameters: *mut Blob8<256>) -> error::Result<Self> {
        if parameters.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let kind = unsafe { parameters.cast::<u32>().read() };
        Ok(Node { kind, inner: parameters.cast::<u8>().wrapping_add(16) })
    }

    /// # Safety
    /// There is a `T` at `offset`.
    unsafe fn at<T>(&self, offset: usize) -> T {
        // SAFETY: the caller's promise.
        unsafe { self.inner.add(offset).cast::<T>().read_unaligned() }
    }

    fn unsupported(&self) -> error::Result {
        vgpu_client::warn!("graph nodes of type {} are not supported", self.kind);
        Err(error::NOT_SUPPORTED)
    }
}

/// A context that may be left out: the current one.
fn context_or_current(context: u64) -> error::Result<u64> {
    let context = if context == 0 { context::current() } else { context };
    handles::check_context(context).map(|()| context)
}

/// # Safety
/// The program's pointers.
unsafe fn add(
    place: *mut u64,
    graph: u64,
    dependencies: *const u64,
    count: usize,
    parameters: *mut Blob8<256>,
) -> error::Result {
    // SAFETY: the caller's promise.
    let (node, after) = unsafe { (Node::new(parameters)?, call::slice(dependencies, count)) };
    handles::check_graph(graph)?;
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let mut made = 0;
    // SAFETY: the structure's part for this type (cuda.h), and the caller's promise.
    unsafe {
        match node.kind {
            node_type::KERNEL => {
                return graph_kernel::cuGraphAddKernelNode_v2(
                    place,
                    graph,
                    dependencies,
                    count,
                    node.inner.cast(),
                );
            }
            node_type::MEMCPY => {
                let ctx = context_or_current(node.at(8))?;
                let copy = node.inner.add(16).cast();
                return graph_copy::cuGraphAddMemcpyNode(place, graph, dependencies, count, copy, ctx);
            }
            node_type::MEMSET => {
                let ctx = context_or_current(node.at(40))?;
                let set: Blob8<40> = node.at(0);
                calls::cuGraphAddMemsetNode(&mut made, graph, after, count, std::slice::from_ref(&set), ctx)?;
            }
            node_type::HOST => {
                return cuGraphAddHostNode(place, graph, dependencies, count, node.inner.cast());
            }
            node_type::GRAPH => {
                // Byte 8: who owns the child; 0 is a copy.
                if node.at::<u32>(8) != 0 {
                    return node.unsupported();
                }
                let child = node.at(0);
                handles::check_graph(child)?;
                calls::cuGraphAddChildGraphNode(&mut made, graph, after, count, child)?;
            }
            node_type::EMPTY => calls::cuGraphAddEmptyNode(&mut made, graph, after, count)?,
            node_type::WAIT_EVENT | node_type::EVENT_RECORD => {
                let event = node.at(0);
                handles::check_event(event)?;
                if node.kind == node_type::WAIT_EVENT {
                    calls::cuGraphAddEventWaitNode(&mut made, graph, after, count, event)?;
                } else {
                    calls::cuGraphAddEventRecordNode(&mut made, graph, after, count, event)?;
                }
            }
            _ => return node.unsupported(),
        }
        put(place, made)
    }
}

pub unsafe fn cuGraphAddNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *mut Blob8<256>,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { add(phGraphNode, hGraph, dependencies, numDependencies, nodeParams) }
}

/// Dependencies that are not ordinary are added after the node.
pub unsafe fn cuGraphAddNode_v2(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    dependencyData: *const EdgeData,
    numDependencies: usize,
    nodeParams: *mut Blob8<256>,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe {
        let data = call::slice(dependencyData, numDependencies).unwrap_or_default();
        if data.iter().all(|edge| edge.0 == [0; 8]) {
            return add(phGraphNode, hGraph, dependencies, numDependencies, nodeParams);
        }
        add(phGraphNode, hGraph, std::ptr::null(), 0, nodeParams)?;
        let node = phGraphNode.read();
        let to = vec![node; numDependencies];
        let from = call::slice(dependencies, numDependencies).unwrap_or_default();
        from.iter()
            .try_for_each(|&n| handles::check_graphnode(n))
            .and_then(|()| {
                calls::cuGraphAddDependencies_v2(hGraph, Some(from), Some(&to), Some(data), numDependencies)
            })
            .inspect_err(|_| {
                let _ = calls::cuGraphDestroyNode(node);
                handles::remove(node);
            })
    }
}

/// `exec` 0: the node of the graph itself.
///
/// # Safety
/// The program's pointers.
unsafe fn set_any(exec: u64, handle: u64, parameters: *mut Blob8<256>) -> error::Result {
    handles::check_graphnode(handle)?;
    // SAFETY: the structure's part for this type (cuda.h), and the caller's promise.
    unsafe {
        let node = Node::new(parameters)?;
        match node.kind {
            node_type::KERNEL if exec == 0 => {
                graph_kernel::cuGraphKernelNodeSetParams_v2(handle, node.inner.cast())
            }
            node_type::KERNEL => {
                graph_kernel::cuGraphExecKernelNodeSetParams_v2(exec, handle, node.inner.cast())
            }
            node_type::MEMCPY if exec == 0 => {
                graph_copy::cuGraphMemcpyNodeSetParams(handle, node.inner.add(16).cast())
            }
            node_type::MEMCPY => {
                let ctx = context_or_current(node.at(8))?;
                graph_copy::cuGraphExecMemcpyNodeSetParams(exec, handle, node.inner.add(16).cast(), ctx)
            }
            node_type::MEMSET => {
                let memset: Blob8<40> = node.at(0);
                let memset = std::slice::from_ref(&memset);
                if exec == 0 {
                    return calls::cuGraphMemsetNodeSetParams(handle, memset);
                }
                calls::cuGraphExecMemsetNodeSetParams(exec, handle, memset, context_or_current(node.at(40))?)
            }
            node_type::HOST => set(exec, handle, node.inner.cast()),
            node_type::WAIT_EVENT | node_type::EVENT_RECORD => {
                let event = node.at(0);
                handles::check_event(event)?;
                match (node.kind, exec) {
                    (node_type::WAIT_EVENT, 0) => calls::cuGraphEventWaitNodeSetEvent(handle, event),
                    (node_type::WAIT_EVENT, _) => {
                        calls::cuGraphExecEventWaitNodeSetEvent(exec, handle, event)
                    }
                    (_, 0) => calls::cuGraphEventRecordNodeSetEvent(handle, event),
                    _ => calls::cuGraphExecEventRecordNodeSetEvent(exec, handle, event),
                }
            }
            _ => node.unsupported(),
        }
    }
}

pub unsafe fn cuGraphNodeSetParams(hNode: u64, nodeParams: *mut Blob8<256>) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { set_any(0, hNode, nodeParams) }
}

pub unsafe fn cuGraphExecNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    nodeParams: *mut Blob8<256>,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    // SAFETY: the program's pointers.
    unsafe { set_any(hGraphExec, hNode, nodeParams) }
}
