//! Copies between contexts, which may be of different devices.

use crate::{calls, copy, error, handles};

pub unsafe fn cuMemcpyPeer(
    dstDevice: u64,
    dstContext: u64,
    srcDevice: u64,
    srcContext: u64,
    ByteCount: usize,
    _stream: u64,
) -> error::Result {
    handles::check_context(dstContext)?;
    handles::check_context(srcContext)?;
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
    handles::check_context(dstContext)?;
    handles::check_context(srcContext)?;
    handles::check_stream(hStream)?;
    calls::cuMemcpyPeerAsync(dstDevice, dstContext, srcDevice, srcContext, ByteCount, hStream)?;
    copy::settle_unless_known(dstDevice, srcDevice, ByteCount)
}
