//! Nodes of external semaphores. A program has no semaphore, so its nodes have none; such a node the driver makes.

use crate::{
    call::{self, put},
    calls, error,
    external::{SIGNAL, WAIT},
    graph_node::node_type,
    handles, unsupported,
};
use vgpu_spec::plain::Blob8;

/// CUgraphNodeType of a node that signals and of one that waits, by what the messages call `wait`.
const TYPES: [u32; 2] = [node_type::EXT_SEMAS_SIGNAL, node_type::EXT_SEMAS_WAIT];

/// CUDA_EXT_SEM_SIGNAL_NODE_PARAMS and CUDA_EXT_SEM_WAIT_NODE_PARAMS.
pub type Parameters = Blob8<24>;

#[repr(C)]
#[derive(Clone, Copy)]
struct Semaphores {
    handles: *const u64,
    parameters: *const Blob8<144>,
    count: u32,
}

/// What is asked for: nothing wrong with no semaphores.
///
/// # Safety
/// `parameters` is NULL or valid.
unsafe fn read(parameters: *const Parameters) -> error::Result<Semaphores> {
    // SAFETY: the caller's promise; same size and alignment.
    let asked = unsafe { parameters.cast::<Semaphores>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    if asked.count > 0 && (asked.handles.is_null() || asked.parameters.is_null()) {
        return Err(error::INVALID_VALUE);
    }
    Ok(*asked)
}

impl Semaphores {
    fn refuse_any(&self) -> error::Result {
        if self.count == 0 {
            return Ok(());
        }
        // Functions for nodes of any type have no reason of their own.
        unsupported::note(
            "a graph node of external semaphores",
            "they are for interoperation with graphics APIs",
        );
        Err(error::NOT_SUPPORTED)
    }
}

/// Adds a node.
///
/// # Safety
/// The program's pointers.
pub unsafe fn add(
    place: *mut u64,
    graph: u64,
    dependencies: *const u64,
    count: usize,
    parameters: *const Parameters,
    wait: u32,
) -> error::Result {
    handles::check_graph(graph)?;
    // SAFETY: the caller's promise.
    let (after, asked) = unsafe { (call::slice(dependencies, count), read(parameters)?) };
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    asked.refuse_any()?;
    let mut node = 0;
    calls::vgpuGraphAddExternalSemaphoresNode(&mut node, graph, after, count, wait)?;
    // SAFETY: the program's pointer.
    unsafe { put(place, node) }
}

/// Gives a node other semaphores; `exec` 0: the node of the graph itself.
///
/// # Safety
/// The program's pointer.
pub unsafe fn set(exec: u64, node: u64, parameters: *const Parameters, wait: u32) -> error::Result {
    handles::check_graphnode(node)?;
    // SAFETY: the caller's promise.
    let asked = unsafe { read(parameters) }?;
    let mut kind = 0;
    calls::cuGraphNodeGetType(node, &mut kind)?;
    if TYPES.get(wait as usize) != Some(&kind) {
        return Err(error::INVALID_VALUE);
    }
    asked.refuse_any()?;
    calls::vgpuGraphExternalSemaphoresNodeSetParams(exec, node, wait)
}

/// # Safety
/// The program's pointer.
unsafe fn get(node: u64, place: *mut Parameters, wait: u32) -> error::Result {
    handles::check_graphnode(node)?;
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut count = 0;
    calls::vgpuGraphExternalSemaphoresNodeGetParams(node, wait, &mut count)?;
    let none = Semaphores { handles: std::ptr::null(), parameters: std::ptr::null(), count };
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(place.cast::<Semaphores>(), none) }
}

pub unsafe fn cuGraphAddExternalSemaphoresSignalNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *const Parameters,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { add(phGraphNode, hGraph, dependencies, numDependencies, nodeParams, SIGNAL) }
}

pub unsafe fn cuGraphAddExternalSemaphoresWaitNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    nodeParams: *const Parameters,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { add(phGraphNode, hGraph, dependencies, numDependencies, nodeParams, WAIT) }
}

pub unsafe fn cuGraphExternalSemaphoresSignalNodeSetParams(
    hNode: u64,
    nodeParams: *const Parameters,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { set(0, hNode, nodeParams, SIGNAL) }
}

pub unsafe fn cuGraphExternalSemaphoresWaitNodeSetParams(
    hNode: u64,
    nodeParams: *const Parameters,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { set(0, hNode, nodeParams, WAIT) }
}

pub unsafe fn cuGraphExecExternalSemaphoresSignalNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    nodeParams: *const Parameters,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    // SAFETY: the program's pointer.
    unsafe { set(hGraphExec, hNode, nodeParams, SIGNAL) }
}

pub unsafe fn cuGraphExecExternalSemaphoresWaitNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    nodeParams: *const Parameters,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    // SAFETY: the program's pointer.
    unsafe { set(hGraphExec, hNode, nodeParams, WAIT) }
}

pub unsafe fn cuGraphExternalSemaphoresSignalNodeGetParams(
    hNode: u64,
    params_out: *mut Parameters,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { get(hNode, params_out, SIGNAL) }
}

pub unsafe fn cuGraphExternalSemaphoresWaitNodeGetParams(
    hNode: u64,
    params_out: *mut Parameters,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { get(hNode, params_out, WAIT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(handles: *const u64, count: u32) -> error::Result<Semaphores> {
        let parameters = std::ptr::NonNull::<Blob8<144>>::dangling().as_ptr().cast_const();
        let wanted = Semaphores { handles, parameters, count };
        // SAFETY: a structure of this function; what its arrays have is not read.
        unsafe { read((&raw const wanted).cast()) }
    }

    #[test]
    fn only_a_node_without_semaphores_is_made() {
        let one = 5_u64;
        assert_eq!(asked(&raw const one, 0).and_then(|s| s.refuse_any()), Ok(()));
        assert_eq!(asked(std::ptr::null(), 0).and_then(|s| s.refuse_any()), Ok(()));
        assert_eq!(asked(&raw const one, 1).and_then(|s| s.refuse_any()), Err(error::NOT_SUPPORTED));
        assert_eq!(asked(std::ptr::null(), 1).map(|s| s.count), Err(error::INVALID_VALUE));
        // SAFETY: NULL is allowed.
        assert!(unsafe { read(std::ptr::null()) }.is_err());
    }
}
