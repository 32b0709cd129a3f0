//! Copy nodes. What they copy is read at each launch, so host memory must be pinned: pageable memory has no place that both sides see.

use crate::{
    call,
    call::put,
    calls,
    copy_strided::{blob, pinned_or_device},
    error, handles,
};
use vgpu_spec::{plain::Blob8, structure::Memcpy3D};

/// The description with each side host or device memory, refused if it cannot be served.
///
/// # Safety
/// `given` is NULL or valid.
unsafe fn prepare(given: *const Blob8<200>) -> error::Result<Blob8<200>> {
    // SAFETY: the caller's promise; same size and alignment.
    let given = unsafe { given.cast::<Memcpy3D>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    Ok(blob(&pinned_or_device(given)?))
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
    handles::check_context(ctx)?;
    // SAFETY: the program's pointers.
    let (after, copy) = unsafe { (call::slice(dependencies, numDependencies), prepare(copyParams)?) };
    after.into_iter().flatten().try_for_each(|&n| handles::check_graphnode(n))?;
    let mut node = 0;
    calls::vgpuGraphAddMemcpyNode(
        &mut node,
        hGraph,
        after,
        numDependencies,
        std::slice::from_ref(&copy),
        ctx,
    )?;
    // SAFETY: the program's pointer.
    unsafe { put(phGraphNode, node) }
}

pub unsafe fn cuGraphMemcpyNodeSetParams(hNode: u64, nodeParams: *const Blob8<200>) -> error::Result {
    handles::check_graphnode(hNode)?;
    // SAFETY: the program's pointer.
    let copy = unsafe { prepare(nodeParams) }?;
    calls::vgpuGraphMemcpyNodeSetParams(0, hNode, std::slice::from_ref(&copy), 0)
}

pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    hGraphExec: u64,
    hNode: u64,
    copyParams: *const Blob8<200>,
    ctx: u64,
) -> error::Result {
    handles::check_graphexec(hGraphExec)?;
    handles::check_graphnode(hNode)?;
    handles::check_context(ctx)?;
    // SAFETY: the program's pointer.
    let copy = unsafe { prepare(copyParams) }?;
    calls::vgpuGraphMemcpyNodeSetParams(hGraphExec, hNode, std::slice::from_ref(&copy), ctx)
}
