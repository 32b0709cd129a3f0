//! Kernel nodes. Parameters travel as one buffer; what is given back points into memory of this process that is kept per node.

use crate::{
    call::{self, put},
    calls, error,
    function::{self, Info, Parameters},
    handles, kernel,
    launch::Arguments,
};
use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{
    handle::{self, Kind},
    plain::Blob8,
};

/// The largest parameter area of a kernel.
const MAX_PARAMETERS: usize = 32764;

/// CUDA_KERNEL_NODE_PARAMS; the first version ends before `kernel`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNode {
    function: u64,
    shape: [u32; 7],
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: u64,
    context: u64,
}

/// What the first version has.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelNodeV1 {
    function: u64,
    shape: [u32; 7],
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
}

impl From<KernelNodeV1> for KernelNode {
    fn from(v1: KernelNodeV1) -> Self {
        let KernelNodeV1 { function, shape, parameters, extra } = v1;
        KernelNode { function, shape, parameters, extra, kernel: 0, context: 0 }
    }
}

/// Parameters that were given to the program: list and bytes. They stay where they are for the node's life.
#[derive(Default)]
struct Given {
    /// Words, so that parameters are aligned.
    bytes: Vec<u64>,
    list: Vec<usize>,
}

/// By the node's index: a new node of the same index takes the old one's place.
static GIVEN: Mutex<Option<HashMap<u32, Given>>> = Mutex::new(None);

/// Keeps parameters for the program; where the list is. As long as the layout is the same, list and bytes stay in place.
fn keep(node: u64, parameters: &Parameters, bytes: &[u8]) -> *mut *mut c_void {
    let index = handle::split(node).map_or(0, |p| p.index);
    let mut all = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = all.get_or_insert_default().entry(index).or_default();
    let words = parameters.size.max(bytes.len()).div_ceil(8);
    if given.bytes.len() != words || given.list.len() != parameters.layout.len() {
        *given = Given { bytes: vec![0; words], list: vec![0; parameters.layout.len()] };
    }
    vgpu_spec::plain::fill(&mut given.bytes, bytes);
    let start = given.bytes.as_mut_ptr().expose_provenance();
    for (place, &(offset, _)) in given.list.iter_mut().zip(&parameters.layout) {
        *place = start + offset as usize;
    }
    if given.list.is_empty() { std::ptr::null_mut() } else { given.list.as_mut_ptr().cast() }
}

/// Calls `send` with function, parameters and context of a node.
///
/// # Safety
/// The parameters are as the driver API documents them.
unsafe fn with(node: &KernelNode, send: impl FnOnce(u64, &[u8], u64) -> error::Result) -> error::Result {
    let function = if node.function == 0 { node.kernel } else { node.function };
    handles::check_callable(function)?;
    let context = if node.function == 0 { node.context } else { 0 };
    if context != 0 {
        handles::check_context(context)?;
    }
    let arguments = Arguments { list: node.parameters, extra: node.extra };
    // SAFETY: the caller's promise.
    unsafe { arguments.with(function::info(function)?, |bytes| send(function, bytes, context)) }
}

/// # Safety
/// The program's pointers.
pub unsafe fn add(
    place: *mut u64,
    graph: u64,
    dependencies: *const u64,
    count: usize,
    node: &KernelNode,
) -> error::Result {
    handles::check_graph(graph)?;
    // SAFETY: the caller's promise.
    let after = unsafe { call::slice(dependencies, count) };
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let mut made = 0;
    // SAFETY: the caller's promise.
    unsafe {
        with(node, |function, bytes, context| {
            calls::vgpuGraphAddKernelNode(
                &mut made,
                graph,
                after,
                count,
                function,
                &node.shape,
                bytes,
                bytes.len(),
                context,
            )
        })?;
        put(place, made)
    }
}

/// `exec` 0: the node of the graph itself.
///
/// # Safety
/// The program's pointers.
pub unsafe fn set(exec: u64, handle: u64, node: &KernelNode) -> error::Result {
    if exec != 0 {
        handles::check_graphexec(exec)?;
    }
    handles::check_graphnode(handle)?;
    // SAFETY: the caller's promise.
    unsafe {
        with(node, |function, bytes, context| {
            calls::vgpuGraphKernelNodeSetParams(
                exec,
                handle,
                function,
                &node.shape,
                bytes,
                bytes.len(),
                context,
            )
        })
    }
}

/// What is known of a function or kernel; of one that the worker numbered, it is asked once.
fn info_of(number: u64) -> error::Result<&'static Info> {
    if let Ok(info) = function::info(number) {
        return Ok(info);
    }
    let (name, layout) = function::describe(number)?;
    handles::set_word(number, 0, Info::new(&name, &layout).word());
    function::info(number)
}

fn get(node: u64) -> error::Result<KernelNode> {
    handles::check_graphnode(node)?;
    let mut found = KernelNode {
        function: 0,
        shape: [0; 7],
        parameters: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
        kernel: 0,
        context: 0,
    };
    let (mut bytes, mut len) = (vec![0; MAX_PARAMETERS], 0);
    calls::vgpuGraphKernelNodeGetParams(
        node,
        &mut found.function,
        &mut found.kernel,
        &mut found.context,
        &mut found.shape,
        &mut bytes,
        MAX_PARAMETERS,
        &mut len,
    )?;
    bytes.truncate(len);
    let callable = if found.function == 0 { found.kernel } else { found.function };
    found.parameters = keep(node, info_of(callable)?.parameters()?, &bytes);
    // The runtime (13.x) names both, and looks for the kernel.
    if found.kernel == 0 {
        let (_, owner) = handles::words(Kind::Function, found.function)?;
        found.kernel = if handles::is(Kind::Kernel, owner) { owner } else { 0 };
    } else if found.function == 0 {
        found.function = kernel::function_of(found.kernel)?;
    }
    Ok(found)
}

/// A version 1 node cannot name a kernel: it gets the kernel's function.
pub unsafe fn cuGraphKernelNodeGetParams(hNode: u64, nodeParams: *mut Blob8<56>) -> error::Result {
    let place = nodeParams.cast::<KernelNodeV1>();
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let KernelNode { function, shape, parameters, extra, kernel, .. } = get(hNode)?;
    let function = match function {
        0 if handles::is(Kind::Kernel, kernel) => kernel::function_of(kernel)?,
        _ => function,
    };
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(place, KernelNodeV1 { function, shape, parameters, extra }) }
}

pub unsafe fn cuGraphKernelNodeGetParams_v2(hNode: u64, nodeParams: *mut Blob8<72>) -> error::Result {
    const { assert!(size_of::<KernelNode>() == 72 && size_of::<KernelNodeV1>() == 56) };
    let place = nodeParams.cast::<KernelNode>();
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(place, get(hNode)?) }
}

/// # Safety
/// NULL or valid.
unsafe fn v1(parameters: *const Blob8<56>) -> error::Result<KernelNode> {
    // SAFETY: the caller's promise; same size and alignment.
    let node = unsafe { parameters.cast::<KernelNodeV1>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    Ok((*node).into())
}

/// # Safety
/// NULL or valid.
unsafe fn v2(parameters: *const Blob8<72>) -> error::Result<KernelNode> {
    // SAFETY: the caller's promise; same size and alignment.
    unsafe { parameters.cast::<KernelNode>().as_ref() }.copied().ok_or(error::INVALID_VALUE)
}

macro_rules! versions {
    ($($read:ident, $size:literal: $add:ident, $set:ident, $set_exec:ident;)*) => {$(
        pub unsafe fn $add(
            phGraphNode: *mut u64,
            hGraph: u64,
            dependencies: *const u64,
            numDependencies: usize,
            nodeParams: *const Blob8<$size>,
        ) -> error::Result {
            // SAFETY: the program's pointers.
            unsafe { add(phGraphNode, hGraph, dependencies, numDependencies, &$read(nodeParams)?) }
        }

        pub unsafe fn $set(hNode: u64, nodeParams: *const Blob8<$size>) -> error::Result {
            // SAFETY: the program's pointers.
            unsafe { set(0, hNode, &$read(nodeParams)?) }
        }

        pub unsafe fn $set_exec(hGraphExec: u64, hNode: u64, nodeParams: *const Blob8<$size>) -> error::Result {
            handles::check_graphexec(hGraphExec)?;
            // SAFETY: the program's pointers.
            unsafe { set(hGraphExec, hNode, &$read(nodeParams)?) }
        }
    )*};
}
versions! {
    v1, 56: cuGraphAddKernelNode, cuGraphKernelNodeSetParams, cuGraphExecKernelNodeSetParams;
    v2, 72: cuGraphAddKernelNode_v2, cuGraphKernelNodeSetParams_v2, cuGraphExecKernelNodeSetParams_v2;
}

/// The driver writes into the value of one attribute (the device's handle of a node), although it is const.
pub unsafe fn cuGraphKernelNodeSetAttribute(hNode: u64, attr: u32, value: *const Blob8<64>) -> error::Result {
    handles::check_graphnode(hNode)?;
    // SAFETY: the program's pointer.
    let given = *unsafe { value.as_ref() }.ok_or(error::INVALID_VALUE)?;
    let mut result = given;
    calls::vgpuGraphKernelNodeSetAttribute(hNode, attr, &[given], &mut result)?;
    if result.0 != given.0 {
        // SAFETY: the program's pointer, in which the driver would have written too.
        unsafe { value.cast_mut().write(result) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_given_twice_lie_in_the_same_place() {
        let layout: Vec<u8> = [0_u32, 8, 8, 4].iter().flat_map(|n| n.to_le_bytes()).collect();
        let parameters = Info::new(c"k", &layout).parameters().unwrap();
        let node = handle::make(Kind::GraphNode, handle::WORKER_INDEX + 9, 0);
        let read = |list: *mut *mut c_void| {
            // SAFETY: a list of two parameters, of 8 and 4 bytes.
            unsafe { ((*list).cast::<u64>().read(), (*list.add(1)).cast::<u32>().read()) }
        };
        let first = keep(node, parameters, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(read(first), (1, 2));
        let second = keep(node, parameters, &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(second, first);
        assert_eq!(read(first), (3, 4));
    }
}
