//! Graphs: what is asked about them, and what is made of them. Their nodes and handles are numbered by the worker.

use crate::{
    call::{self, put},
    calls, error, graph_pageable, handles, launch, memory,
};
use std::ffi::c_char;
use vgpu_spec::plain::{Blob1, Blob8};

pub use crate::{
    graph_copy::{
        cuGraphAddMemcpyNode, cuGraphExecMemcpyNodeSetParams, cuGraphMemcpyNodeGetParams,
        cuGraphMemcpyNodeSetParams,
    },
    graph_kernel::{
        cuGraphAddKernelNode, cuGraphAddKernelNode_v2, cuGraphExecKernelNodeSetParams,
        cuGraphExecKernelNodeSetParams_v2, cuGraphKernelNodeGetParams, cuGraphKernelNodeGetParams_v2,
        cuGraphKernelNodeSetAttribute, cuGraphKernelNodeSetParams, cuGraphKernelNodeSetParams_v2,
    },
    graph_memory::{cuGraphAddMemAllocNode, cuGraphMemAllocNodeGetParams},
    graph_node::{
        cuGraphAddHostNode, cuGraphAddNode, cuGraphAddNode_v2, cuGraphConditionalHandleCreate,
        cuGraphExecHostNodeSetParams, cuGraphExecNodeSetParams, cuGraphHostNodeGetParams,
        cuGraphHostNodeSetParams, cuGraphNodeSetParams,
    },
    stream_memory_operation::{
        cuGraphAddBatchMemOpNode, cuGraphBatchMemOpNodeGetParams, cuGraphBatchMemOpNodeSetParams,
        cuGraphExecBatchMemOpNodeSetParams,
    },
};

/// CUgraphEdgeData: all zero is an ordinary dependency.
pub type EdgeData = Blob1<8>;

/// The most entries of a list in a reply, as the worker has it.
const MOST: usize = 8192;
/// All CUDA_GRAPH_INSTANTIATE_FLAG_*.
const INSTANTIATE_FLAGS: u64 = 0xf;
/// CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD.
const UPLOAD: u64 = 2;
/// CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH.
const DEVICE_LAUNCH: u64 = 4;
/// CUgraphInstantiateResult: the code of the call says why.
const INSTANTIATE_ERROR: u32 = 1;

/// Lists that the worker fills: (first, second, edge data) and how many there are.
type Fill<'a> = dyn FnMut(&mut [u64], &mut [u64], &mut [EdgeData], &mut usize) -> error::Result + 'a;

/// Where a program wants a list, each NULL or of `*count` elements.
struct Places {
    first: *mut u64,
    second: *mut u64,
    data: *mut EdgeData,
    count: *mut usize,
    /// There is a place for edge data, so edges that are not ordinary lose nothing.
    edges: bool,
}

/// Gives the count, or as many entries as there is room for; the rest of the room becomes NULL, as the driver does.
///
/// # Safety
/// The places are as [`Places`] says.
unsafe fn list(places: &Places, fill: &mut Fill<'_>) -> error::Result {
    // SAFETY: the caller's promise.
    let count = unsafe { places.count.as_mut() }.ok_or(error::INVALID_VALUE)?;
    if places.first.is_null() {
        if !places.data.is_null() {
            return Err(error::INVALID_VALUE);
        }
        return fill(&mut [], &mut [], &mut [], count);
    }
    let room = (*count).min(MOST);
    let (mut first, mut second) = (vec![0; room], vec![0; room]);
    let mut data = vec![EdgeData::default(); room];
    let mut found = 0;
    fill(&mut first, &mut second, &mut data, &mut found)?;
    if found > MOST && *count > MOST {
        vgpu_client::warn!("a list of {found} nodes or edges cannot be given: at most {MOST}");
        return Err(error::NOT_SUPPORTED);
    }
    if !places.edges && data.iter().any(|edge| edge.0 != [0; 8]) {
        return Err(error::LOSSY_QUERY);
    }
    for i in 0..*count {
        let at = |values: &[u64]| values.get(i).copied().unwrap_or(0);
        // SAFETY: the caller's promise: `i` is below the count that it gave.
        unsafe {
            places.first.add(i).write(at(&first));
            if !places.second.is_null() {
                places.second.add(i).write(at(&second));
            }
            if !places.data.is_null() {
                places.data.add(i).write(data.get(i).copied().unwrap_or_default());
            }
        }
    }
    *count = found.min(*count);
    Ok(())
}

unsafe fn nodes(graph: u64, which: u32, nodes: *mut u64, count: *mut usize) -> error::Result {
    handles::check_graph(graph)?;
    let null = std::ptr::null_mut();
    let places = Places { first: nodes, second: null, data: null.cast(), count, edges: true };
    // SAFETY: the program's pointers.
    unsafe {
        list(&places, &mut |first, _, _, count| {
            let room = first.len();
            calls::vgpuGraphGetNodes(graph, which, first, room, count)
        })
    }
}

pub unsafe fn cuGraphGetNodes(hGraph: u64, nodes_out: *mut u64, numNodes: *mut usize) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { nodes(hGraph, 0, nodes_out, numNodes) }
}

pub unsafe fn cuGraphGetRootNodes(hGraph: u64, nodes_out: *mut u64, numNodes: *mut usize) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { nodes(hGraph, 1, nodes_out, numNodes) }
}

unsafe fn edges(graph: u64, places: &Places) -> error::Result {
    handles::check_graph(graph)?;
    if places.first.is_null() != places.second.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointers.
    unsafe {
        list(places, &mut |from, to, data, count| {
            let room = from.len();
            calls::vgpuGraphGetEdges(graph, from, to, data, room, count)
        })
    }
}

pub unsafe fn cuGraphGetEdges(
    hGraph: u64,
    from: *mut u64,
    to: *mut u64,
    numEdges: *mut usize,
) -> error::Result {
    let data = std::ptr::null_mut();
    // SAFETY: the program's pointers.
    unsafe { edges(hGraph, &Places { first: from, second: to, data, count: numEdges, edges: false }) }
}

pub unsafe fn cuGraphGetEdges_v2(
    hGraph: u64,
    from: *mut u64,
    to: *mut u64,
    edgeData: *mut EdgeData,
    numEdges: *mut usize,
) -> error::Result {
    let places =
        Places { first: from, second: to, data: edgeData, count: numEdges, edges: !edgeData.is_null() };
    // SAFETY: the program's pointers.
    unsafe { edges(hGraph, &places) }
}

unsafe fn neighbours(
    node: u64,
    which: u32,
    first: *mut u64,
    data: *mut EdgeData,
    count: *mut usize,
    with_edges: bool,
) -> error::Result {
    handles::check_graphnode(node)?;
    let places = Places { first, second: std::ptr::null_mut(), data, count, edges: with_edges };
    // SAFETY: the program's pointers.
    unsafe {
        list(&places, &mut |first, _, data, count| {
            let room = first.len();
            calls::vgpuGraphNodeGetNeighbours(node, which, first, data, room, count)
        })
    }
}

macro_rules! neighbours {
    ($($plain:ident, $with_data:ident: $which:literal;)*) => {$(
        pub unsafe fn $plain(hNode: u64, nodes: *mut u64, count: *mut usize) -> error::Result {
            // SAFETY: the program's pointers.
            unsafe { neighbours(hNode, $which, nodes, std::ptr::null_mut(), count, false) }
        }

        pub unsafe fn $with_data(
            hNode: u64,
            nodes: *mut u64,
            edgeData: *mut EdgeData,
            count: *mut usize,
        ) -> error::Result {
            // SAFETY: the program's pointers.
            unsafe { neighbours(hNode, $which, nodes, edgeData, count, !edgeData.is_null()) }
        }
    )*};
}
neighbours! {
    cuGraphNodeGetDependencies, cuGraphNodeGetDependencies_v2: 0;
    cuGraphNodeGetDependentNodes, cuGraphNodeGetDependentNodes_v2: 1;
}

/// What came of an instantiation.
struct Instantiated {
    exec: u64,
    status: u32,
    node: u64,
    result: u32,
}

fn instantiate(graph: u64, flags: u64, stream: u64) -> error::Result<Instantiated> {
    handles::check_graph(graph)?;
    if flags & !INSTANTIATE_FLAGS != 0 {
        return Err(error::INVALID_VALUE);
    }
    handles::check_stream(stream)?;
    let mut made = Instantiated { exec: 0, status: 0, node: 0, result: 0 };
    calls::vgpuGraphInstantiate(
        &mut made.exec,
        graph,
        flags,
        stream,
        &mut made.status,
        &mut made.node,
        &mut made.result,
    )
    .inspect_err(|&status| {
        // The driver finds first what the graph must not have.
        if flags & DEVICE_LAUNCH != 0 && status == error::NOT_SUPPORTED {
            vgpu_client::warn!("instantiating a graph for launches by the device is not supported");
        }
    })?;
    Ok(made)
}

/// Gives the executable graph, or the driver's code.
///
/// # Safety
/// `place` is valid for a write.
unsafe fn finish(place: *mut u64, made: &Instantiated) -> error::Result {
    if made.status != 0 {
        return Err(made.status);
    }
    // SAFETY: the caller's promise.
    unsafe { put(place, made.exec) }
}

pub unsafe fn cuGraphInstantiateWithFlags(phGraphExec: *mut u64, hGraph: u64, flags: u64) -> error::Result {
    // An upload needs a stream, which only the parameters of cuGraphInstantiateWithParams name.
    if phGraphExec.is_null() || flags & UPLOAD != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer.
    unsafe { finish(phGraphExec, &instantiate(hGraph, flags, 0)?) }
}

/// CUDA_GRAPH_INSTANTIATE_PARAMS.
#[repr(C)]
struct InstantiateParams {
    flags: u64,
    stream: u64,
    error_node: u64,
    result: u32,
    _padding: u32,
}

/// `per_thread`: the `_ptsz` form, in which stream 0 of the parameters is the per-thread stream.
pub unsafe fn cuGraphInstantiateWithParams(
    phGraphExec: *mut u64,
    hGraph: u64,
    instantiateParams: *mut Blob8<32>,
    per_thread: bool,
) -> error::Result {
    // SAFETY: the program's pointer; same size and alignment.
    let parameters = unsafe { instantiateParams.cast::<InstantiateParams>().as_mut() };
    let parameters = parameters.filter(|_| !phGraphExec.is_null()).ok_or(error::INVALID_VALUE)?;
    let stream = if per_thread { call::per_thread(parameters.stream) } else { parameters.stream };
    parameters.error_node = 0;
    parameters.result = INSTANTIATE_ERROR;
    let made = instantiate(hGraph, parameters.flags, stream)?;
    parameters.error_node = made.node;
    parameters.result = made.result;
    // SAFETY: the program's pointer.
    unsafe { finish(phGraphExec, &made) }
}

/// The driver's text about what is wrong stays with the host: the log is empty.
pub unsafe fn cuGraphInstantiate(
    phGraphExec: *mut u64,
    hGraph: u64,
    phErrorNode: *mut u64,
    logBuffer: *mut u8,
    bufferSize: usize,
) -> error::Result {
    if phGraphExec.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let made = instantiate(hGraph, 0, 0)?;
    // SAFETY: the program's pointers, each NULL or valid.
    unsafe {
        if bufferSize > 0 {
            let _ = put(logBuffer, 0);
        }
        let _ = put(phErrorNode, made.node);
        finish(phGraphExec, &made)
    }
}

pub unsafe fn cuGraphInstantiate_v2(
    phGraphExec: *mut u64,
    hGraph: u64,
    phErrorNode: *mut u64,
    logBuffer: *mut u8,
    bufferSize: usize,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { cuGraphInstantiate(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize) }
}

/// Not waited for, unless graphs have memory: whether it is allocated already is the launch's own error.
pub unsafe fn cuGraphLaunch(hGraph: u64, hStream: u64) -> error::Result {
    handles::check_graphexec(hGraph)?;
    handles::check_stream(hStream)?;
    calls::cuGraphLaunch(hGraph, hStream)?;
    if memory::graphs_have_any() {
        call::settle()?;
    }
    launch::finish(hStream)
}

/// A graph that a stream captures, or that belongs to a node, stays.
pub unsafe fn cuGraphDestroy(hGraph: u64) -> error::Result {
    handles::check_graph(hGraph)?;
    calls::cuGraphDestroy(hGraph)?;
    handles::remove(hGraph);
    Ok(())
}

/// A node of memory, or of a graph that a stream captures, stays.
pub unsafe fn cuGraphDestroyNode(hNode: u64) -> error::Result {
    handles::check_graphnode(hNode)?;
    calls::cuGraphDestroyNode(hNode)?;
    handles::remove(hNode);
    Ok(())
}

/// What is under way goes on.
pub unsafe fn cuGraphExecDestroy(hGraphExec: u64) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    let result = calls::cuGraphExecDestroy(hGraphExec);
    handles::remove(hGraphExec);
    graph_pageable::exec_ended(hGraphExec);
    result
}

/// CUgraphExecUpdateResultInfo.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct UpdateResult {
    result: u32,
    _padding: u32,
    node: u64,
    from: u64,
}

/// The driver's code and what it says about the update.
fn update(exec: u64, graph: u64) -> error::Result<(u32, UpdateResult)> {
    handles::check_graphexec(exec)?;
    handles::check_graph(graph)?;
    let (mut status, mut info) = (0, UpdateResult::default());
    calls::vgpuGraphExecUpdate(exec, graph, &mut status, &mut info.result, &mut info.node, &mut info.from)?;
    Ok((status, info))
}

fn as_result(status: u32) -> error::Result {
    if status == 0 { Ok(()) } else { Err(status) }
}

pub unsafe fn cuGraphExecUpdate_v2(
    hGraphExec: u64,
    hGraph: u64,
    resultInfo: *mut Blob8<24>,
) -> error::Result {
    let (status, info) = update(hGraphExec, hGraph)?;
    // SAFETY: the program's pointer, which may be NULL; same size and alignment.
    let _ = unsafe { put(resultInfo.cast::<UpdateResult>(), info) };
    as_result(status)
}

pub unsafe fn cuGraphExecUpdate(
    hGraphExec: u64,
    hGraph: u64,
    hErrorNode_out: *mut u64,
    updateResult_out: *mut u32,
) -> error::Result {
    let (status, info) = update(hGraphExec, hGraph)?;
    // SAFETY: the program's pointers, which may be NULL.
    unsafe {
        let _ = put(hErrorNode_out, info.node);
        let _ = put(updateResult_out, info.result);
    }
    as_result(status)
}

/// The worker has the driver write the text; this process writes the file.
pub unsafe fn cuGraphDebugDotPrint(hGraph: u64, path: *const c_char, flags: u32) -> error::Result {
    use std::os::unix::ffi::OsStrExt;
    handles::check_graph(hGraph)?;
    // SAFETY: the program's pointer.
    let path = unsafe { call::text(path) }.ok_or(error::INVALID_VALUE)?;
    let (mut text, mut len) = (Vec::new(), 0);
    loop {
        let mut part = vec![0; 32768];
        let room = part.len();
        calls::vgpuGraphDot(hGraph, flags, text.len(), &mut part, room, &mut len)?;
        part.truncate(len.saturating_sub(text.len()));
        if part.is_empty() {
            break;
        }
        text.append(&mut part);
    }
    std::fs::write(std::ffi::OsStr::from_bytes(path.to_bytes()), text).map_err(|e| {
        vgpu_client::warn!("writing a graph to {}: {e}", path.to_string_lossy());
        vgpu_spec::result::CudaError::OperatingSystem as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(first: &mut [u64], _: &mut [u64], _: &mut [EdgeData], count: &mut usize) -> error::Result {
        for (place, value) in first.iter_mut().zip([11, 12, 13]) {
            *place = value;
        }
        *count = 3;
        Ok(())
    }

    fn places(first: *mut u64, count: *mut usize) -> Places {
        Places { first, second: std::ptr::null_mut(), data: std::ptr::null_mut(), count, edges: false }
    }

    #[test]
    fn a_list_gives_the_count_and_fills_the_rest_of_the_room_with_null() {
        let mut count = 0;
        // SAFETY: a place of our own, and no list.
        unsafe { list(&places(std::ptr::null_mut(), &raw mut count), &mut three) }.unwrap();
        assert_eq!(count, 3);
        let mut nodes = [9; 5];
        count = 5;
        // SAFETY: places of our own.
        unsafe { list(&places(nodes.as_mut_ptr(), &raw mut count), &mut three) }.unwrap();
        assert_eq!((nodes, count), ([11, 12, 13, 0, 0], 3));
        let mut few = [9; 2];
        count = 2;
        // SAFETY: places of our own.
        unsafe { list(&places(few.as_mut_ptr(), &raw mut count), &mut three) }.unwrap();
        assert_eq!((few, count), ([11, 12], 2));
    }

    #[test]
    fn edges_that_are_not_ordinary_are_not_dropped_silently() {
        let mut count = 1;
        let mut node = [0];
        let mut fill = |_: &mut [u64], _: &mut [u64], data: &mut [EdgeData], count: &mut usize| {
            data[0].0[2] = 1;
            *count = 1;
            Ok(())
        };
        // SAFETY: places of our own.
        let given = unsafe { list(&places(node.as_mut_ptr(), &raw mut count), &mut fill) };
        assert_eq!(given, Err(error::LOSSY_QUERY));
    }
}
