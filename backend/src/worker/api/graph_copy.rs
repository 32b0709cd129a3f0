//! Copy nodes of graphs.
#![allow(non_snake_case)]

use super::{
    copy_strided::span,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph_pageable::{self, Callbacks},
    thread::Thread,
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

impl Thread {
    /// A copy as the guest describes it, checked: host sides lie in its windows.
    pub fn copy_node(&self, given: Option<Vec<Blob8<200>>>) -> Result<Memcpy3D, CudaError> {
        let blob = given.and_then(|g| g.first().copied()).ok_or(INVALID_VALUE)?;
        // SAFETY: both are 200 bytes, any bytes are a `Memcpy3D`, and reading does not need its alignment.
        let copy = unsafe { (&raw const blob).cast::<Memcpy3D>().read_unaligned() };
        for side in [&copy.src, &copy.dst] {
            match side.kind {
                memory_type::DEVICE => {}
                memory_type::HOST => self.check_host_side(side, &copy)?,
                _ => return Err(NOT_SUPPORTED),
            }
        }
        Ok(copy)
    }

    fn check_host_side(&self, side: &Memcpy3DSide, copy: &Memcpy3D) -> Result<(), CudaError> {
        let pitch = if side.pitch == 0 { copy.width } else { side.pitch };
        let height = if side.height == 0 { copy.height } else { side.height };
        let len = || {
            let slice = pitch.checked_mul(height)?;
            let first =
                side.x.checked_add(side.y.checked_mul(pitch)?)?.checked_add(side.z.checked_mul(slice)?)?;
            first.checked_add(span(pitch, slice, copy.width, copy.height, copy.depth)?)
        };
        let len = len().ok_or(INVALID_VALUE)?;
        if self.client.windows.contains(side.host, len as u64) { Ok(()) } else { Err(INVALID_VALUE) }
    }
}

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
    let copy = t.copy_node(copy)?;
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
    let copy = t.copy_node(copy)?;
    let place = (&raw const copy).cast();
    graph_pageable::set(t, t.optional_exec(exec)?, node, Callbacks { before, after, release })?;
    match t.optional_exec(exec)? {
        0 => {
            let set = t.driver.cuGraphMemcpyNodeSetParams.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(node, place) })
        }
        exec => {
            let set = t.driver.cuGraphExecMemcpyNodeSetParams.ok_or(NOT_SUPPORTED)?;
            let ctx = t.context(ctx)?;
            // SAFETY: as above.
            check(unsafe { set(exec, node, place, ctx) })
        }
    }
}

/// Arrays would be the driver's handles: such a node is not given.
pub fn cuGraphMemcpyNodeGetParams(t: &mut Thread, node: u64) -> Result<Blob8<200>, CudaError> {
    let get = t.driver.cuGraphMemcpyNodeGetParams.ok_or(NOT_SUPPORTED)?;
    let mut blob = Blob8::<200>::default();
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, &raw mut blob) })?;
    // SAFETY: as in `copy_node`.
    let copy = unsafe { (&raw const blob).cast::<Memcpy3D>().read_unaligned() };
    if copy.src.array != 0 || copy.dst.array != 0 {
        return Err(NOT_SUPPORTED);
    }
    Ok(blob)
}
