//! Nodes of external semaphores, of which a client has none.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    graph::dependencies,
    thread::Thread,
};
use vgpu_spec::plain::Blob8;

/// CUDA_EXT_SEM_SIGNAL_NODE_PARAMS and CUDA_EXT_SEM_WAIT_NODE_PARAMS: two arrays and their length. Zeros are no semaphores.
type Parameters = Blob8<24>;
/// Where the length is.
const COUNT: std::ops::Range<usize> = 16..20;

pub fn vgpuGraphAddExternalSemaphoresNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    wait: u32,
) -> Result<u64, CudaError> {
    let none = Parameters::default();
    let (after, n) = dependencies(after.as_ref(), n)?;
    let mut node = 0_u64;
    let status = if wait == 0 {
        let add = t.driver.cuGraphAddExternalSemaphoresSignalNode.ok_or(NOT_SUPPORTED)?;
        // SAFETY: live handles of this client; a private structure of this type and a place that outlive the call.
        unsafe { add(&raw mut node, graph, after, n, &raw const none) }
    } else {
        let add = t.driver.cuGraphAddExternalSemaphoresWaitNode.ok_or(NOT_SUPPORTED)?;
        // SAFETY: as above.
        unsafe { add(&raw mut node, graph, after, n, &raw const none) }
    };
    check(status)?;
    t.number_graphnode(node, graph)
}

pub fn vgpuGraphExternalSemaphoresNodeSetParams(
    t: &mut Thread,
    exec: u64,
    node: u64,
    wait: u32,
) -> Result<(), CudaError> {
    let none = Parameters::default();
    let exec = t.optional_exec(exec)?;
    if exec == 0 {
        let signal = t.driver.cuGraphExternalSemaphoresSignalNodeSetParams;
        let set = if wait == 0 { signal } else { t.driver.cuGraphExternalSemaphoresWaitNodeSetParams };
        let set = set.ok_or(NOT_SUPPORTED)?;
        // SAFETY: a live node of this client, and a private structure of this type that outlives the call.
        return check(unsafe { set(node, &raw const none) });
    }
    let signal = t.driver.cuGraphExecExternalSemaphoresSignalNodeSetParams;
    let set = if wait == 0 { signal } else { t.driver.cuGraphExecExternalSemaphoresWaitNodeSetParams };
    let set = set.ok_or(NOT_SUPPORTED)?;
    // SAFETY: as above.
    check(unsafe { set(exec, node, &raw const none) })
}

pub fn vgpuGraphExternalSemaphoresNodeGetParams(
    t: &mut Thread,
    node: u64,
    wait: u32,
) -> Result<u32, CudaError> {
    let mut found = Parameters::default();
    let signal = t.driver.cuGraphExternalSemaphoresSignalNodeGetParams;
    let get = if wait == 0 { signal } else { t.driver.cuGraphExternalSemaphoresWaitNodeGetParams };
    let get = get.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live node of this client, and a place of this type that outlives the call.
    check(unsafe { get(node, &raw mut found) })?;
    let mut count = [0; 4];
    count.copy_from_slice(&found.0[COUNT]);
    Ok(u32::from_le_bytes(count))
}
