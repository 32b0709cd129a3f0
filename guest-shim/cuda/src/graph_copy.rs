//! Copy nodes. What they copy is read at each launch.

use crate::{
    call,
    call::put,
    calls, context, error,
    graph_pageable::{self, Prepared},
    handles,
};
use vgpu_spec::{plain::Blob8, structure::Memcpy3D};

/// The copy, refused if it cannot be served.
///
/// # Safety
/// `given` is NULL or valid.
unsafe fn prepare(given: *const Blob8<200>) -> error::Result<Prepared> {
    // SAFETY: the caller's promise; same size and alignment.
    let given = unsafe { given.cast::<Memcpy3D>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    Prepared::new(given)
}

pub unsafe fn cuGraphAddMemcpyNode(
    phGraphNode: *mut u64,
    hGraph: u64,
    dependencies: *const u64,
    numDependencies: usize,
    copyParams: *const Blob8<200>,
    ctx: u64,
) -> error::Result {
    handles::check_graph(hGraph)?;
    let ctx = context::resolve(ctx)?;
    // SAFETY: the program's pointers.
    let after = unsafe { call::slice(dependencies, numDependencies) };
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let mut node = 0;
    // SAFETY: the program's pointer.
    unsafe { prepare(copyParams) }?.into_graph(|copy, before, after_copy, release| {
        let n = numDependencies;
        calls::vgpuGraphAddMemcpyNode(&mut node, hGraph, after, n, copy, ctx, before, after_copy, release)
    })?;
    // SAFETY: the program's pointer.
    unsafe { put(phGraphNode, node) }
}

pub unsafe fn cuGraphMemcpyNodeSetParams(hNode: u64, nodeParams: *const Blob8<200>) -> error::Result {
    handles::check_graphnode(hNode)?;
    // SAFETY: the program's pointer.
    unsafe { prepare(nodeParams) }?.into_graph(|copy, before, after, release| {
        calls::vgpuGraphMemcpyNodeSetParams(0, hNode, copy, 0, before, after, release)
    })
}

/// Pageable memory is named as the program named it.
pub unsafe fn cuGraphMemcpyNodeGetParams(hNode: u64, nodeParams: *mut Blob8<200>) -> error::Result {
    handles::check_graphnode(hNode)?;
    if nodeParams.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut blob = Blob8::default();
    calls::cuGraphMemcpyNodeGetParams(hNode, &mut blob)?;
    // SAFETY: both are 200 bytes, and any bytes are a `Memcpy3D`.
    let copy = unsafe { (&raw const blob).cast::<Memcpy3D>().read_unaligned() };
    // SAFETY: the program's pointer; same size and alignment.
    unsafe { put(nodeParams.cast::<Memcpy3D>(), graph_pageable::as_given(&copy)) }
}

pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    copyParams: *const Blob8<200>,
    ctx: u64,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    handles::check_graphnode(hNode)?;
    let ctx = context::resolve(ctx)?;
    // SAFETY: the program's pointer.
    unsafe { prepare(copyParams) }?.into_exec(hGraphExec, hNode, |copy, before, after, release| {
        calls::vgpuGraphMemcpyNodeSetParams(hGraphExec, hNode, copy, ctx, before, after, release)
    })
}
