//! Host nodes, and nodes of any type by one structure.

use crate::{
    call::{self, put},
    callback, calls, context, error, external_node,
    graph::EdgeData,
    graph_copy, graph_kernel, graph_memory, handles, stream_memory_operation,
};
use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{handle, plain::Blob8};

/// Where CUgraphNodeParams has the part of its type.
const INNER: usize = 16;
/// Bytes of it.
const SIZE: usize = 256;

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
pub mod node_type {
    pub const KERNEL: u32 = 0;
    pub const MEMCPY: u32 = 1;
    pub const MEMSET: u32 = 2;
    pub const HOST: u32 = 3;
    pub const GRAPH: u32 = 4;
    pub const EMPTY: u32 = 5;
    pub const WAIT_EVENT: u32 = 6;
    pub const EVENT_RECORD: u32 = 7;
    pub const EXT_SEMAS_SIGNAL: u32 = 8;
    pub const EXT_SEMAS_WAIT: u32 = 9;
    pub const MEM_ALLOC: u32 = 10;
    pub const MEM_FREE: u32 = 11;
    pub const BATCH_MEM_OP: u32 = 12;
    pub const CONDITIONAL: u32 = 13;
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
        Ok(Node { kind, inner: parameters.cast::<u8>().wrapping_add(INNER) })
    }

    /// # Safety
    /// There is a `T` at `offset`.
    unsafe fn at<T>(&self, offset: usize) -> T {
        // SAFETY: the caller's promise.
        unsafe { self.inner.add(offset).cast::<T>().read_unaligned() }
    }

    /// Whether what is reserved, and what the type does not use, is zero.
    ///
    /// # Safety
    /// The structure is valid.
    unsafe fn is_clean(&self) -> bool {
        let used = match self.kind {
            node_type::KERNEL => 72,
            node_type::MEMCPY => 216,
            node_type::MEMSET => 48,
            node_type::HOST | node_type::GRAPH => 16,
            node_type::EMPTY => 0,
            node_type::WAIT_EVENT | node_type::EVENT_RECORD | node_type::MEM_FREE => 8,
            node_type::EXT_SEMAS_SIGNAL | node_type::EXT_SEMAS_WAIT => 24,
            node_type::MEM_ALLOC => 120,
            node_type::BATCH_MEM_OP => 32,
            node_type::CONDITIONAL => 40,
            _ => return true,
        };
        // SAFETY: the caller's promise: 256 bytes, of which the part of the type begins at INNER.
        let all = unsafe { std::slice::from_raw_parts(self.inner.wrapping_sub(INNER), SIZE) };
        all[4..INNER].iter().chain(&all[INNER + used..]).all(|&byte| byte == 0)
    }

    /// What a node of external semaphores does, as its messages have it.
    fn waits(&self) -> u32 {
        u32::from(self.kind == node_type::EXT_SEMAS_WAIT)
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
    // SAFETY: as above.
    if !unsafe { node.is_clean() } {
        return Err(error::INVALID_VALUE);
    }
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
                let child = node.at(0);
                handles::check_graph(child)?;
                match node.at::<u32>(8) {
                    0 => calls::cuGraphAddChildGraphNode(&mut made, graph, after, count, child)?,
                    ownership => {
                        calls::vgpuGraphAddChildGraphNode(&mut made, graph, after, count, child, ownership)?;
                    }
                }
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
            node_type::MEM_ALLOC => {
                let inner = node.inner.cast();
                return graph_memory::cuGraphAddMemAllocNode(place, graph, dependencies, count, inner);
            }
            node_type::MEM_FREE => calls::cuGraphAddMemFreeNode(&mut made, graph, after, count, node.at(0))?,
            node_type::BATCH_MEM_OP => {
                let inner = node.inner.cast();
                return stream_memory_operation::cuGraphAddBatchMemOpNode(
                    place,
                    graph,
                    dependencies,
                    count,
                    inner,
                );
            }
            node_type::CONDITIONAL => conditional(&mut made, graph, after, count, &node)?,
            node_type::EXT_SEMAS_SIGNAL | node_type::EXT_SEMAS_WAIT => {
                let inner = node.inner.cast();
                return external_node::add(place, graph, dependencies, count, inner, node.waits());
            }
            _ => return Err(error::INVALID_VALUE),
        }
        put(place, made)
    }
}

/// The most bodies of a conditional node that a message has room for.
const MOST_BODIES: u32 = 4096;

/// Adds a conditional node. The array of its bodies is kept for the program as long as the node is the same.
///
/// # Safety
/// The node's part is that of a conditional one.
unsafe fn conditional(
    made: &mut u64,
    graph: u64,
    after: Option<&[u64]>,
    count: usize,
    node: &Node,
) -> error::Result {
    // SAFETY: CUDA_CONDITIONAL_NODE_PARAMS, by the caller's promise.
    let (handle, kind, size, context): (u64, u32, u32, u64) =
        unsafe { (node.at(0), node.at(8), node.at(12), node.at(24)) };
    handles::check_context(context)?;
    if size == 0 || size > MOST_BODIES {
        return Err(error::INVALID_VALUE);
    }
    let mut bodies = vec![0; size as usize];
    calls::vgpuGraphAddConditionalNode(
        made,
        graph,
        after,
        count,
        handle,
        kind,
        size,
        context,
        &mut bodies,
        size as usize,
    )?;
    let kept = keep(*made, vgpu_spec::plain::bytes_of(&bodies));
    // SAFETY: as above: the place of phGraph_out.
    unsafe { node.inner.add(16).cast::<*mut u64>().write_unaligned(kept) };
    Ok(())
}

pub unsafe fn cuGraphConditionalHandleCreate(
    pHandle_out: *mut u64,
    hGraph: u64,
    ctx: u64,
    defaultLaunchValue: u32,
    flags: u32,
) -> error::Result {
    handles::check_graph(hGraph)?;
    handles::check_context(ctx)?;
    if pHandle_out.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut handle = 0;
    calls::cuGraphConditionalHandleCreate(&mut handle, hGraph, ctx, defaultLaunchValue, flags)?;
    // SAFETY: the program's pointer.
    unsafe { put(pHandle_out, handle) }
}

/// What the program was given of a node: words, which stay where they are for the node's life.
static KEPT: Mutex<Option<HashMap<u32, Vec<u64>>>> = Mutex::new(None);

/// Keeps bytes for the program; where they are. A new node of the same index takes the old one's place.
pub fn keep(node: u64, bytes: &[u8]) -> *mut u64 {
    let index = handle::split(node).map_or(0, |p| p.index);
    let mut all = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let words = all.get_or_insert_default().entry(index).or_default();
    let len = bytes.len().div_ceil(8);
    if words.len() != len {
        *words = vec![0; len];
    }
    vgpu_spec::plain::fill(words, bytes);
    words.as_mut_ptr()
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
            node_type::BATCH_MEM_OP => stream_memory_operation::set(exec, handle, node.inner.cast()),
            node_type::GRAPH if exec != 0 => {
                let child = node.at(0);
                handles::check_graph(child)?;
                calls::cuGraphExecChildGraphNodeSetParams(exec, handle, child)
            }
            node_type::EMPTY => Ok(()),
            // As the driver: such nodes cannot be changed.
            node_type::GRAPH | node_type::MEM_ALLOC | node_type::MEM_FREE | node_type::CONDITIONAL => {
                Err(error::NOT_SUPPORTED)
            }
            node_type::EXT_SEMAS_SIGNAL | node_type::EXT_SEMAS_WAIT => {
                external_node::set(exec, handle, node.inner.cast(), node.waits())
            }
            _ => Err(error::INVALID_VALUE),
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
