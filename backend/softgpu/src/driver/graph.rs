//! Graphs.

use std::ffi::c_void;
use std::sync::Arc;

use super::copy_strided::{Memcpy3D, check_3d};
use super::launch::Arguments;
use super::{Out, array_at, put, put_array};
use crate::model::copy::{Element, Fill};
use crate::model::function::function_or_kernel;
use crate::model::graph::{Exec, Graph, HostCall, HostFunction, Node, Op, forbid, forbid_unsafe};
use crate::model::handle;
use crate::model::launch::{LaunchWork, Shape};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result, current, state};

/// `CUDA_KERNEL_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct KernelNode {
    pub function: u64,
    pub shape: [u32; 7],
    pub params: *const *const c_void,
    pub extra: *const *const c_void,
    pub kernel: u64,
    pub context: u64,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct MemsetNode {
    pub address: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_size: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct HostNode {
    pub function: Option<HostFunction>,
    pub data: *mut c_void,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct InstantiateParams {
    pub flags: u64,
    pub stream: u64,
    pub error_node: u64,
    pub result: u32,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct UpdateResult {
    pub result: u32,
    pub node: u64,
    pub from: u64,
}

/// A graph; `INVALID_VALUE` for none.
pub fn graph(handle: u64) -> Result<Arc<Graph>> {
    state()?.graphs.get(handle).map_err(|_| CudaError::InvalidValue)
}

/// The graph of a node; `INVALID_VALUE` for none.
pub fn graph_of(node: u64) -> Result<Arc<Graph>> {
    state()?.graph_nodes.get(node).map_err(|_| CudaError::InvalidValue)
}

/// An instantiated graph; `INVALID_VALUE` for none.
pub fn exec(handle: u64) -> Result<Arc<Exec>> {
    state()?.graph_execs.get(handle).map_err(|_| CudaError::InvalidValue)
}

/// Adds a node.
///
/// # Safety
/// `dependencies` must be NULL or point to `count` handles.
pub unsafe fn add(out: Out<'_, u64>, to: u64, dependencies: *const u64, count: usize, op: Op) -> Result {
    let out = out.ok_or(CudaError::InvalidValue)?;
    // SAFETY: the caller answers for the array.
    let node = graph(to)?.add(op, unsafe { array_at(dependencies, count) }?)?;
    out.write(node);
    Ok(())
}

/// # Safety
/// The parameters must be as for a launch.
unsafe fn kernel_op(node: Option<&KernelNode>) -> Result<Op> {
    let node = node.ok_or(CudaError::InvalidValue)?;
    let context = current::working_context()?;
    let handle = if node.function == 0 { node.kernel } else { node.function };
    let function = function_or_kernel(handle, &context)?;
    let [gx, gy, gz, bx, by, bz, dynamic_shared] = node.shape;
    let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic_shared };
    shape.check(&function)?;
    let arguments = Arguments { params: node.params, extra: node.extra };
    // SAFETY: the caller answers for the parameters.
    let params = unsafe { arguments.collect(&function.entry) }?;
    Ok(Op::Kernel(LaunchWork::new(handle, function, shape, params)))
}

/// A memset.
pub fn fill_op(node: Option<&MemsetNode>) -> Result<Op> {
    let node = node.ok_or(CudaError::InvalidValue)?;
    let element = match node.element_size {
        1 => Element::Byte(u8::try_from(node.value).map_err(|_| CudaError::InvalidValue)?),
        2 => Element::Half(u16::try_from(node.value).map_err(|_| CudaError::InvalidValue)?),
        4 => Element::Word(node.value),
        _ => return Err(CudaError::InvalidValue),
    };
    let number = |number| u64::try_from(number).map_err(|_| CudaError::InvalidValue);
    let fill =
        Fill::check(node.address, number(node.pitch)?, number(node.width)?, number(node.height)?, element)?;
    Ok(fill.map_or(Op::Empty, Op::Fill))
}

/// A function of the program.
pub fn host_op(node: Option<&HostNode>) -> Result<Op> {
    let node = node.ok_or(CudaError::InvalidValue)?;
    Ok(Op::Host(HostCall::new(node.function.ok_or(CudaError::InvalidValue)?, node.data)))
}

/// Changes what a node does; not its type.
pub fn set(node: u64, op: Op) -> Result {
    graph_of(node)?.with_node(node, |node| {
        if node.op.node_type() != op.node_type() {
            return Err(CudaError::InvalidValue);
        }
        node.op = op;
        Ok(())
    })?
}

/// Gives a count, or the handles for which there is room.
///
/// # Safety
/// `start` must be NULL or have room for as many as `count` says.
unsafe fn list(handles: &[u64], start: *mut u64, count: Option<&mut usize>) -> Result {
    let count = count.ok_or(CudaError::InvalidValue)?;
    if start.is_null() {
        *count = handles.len();
        return Ok(());
    }
    let padded = handles.iter().copied().chain(std::iter::repeat(0));
    // SAFETY: the caller answers for the room.
    unsafe { put_array(start, *count, padded.take(*count)) }?;
    *count = handles.len().min(*count);
    Ok(())
}

fn handles<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<u64> {
    nodes.map(|node| node.handle).collect()
}

driver_api! {
    /// Makes an empty graph.
    fn cuGraphCreate(out: Out<'_, u64>, flags: u32) {
        let out = out.ok_or(CudaError::InvalidValue)?;
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        out.write(Graph::create()?.handle());
        Ok(())
    }

    /// Ends a graph and its nodes; what was instantiated from it lives on.
    fn cuGraphDestroy(handle: u64) {
        let graph = graph(handle)?;
        graph.check_not_captured()?;
        graph.destroy()
    }

    /// Takes a node out of its graph.
    fn cuGraphDestroyNode(node: u64) {
        let graph = graph_of(node)?;
        graph.check_not_captured()?;
        if graph.with_node(node, |node| matches!(node.op, Op::Allocate(_) | Op::Free(_)))? {
            return Err(CudaError::NotSupported);
        }
        graph.remove(node)
    }

    /// Adds a node that does nothing.
    fn cuGraphAddEmptyNode(out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize) {
        // SAFETY: the caller answers for the array.
        unsafe { add(out, graph, dependencies, count, Op::Empty) }
    }

    /// Adds a kernel.
    fn cuGraphAddKernelNode_v2(
        out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize, params: Option<&KernelNode>
    ) {
        // SAFETY: the caller answers for arrays and parameters.
        unsafe { add(out, graph, dependencies, count, kernel_op(params)?) }
    }

    /// Adds a copy.
    fn cuGraphAddMemcpyNode(
        out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize, params: Option<&Memcpy3D>,
        context: u64
    ) {
        state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        let op = check_3d(params)?.map_or(Op::Empty, |copy| Op::Copy(Box::new(copy)));
        // SAFETY: the caller answers for the array.
        unsafe { add(out, graph, dependencies, count, op) }
    }

    /// Adds a memset.
    fn cuGraphAddMemsetNode(
        out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize, params: Option<&MemsetNode>,
        context: u64
    ) {
        state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        // SAFETY: the caller answers for the array.
        unsafe { add(out, graph, dependencies, count, fill_op(params)?) }
    }

    /// Adds a function of the program.
    fn cuGraphAddHostNode(
        out: Out<'_, u64>, graph: u64, dependencies: *const u64, count: usize, params: Option<&HostNode>
    ) {
        // SAFETY: the caller answers for the array.
        unsafe { add(out, graph, dependencies, count, host_op(params)?) }
    }

    /// What the program gave for a host node.
    fn cuGraphHostNodeGetParams(node: u64, params: Out<'_, HostNode>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Host(host) = op else { return Err(CudaError::InvalidValue) };
        let data = std::ptr::with_exposed_provenance_mut(host.data);
        put(params, HostNode { function: Some(host.function), data })
    }

    /// The kernel, its shape, and its parameters as an `extra` list, which lives as long as the process.
    fn cuGraphKernelNodeGetParams_v2(node: u64, params: Out<'_, KernelNode>) {
        let op = graph_of(node)?.with_node(node, |node| node.op.clone())?;
        let Op::Kernel(launch) = op else { return Err(CudaError::InvalidValue) };
        let shape = launch.shape();
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        let buffer: &'static [u8] = Box::leak(launch.params().into());
        let size: &'static usize = Box::leak(Box::new(buffer.len()));
        let key = std::ptr::without_provenance::<c_void>;
        let extra: [*const c_void; 5] =
            [key(1), buffer.as_ptr().cast(), key(2), std::ptr::from_ref(size).cast(), key(0)];
        let is_kernel = handle::is_kind(launch.named(), handle::Kind::Kernel);
        put(params, KernelNode {
            function: if is_kernel { 0 } else { launch.named() },
            shape: [gx, gy, gz, bx, by, bz, shape.dynamic_shared],
            params: std::ptr::null(),
            extra: Box::leak(Box::new(extra)).as_ptr(),
            kernel: if is_kernel { launch.named() } else { 0 },
            context: 0,
        })
    }

    /// Changes a kernel node.
    fn cuGraphKernelNodeSetParams_v2(node: u64, params: Option<&KernelNode>) {
        // SAFETY: the caller answers for the parameters.
        set(node, unsafe { kernel_op(params) }?)
    }

    /// Changes a memset node.
    fn cuGraphMemsetNodeSetParams(node: u64, params: Option<&MemsetNode>) {
        set(node, fill_op(params)?)
    }

    /// Changes a copy node.
    fn cuGraphMemcpyNodeSetParams(node: u64, params: Option<&Memcpy3D>) {
        let copy = check_3d(params)?.ok_or(CudaError::InvalidValue)?;
        set(node, Op::Copy(Box::new(copy)))
    }

    /// Changes a host node.
    fn cuGraphHostNodeSetParams(node: u64, params: Option<&HostNode>) {
        set(node, host_op(params)?)
    }

    /// Changes a kernel node of an instantiated graph.
    fn cuGraphExecKernelNodeSetParams_v2(handle: u64, node: u64, params: Option<&KernelNode>) {
        // SAFETY: the caller answers for the parameters.
        exec(handle)?.set(node, unsafe { kernel_op(params) }?)
    }

    /// All nodes.
    fn cuGraphGetNodes(handle: u64, nodes: *mut u64, count: Option<&mut usize>) {
        // SAFETY: the caller answers for the room.
        unsafe { list(&handles(graph(handle)?.nodes().iter()), nodes, count) }
    }

    /// The nodes that come after nothing.
    fn cuGraphGetRootNodes(handle: u64, nodes: *mut u64, count: Option<&mut usize>) {
        let all = graph(handle)?.nodes();
        // SAFETY: the caller answers for the room.
        unsafe { list(&handles(all.iter().filter(|node| node.after.is_empty())), nodes, count) }
    }

    /// All edges.
    fn cuGraphGetEdges(handle: u64, from: *mut u64, to: *mut u64, count: Option<&mut usize>) {
        let all = graph(handle)?.nodes();
        let edges: Vec<(u64, u64)> =
            all.iter().flat_map(|node| node.after.iter().map(|before| (*before, node.handle))).collect();
        let count = count.ok_or(CudaError::InvalidValue)?;
        if !from.is_null() {
            let ends: Vec<u64> = edges.iter().map(|edge| edge.1).collect();
            let mut room = *count;
            // SAFETY: the caller answers for the room.
            unsafe { list(&ends, to, Some(&mut room)) }?;
        }
        let starts: Vec<u64> = edges.iter().map(|edge| edge.0).collect();
        // SAFETY: the caller answers for the room.
        unsafe { list(&starts, from, Some(count)) }
    }

    /// What a node comes after.
    fn cuGraphNodeGetDependencies(node: u64, nodes: *mut u64, count: Option<&mut usize>) {
        let before = graph_of(node)?.with_node(node, |node| node.after.clone())?;
        // SAFETY: the caller answers for the room.
        unsafe { list(&before, nodes, count) }
    }

    /// What comes after a node.
    fn cuGraphNodeGetDependentNodes(node: u64, nodes: *mut u64, count: Option<&mut usize>) {
        let all = graph_of(node)?.nodes();
        // SAFETY: the caller answers for the room.
        unsafe { list(&handles(all.iter().filter(|other| other.after.contains(&node))), nodes, count) }
    }

    /// A node's type.
    fn cuGraphNodeGetType(node: u64, kind: Out<'_, u32>) {
        put(kind, graph_of(node)?.with_node(node, |node| node.op.node_type())?)
    }

    /// Makes a graph ready to launch.
    fn cuGraphInstantiateWithParams(out: Out<'_, u64>, handle: u64, params: Option<&mut InstantiateParams>) {
        forbid_unsafe()?;
        let (out, params) = out.zip(params).ok_or(CudaError::InvalidValue)?;
        (params.error_node, params.result) = (0, 1);
        let made = Exec::create(&*graph(handle)?, params.flags)?;
        params.result = 0;
        out.write(made.handle());
        Ok(())
    }

    /// The same, with flags only.
    fn cuGraphInstantiateWithFlags(out: Out<'_, u64>, handle: u64, flags: u64) {
        forbid_unsafe()?;
        let out = out.ok_or(CudaError::InvalidValue)?;
        out.write(Exec::create(&*graph(handle)?, flags)?.handle());
        Ok(())
    }

    /// Ends an instantiated graph; launches go on.
    fn cuGraphExecDestroy(handle: u64) {
        forbid_unsafe()?;
        state()?.graph_execs.remove(handle).map(drop).map_err(|_| CudaError::InvalidValue)
    }

    /// The flags it was made with.
    fn cuGraphExecGetFlags(handle: u64, flags: Out<'_, u64>) {
        put(flags, exec(handle)?.flags)
    }

    /// Takes over the parameters of a graph of the same form.
    fn cuGraphExecUpdate_v2(handle: u64, from: u64, info: Out<'_, UpdateResult>) {
        let (result, node) = exec(handle)?.update(&*graph(from)?)?;
        put(info, UpdateResult { result, node, from: 0 })?;
        if result == 0 { Ok(()) } else { Err(CudaError::GraphExecUpdateFailure) }
    }
}

fn launch(default: DefaultStream, handle: u64, stream: u64) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    forbid(&stream)?;
    exec(handle)?.launch(&context, &stream)
}

stream_api! {
    /// Does all nodes, in stream order.
    fn cuGraphLaunch | cuGraphLaunch_ptsz(default; handle: u64, stream: u64) {
        launch(default, handle, stream)
    }

    /// There is nothing to bring to the device.
    fn cuGraphUpload | cuGraphUpload_ptsz(default; handle: u64, stream: u64) {
        let (_, stream) = special_stream::find(stream, default)?;
        forbid(&stream)?;
        exec(handle).map(drop)
    }
}
