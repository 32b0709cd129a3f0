//! Copy nodes of graphs.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph_pageable::{self, Callbacks},
    thread::Thread,
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, memory_type},
};

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphAddMemcpyNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    n: usize,
    copy: Option<Vec<Blob8<200>>>,
    ctx: u64,
    before: u64,
    after_copy: u64,
    release: u64,
) -> Result<u64, CudaError> {
    let add = t.driver.cuGraphAddMemcpyNode.ok_or(NOT_SUPPORTED)?;
    let copy = t.checked_copy(copy, false)?;
    let callbacks = Callbacks { before, after: after_copy, release };
    let node = graph_pageable::add(t, graph, after.as_ref(), n, callbacks, |after, n| {
        let mut node = 0_u64;
        // SAFETY: live handles of this client; host sides lie in its windows, the driver checks device sides.
        check(unsafe { add(&raw mut node, graph, after, n, (&raw const copy).cast(), ctx) })?;
        Ok(node)
    })?;
    t.number_graphnode(node, graph)
}

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphMemcpyNodeSetParams(
    t: &mut Thread,
    exec: u64,
    node: u64,
    copy: Option<Vec<Blob8<200>>>,
    ctx: u64,
    before: u64,
    after: u64,
    release: u64,
) -> Result<(), CudaError> {
    let copy = t.checked_copy(copy, false)?;
    let place = (&raw const copy).cast();
    let (exec, callbacks) = (t.optional_exec(exec)?, Callbacks { before, after, release });
    graph_pageable::make_helpers(t, exec, node, callbacks)?;
    match exec {
        0 => {
            let set = t.driver.cuGraphMemcpyNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(node, place) })?;
        }
        exec => {
            let set = t.driver.cuGraphExecMemcpyNodeSetParams.ok_or(NOT_SUPPORTED)?;
            let ctx = t.context(ctx)?;
            // SAFETY: as above.
            check(unsafe { set(exec, node, place, ctx) })?;
        }
    }
    graph_pageable::set(t, exec, node, callbacks)
}

/// Arrays come back as the guest's: one that has ended is not given.
pub fn cuGraphMemcpyNodeGetParams(t: &mut Thread, node: u64) -> Result<Blob8<200>, CudaError> {
    let get = t.driver.cuGraphMemcpyNodeGetParams.ok_or(NOT_SUPPORTED)?;
    let mut blob = Blob8::<200>::default();
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, &raw mut blob) })?;
    // SAFETY: both are 200 bytes, any bytes are a `Memcpy3D`, and reading does not need its alignment.
    let mut copy = unsafe { (&raw const blob).cast::<Memcpy3D>().read_unaligned() };
    for side in [&mut copy.src, &mut copy.dst] {
        side.array = match side.kind {
            memory_type::ARRAY => t.session.arrays.known(side.array).ok_or(INVALID_VALUE)?,
            _ => 0,
        };
    }
    // SAFETY: as above.
    unsafe { (&raw mut blob).cast::<Memcpy3D>().write_unaligned(copy) };
    Ok(blob)
}
