//! Copies between contexts, which may be of different devices, and multicast objects, which are allocations to all other calls.

use crate::{call, call::put, calls, client, context, copy, copy_strided::copy_peer, device, error, handles};
use std::ffi::c_void;
use vgpu_spec::{handle::Kind, plain::Blob8};

/// CUDA_NVSCISYNC_ATTR_SIGNAL and _WAIT: at least one of them is wanted.
const NVSCISYNC: std::ops::RangeInclusive<i32> = 1..=3;

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
    copy::settle_unless_known(dstDevice, srcDevice, ByteCount, 0)
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
    copy::settle_unless_known(dstDevice, srcDevice, ByteCount, hStream)
}

pub unsafe fn cuMemcpy3DPeer(pCopy: *const Blob8<200>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_peer(pCopy, stream, 1, true) }
}

pub unsafe fn cuMemcpy3DPeerAsync(pCopy: *const Blob8<200>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_peer(pCopy, hStream, 2, false) }
}

/// Without a device that can take part, the driver refuses everything, whatever the arguments are.
fn need_multicast() -> error::Result {
    if client::get()?.devices.have_multicast() { Ok(()) } else { Err(error::NOT_SUPPORTED) }
}

pub unsafe fn cuMulticastCreate(mcHandle: *mut u64, prop: *const Blob8<32>) -> error::Result {
    need_multicast()?;
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

pub unsafe fn cuMulticastAddDevice(mcHandle: u64, dev: i32) -> error::Result {
    need_multicast()?;
    handles::check_allocation(mcHandle)?;
    calls::cuMulticastAddDevice(mcHandle, device::host_ordinal(dev)?)
}

pub unsafe fn cuMulticastBindAddr(
    mcHandle: u64,
    mcOffset: usize,
    memptr: u64,
    size: usize,
    flags: u64,
) -> error::Result {
    need_multicast()?;
    handles::check_allocation(mcHandle)?;
    calls::cuMulticastBindAddr(mcHandle, mcOffset, memptr, size, flags)
}

pub unsafe fn cuMulticastBindMem(
    mcHandle: u64,
    mcOffset: usize,
    memHandle: u64,
    memOffset: usize,
    size: usize,
    flags: u64,
) -> error::Result {
    need_multicast()?;
    handles::check_allocation(mcHandle)?;
    handles::check_allocation(memHandle)?;
    calls::cuMulticastBindMem(mcHandle, mcOffset, memHandle, memOffset, size, flags)
}

pub unsafe fn cuMulticastGetGranularity(
    granularity: *mut usize,
    prop: *const Blob8<32>,
    option: u32,
) -> error::Result {
    need_multicast()?;
    // SAFETY: the program's pointer, or NULL.
    let prop = unsafe { call::slice(prop, 1) }.ok_or(error::INVALID_VALUE)?;
    let mut value = 0;
    calls::cuMulticastGetGranularity(&mut value, prop, option)?;
    // SAFETY: the program's pointer.
    unsafe { put(granularity, value) }
}

pub unsafe fn cuMulticastUnbind(mcHandle: u64, dev: i32, mcOffset: usize, size: usize) -> error::Result {
    need_multicast()?;
    handles::check_allocation(mcHandle)?;
    calls::cuMulticastUnbind(mcHandle, device::host_ordinal(dev)?, mcOffset, size)
}

/// Synchronisation objects of NvSci are shared with engines of the host, so only what is wrong is said as the driver does.
pub unsafe fn cuDeviceGetNvSciSyncAttributes(
    nvSciSyncAttrList: *mut c_void,
    dev: i32,
    flags: i32,
) -> error::Result {
    if nvSciSyncAttrList.is_null() {
        return Err(error::INVALID_HANDLE);
    }
    device::host_ordinal(dev)?;
    if !NVSCISYNC.contains(&flags) {
        return Err(error::INVALID_VALUE);
    }
    Err(error::NOT_SUPPORTED)
}

/// Between a device and itself there is no peer access, whatever is asked about it.
pub unsafe fn cuDeviceGetP2PAtomicCapabilities(
    capabilities: *mut u32,
    operations: *const u32,
    count: u32,
    srcDevice: i32,
    dstDevice: i32,
) -> error::Result {
    if capabilities.is_null() || operations.is_null() || count == 0 {
        return Err(error::INVALID_VALUE);
    }
    let (source, destination) = (device::host_ordinal(srcDevice)?, device::host_ordinal(dstDevice)?);
    if source == destination {
        return Err(error::INVALID_DEVICE);
    }
    // SAFETY: the program's arrays of `count`.
    let arrays =
        unsafe { (call::slice_mut(capabilities, count as usize), call::slice(operations, count as usize)) };
    let (Some(capabilities), Some(operations)) = arrays else { return Err(error::INVALID_VALUE) };
    calls::cuDeviceGetP2PAtomicCapabilities(capabilities, operations, count, source, destination)
}
