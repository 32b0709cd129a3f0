//! Copies between contexts, which may be of different devices.

use crate::{calls, context, copy, copy_strided::copy_peer, error, handles};
use vgpu_spec::plain::Blob8;

/// NULL is the current context.
fn or_current(context: u64) -> error::Result<u64> {
    let context = if context == 0 { context::current() } else { context };
    handles::check_context(context)?;
    Ok(context)
}

pub unsafe fn cuMemcpyPeer(
    dstDevice: u64,
    dstContext: u64,
    srcDevice: u64,
    srcContext: u64,
    ByteCount: usize,
    _stream: u64,
) -> error::Result {
    let (dstContext, srcContext) = (or_current(dstContext)?, or_current(srcContext)?);
    // Ordered by the driver behind and before all work of both contexts, whichever form was called.
    calls::cuMemcpyPeer(dstDevice, dstContext, srcDevice, srcContext, ByteCount)?;
    copy::settle_unless_known(dstDevice, srcDevice, ByteCount)
}

pub unsafe fn cuMemcpyPeerAsync(
    dstDevice: u64,
    dstContext: u64,
    srcDevice: u64,
    srcContext: u64,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    let (dstContext, srcContext) = (or_current(dstContext)?, or_current(srcContext)?);
    handles::check_stream(hStream)?;
    calls::cuMemcpyPeerAsync(dstDevice, dstContext, srcDevice, srcContext, ByteCount, hStream)?;
    copy::settle_unless_known(dstDevice, srcDevice, ByteCount)
}

pub unsafe fn cuMemcpy3DPeer(pCopy: *const Blob8<200>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_peer(pCopy, stream, 1, true) }
}

pub unsafe fn cuMemcpy3DPeerAsync(pCopy: *const Blob8<200>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_peer(pCopy, hStream, 2, false) }
}
