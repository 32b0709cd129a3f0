//! Copies between contexts, which may be of different devices, and multicast objects, which are allocations to all other calls.

use crate::{call, call::put, calls, client, copy, error, handles};
use vgpu_spec::{handle::Kind, plain::Blob8};

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

pub unsafe fn cuMulticastCreate(mcHandle: *mut u64, prop: *const Blob8<32>) -> error::Result {
    client::get()?;
    // SAFETY: the program's pointer, or NULL.
    let prop = unsafe { call::slice(prop, 1) }.ok_or(error::INVALID_VALUE)?;
    if mcHandle.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // Held once, as what cuMemCreate makes.
    let made = handles::create_with(Kind::Allocation, 1, 0)?;
    if let Err(status) = calls::cuMulticastCreate(made, prop) {
        handles::remove(made);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(mcHandle, made) }
}
