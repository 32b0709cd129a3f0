//! Graphs in graphs, events, conditional nodes, and what nodes are asked and told.

use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::sync::Arc;

use super::copy_strided::{Memcpy3D, check_3d};
use super::graph::{HostNode, MemsetNode, add, exec, fill_op, graph, graph_of, host_op, set};
use super::{Out, array_at, put};
use crate::model::conditional::{Choice, Condition};
use crate::model::copy::{Element, Place, Side};
use crate::model::graph::{Graph, Op};
use crate::model::{CudaError, Result, state};

/// `CU_GRAPH_COND_ASSIGN_DEFAULT`.
const ASSIGN_DEFAULT: u32 = 1;
/// `CUgraphNodeType`.
const CHILD: u32 = 4;
const CONDITIONAL: u32 = 13;

/// `CUgraphNodeParams`, with the words of a child graph and of a conditional node.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct NodeParams {
    pub kind: u32,
    pub reserved: [u32; 3],
    pub words: [u64; 30],
}

fn event_of(handle: u64) -> Result<Arc<crate::model::event::Event>> {
    state()?.events.get(handle)
}

/// One side of a copy as `CUDA_MEMCPY3D` names it.
#[derive(Default)]
struct Named {
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    origin: [usize; 3],
    pitch: usize,
    height: usize,
}

fn named(side: Side) -> Result<Named> {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let pitch = size(side.pitch);
    let height = size(side.plane.checked_div(side.pitch).unwrap_or(0));
    let rows = Named { pitch, height, ..Named::default() };
    Ok(match side.place {
        Place::Host(host) => Named { kind: 1, host, ..rows },
        Place::Device(device) => Named { kind: 2, device, ..rows },
        Place::Unified(device) => Named { kind: 4, device, ..rows },
        Place::Array(address) => {
            let arrays = state()?.arrays.all();
            let found = arrays.iter().find_map(|array| Some((array.handle(), array.origin(address)?)));
            let (array, origin) = found.ok_or(CudaError::InvalidValue)?;
            Named { kind: 3, array, origin, ..Named::default() }
        }
    })
}

/// The edges that an array names; only ordinary ones are known.
///
/// # Safety
/// The arrays must be NULL or as long as `count` says.
unsafe fn edges<'a>(
    from: *const u64,
    to: *const u64,
    data: *const u64,
    count: usize,
) -> Result<impl Iterator<Item = (u64, u64)> + use<'a>> {
    // SAFETY: the caller answers for the arrays.
    let (from, to): (&'a [u64], &'a [u64]) = unsafe { (array_at(from, count)?, array_at(to, count)?) };
    if !data.is_null() {
        // SAFETY: as above; eight bytes per edge, read one by one.
        let bytes = unsafe { array_at(data.cast::<u8>(), count * 8) }?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(CudaError::NotSupported);
        }
    }
    Ok(from.iter().copied().zip(to.iter().copied()))
}

/// # Safety
/// As for [`edges`].
unsafe fn add_edges(handle: u64, from: *const u64, to: *const u64, data: *const u64, count: usize) -> Result {
    let graph = graph(handle)?;
    // SAFETY: the caller answers for the arrays.
    for (from, to) in unsafe { edges(from, to, data, count) }? {
        graph.with_node(from, |_| ())?;
        let is_new = from != to && !graph.with_node(to, |node| node.after.contains(&from))?;
        if !is_new {
            return Err(CudaError::InvalidValue);
        }
        graph.with_node(to, |node| node.after.push(from))?;
    }
    Ok(())
}

/// # Safety
/// As for [`edges`].
unsafe fn remove_edges(
    handle: u64,
    from: *const u64,
    to: *const u64,
    data: *const u64,
    count: usize,
) -> Result {
    let graph = graph(handle)?;
    // SAFETY: the caller answers for the arrays.
    for (from, to) in unsafe { edges(from, to, data, count) }? {
        let was_there = graph.with_node(to, |node| {
            let before = node.after.len();
            node.after.retain(|other| *other != from);
            node.after.len() < before
        })?;
        if !was_there {
            return Err(CudaError::InvalidValue);
        }
    }
    Ok(())
}

fn child_of(node: u64) -> Result<Arc<Graph>> {
    match graph_of(node)?.with_node(node, |node| node.op.clone())? {
        Op::Child(child) => Ok(child),
        _ => Err(CudaError::InvalidValue),
    }
}

/// An operation for the structure for any type: of an embedded graph or a conditional node.
fn any_op(params: &mut NodeParams, parent: u64) -> Result<Op> {
    if params.reserved != [0; 3] {
        return Err(CudaError::InvalidValue);
    }
    let [first, second, ..] = params.words;
    match params.kind {
        CHILD => match second as u32 {
            0 => Ok(Op::Child(graph(first)?.copy()?)),
            1 if first != parent => graph(first).map(Op::Child),
            _ => Err(CudaError::InvalidValue),
        },
        CONDITIONAL => {
            let condition = state()?.conditions.get(first).map_err(|_| CudaError::InvalidValue)?;
            let choice = Choice::create(condition, second as u32, (second >> 32) as u32)?;
            let bodies: Vec<u64> = choice.bodies.iter().map(|body| body.handle()).collect();
            // For the node's life, says the API; here it is the process's.
            let bodies: &'static [u64] = Box::leak(bodies.into_boxed_slice());
            params.words[2] = u64::try_from(bodies.as_ptr().expose_provenance()).unwrap_or(0);
            Ok(Op::Conditional(choice))
        }
        _ => Err(CudaError::NotSupported),
    }
}

driver_api! {
    /// Adds a copy of another graph.
    fn cuGraphAddChildGraphNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, child: u64
    ) {
        let child = graph(child)?.copy()?;
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, Op::Child(child)) }
    }

    /// The graph in a node.
    fn cuGraphChildGraphNodeGetGraph(node: u64, out: Out<'_, u64>) {
        put(out, child_of(node)?.handle())
    }

    /// Replaces the graph in a node of an instantiated graph.
    fn cuGraphExecChildGraphNodeSetParams(handle: u64, node: u64, child: u64) {
        let child = graph(child)?;
        if child.nodes().len() != child_of(node)?.nodes().len() {
            return Err(CudaError::GraphExecUpdateFailure);
        }
        exec(handle)?.set(node, Op::Child(child))
    }

    /// Adds a graph, which can be moved, or a conditional node.
    fn cuGraphAddNode_v2(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, data: *const u64, count: usize,
        params: Option<&mut NodeParams>
    ) {
        let params = params.ok_or(CudaError::InvalidValue)?;
        if !data.is_null() {
            return Err(CudaError::NotSupported);
        }
        graph(to)?;
        let op = any_op(params, to)?;
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, op) }
    }

    /// A value that kernels set.
    fn cuGraphConditionalHandleCreate(out: Out<'_, u64>, handle: u64, context: u64, value: u32, flags: u32) {
        let out = out.ok_or(CudaError::InvalidValue)?;
        if context != 0 {
            state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        }
        if flags & !ASSIGN_DEFAULT != 0 {
            return Err(CudaError::InvalidValue);
        }
        out.write(Condition::create(&*graph(handle)?, value, flags == ASSIGN_DEFAULT)?);
        Ok(())
    }

    /// A copy of a graph.
    fn cuGraphClone(out: Out<'_, u64>, original: u64) {
        let out = out.ok_or(CudaError::InvalidValue)?;
        out.write(graph(original)?.copy()?.handle());
        Ok(())
    }

    /// The node of a clone that was made of a node of the original.
    fn cuGraphNodeFindInClone(out: Out<'_, u64>, original: u64, clone: u64) {
        put(out, graph(clone)?.clone_of(original).ok_or(CudaError::InvalidValue)?)
    }

    /// Adds the record of an event.
    fn cuGraphAddEventRecordNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, event: u64
    ) {
        let op = Op::Record(event_of(event)?);
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, op) }
    }

    /// Adds a wait for an event.
    fn cuGraphAddEventWaitNode(
        out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, event: u64
    ) {
        let op = Op::Wait(event_of(event)?);
        // SAFETY: the caller answers for the array.
        unsafe { add(out, to, dependencies, count, op) }
    }

    /// What a node records.
    fn cuGraphEventRecordNodeGetEvent(node: u64, out: Out<'_, u64>) {
        match graph_of(node)?.with_node(node, |node| node.op.clone())? {
            Op::Record(event) => put(out, event.handle()),
            _ => Err(CudaError::InvalidValue),
        }
    }

    /// What a node waits for.
    fn cuGraphEventWaitNodeGetEvent(node: u64, out: Out<'_, u64>) {
        match graph_of(node)?.with_node(node, |node| node.op.clone())? {
            Op::Wait(event) => put(out, event.handle()),
            _ => Err(CudaError::InvalidValue),
        }
    }

    /// Changes what a node records.
    fn cuGraphEventRecordNodeSetEvent(node: u64, event: u64) {
        set(node, Op::Record(event_of(event)?))
    }

    /// Changes what a node waits for.
    fn cuGraphEventWaitNodeSetEvent(node: u64, event: u64) {
        set(node, Op::Wait(event_of(event)?))
    }

    /// Changes what a node of an instantiated graph records.
    fn cuGraphExecEventRecordNodeSetEvent(handle: u64, node: u64, event: u64) {
        exec(handle)?.set(node, Op::Record(event_of(event)?))
    }

    /// Changes what a node of an instantiated graph waits for.
    fn cuGraphExecEventWaitNodeSetEvent(handle: u64, node: u64, event: u64) {
        exec(handle)?.set(node, Op::Wait(event_of(event)?))
    }

    /// Adds edges.
    fn cuGraphAddDependencies(handle: u64, from: *const u64, to: *const u64, count: usize) {
        // SAFETY: the caller answers for the arrays.
        unsafe { add_edges(handle, from, to, std::ptr::null(), count) }
    }

    /// Adds edges; only ordinary ones.
    fn cuGraphAddDependencies_v2(
        handle: u64, from: *const u64, to: *const u64, data: *const u64, count: usize
    ) {
        // SAFETY: the caller answers for the arrays.
        unsafe { add_edges(handle, from, to, data, count) }
    }

    /// Takes edges away.
    fn cuGraphRemoveDependencies(handle: u64, from: *const u64, to: *const u64, count: usize) {
        // SAFETY: the caller answers for the arrays.
        unsafe { remove_edges(handle, from, to, std::ptr::null(), count) }
    }

    /// Takes edges away.
    fn cuGraphRemoveDependencies_v2(
        handle: u64, from: *const u64, to: *const u64, data: *const u64, count: usize
    ) {
        // SAFETY: the caller answers for the arrays.
        unsafe { remove_edges(handle, from, to, data, count) }
    }

    /// What a node copies.
    fn cuGraphMemcpyNodeGetParams(node: u64, params: Out<'_, Memcpy3D>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Copy(copy) = op else { return Err(CudaError::InvalidValue) };
        let (to, from, shape) = copy.sides();
        let (src, dst) = (named(from)?, named(to)?);
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        put(params, Memcpy3D {
            src_type: src.kind, src_host: src.host, src_device: src.device, src_array: src.array,
            src_x: src.origin[0], src_y: src.origin[1], src_z: src.origin[2],
            src_pitch: src.pitch, src_height: src.height,
            dst_type: dst.kind, dst_host: dst.host, dst_device: dst.device, dst_array: dst.array,
            dst_x: dst.origin[0], dst_y: dst.origin[1], dst_z: dst.origin[2],
            dst_pitch: dst.pitch, dst_height: dst.height,
            width: size(shape.width), height: size(shape.height), depth: size(shape.depth),
            ..Memcpy3D::default()
        })
    }

    /// What a node fills.
    fn cuGraphMemsetNodeGetParams(node: u64, params: Out<'_, MemsetNode>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Fill(fill) = op else { return Err(CudaError::InvalidValue) };
        let (address, pitch, width, height, element) = fill.parts();
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (value, element_size) = match element {
            Element::Byte(value) => (u32::from(value), 1),
            Element::Half(value) => (u32::from(value), 2),
            Element::Word(value) => (value, 4),
        };
        let (pitch, width, height) = (size(pitch), size(width), size(height));
        put(params, MemsetNode { address, pitch, value, element_size, width, height })
    }

    /// Changes a copy of an instantiated graph.
    fn cuGraphExecMemcpyNodeSetParams(handle: u64, node: u64, params: Option<&Memcpy3D>, context: u64) {
        state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        let copy = check_3d(params)?.ok_or(CudaError::InvalidValue)?;
        exec(handle)?.set(node, Op::Copy(Box::new(copy)))
    }

    /// Changes a memset of an instantiated graph.
    fn cuGraphExecMemsetNodeSetParams(handle: u64, node: u64, params: Option<&MemsetNode>, context: u64) {
        state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        exec(handle)?.set(node, fill_op(params)?)
    }

    /// Changes a function of an instantiated graph.
    fn cuGraphExecHostNodeSetParams(handle: u64, node: u64, params: Option<&HostNode>) {
        exec(handle)?.set(node, host_op(params)?)
    }

    /// Switches a node of an instantiated graph.
    fn cuGraphNodeSetEnabled(handle: u64, node: u64, enabled: u32) {
        exec(handle)?.enable(node, enabled != 0)
    }

    /// Whether a node of an instantiated graph is switched on.
    fn cuGraphNodeGetEnabled(handle: u64, node: u64, enabled: Out<'_, u32>) {
        put(enabled, u32::from(exec(handle)?.is_enabled(node)?))
    }

    /// An attribute of a kernel that was set, or zeros.
    fn cuGraphKernelNodeGetAttribute(node: u64, id: u32, value: Out<'_, [u8; 64]>) {
        if !matches!(id, 1 | 2 | 4 | 5 | 8 | 9 | 10 | 13 | 14) {
            return Err(CudaError::InvalidValue);
        }
        let found = graph_of(node)?.with_node(node, |node| {
            (node.op.node_type() == 0).then(|| node.attributes.get(&id).copied().unwrap_or([0; 64]))
        })?;
        put(value, found.ok_or(CudaError::InvalidValue)?)
    }

    /// Sets an attribute of a kernel. They change nothing here: what would, is refused.
    fn cuGraphKernelNodeSetAttribute(node: u64, id: u32, value: Option<&[u8; 64]>) {
        let value = *value.ok_or(CudaError::InvalidValue)?;
        if !matches!(id, 1 | 2 | 4 | 5 | 8 | 9 | 10 | 13 | 14 | 16) {
            return Err(CudaError::InvalidValue);
        }
        let is_set = value.iter().any(|byte| *byte != 0);
        let is_one_block = value.chunks_exact(4).take(3).all(|size| size <= [1, 0, 0, 0].as_slice());
        if (matches!(id, 2 | 13) && is_set) || (id == 4 && !is_one_block) {
            return Err(CudaError::NotSupported);
        }
        graph_of(node)?.with_node(node, |node| {
            if node.op.node_type() != 0 {
                return Err(CudaError::InvalidValue);
            }
            node.attributes.insert(id, value);
            Ok(())
        })?
    }

    /// Gives a kernel the attributes of another.
    fn cuGraphKernelNodeCopyAttributes(to: u64, from: u64) {
        let read = |node: &mut crate::model::graph::Node| (node.op.node_type(), node.attributes.clone());
        let (kind, attributes) = graph_of(from)?.with_node(from, read)?;
        let (own_kind, _) = graph_of(to)?.with_node(to, read)?;
        if (kind, own_kind) != (0, 0) {
            return Err(CudaError::InvalidValue);
        }
        graph_of(to)?.with_node(to, |node| node.attributes = attributes)
    }

    /// Writes a graph as text for Graphviz: nodes by their types, and edges.
    fn cuGraphDebugDotPrint(handle: u64, path: *const c_char, _flags: u32) {
        let nodes = graph(handle)?.nodes();
        if path.is_null() {
            return Err(CudaError::InvalidValue);
        }
        let mut text = String::from("digraph dot {\n");
        for node in &nodes {
            let _ = writeln!(text, "\"{:x}\" [label=\"type {}\"];", node.handle, node.op.node_type());
            for before in &node.after {
                let _ = writeln!(text, "\"{before:x}\" -> \"{:x}\";", node.handle);
            }
        }
        text.push_str("}\n");
        // SAFETY: the caller answers for a string that ends in NUL.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| CudaError::InvalidValue)?;
        std::fs::write(path, text).map_err(|_| CudaError::OperatingSystem)
    }
}
