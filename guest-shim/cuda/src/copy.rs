//! Copies between host and device in one dimension.
//!
//! Pinned memory goes straight from and to its window. Pageable memory travels to the device inside the message when it is small; else
//! it goes through staging, which the device's own copies are faster from than from memory of the worker.

use crate::{
    call, calls, capture, client, error, graph_pageable, handles, host_memory, memory,
    staging::{SMALL, from_device, small_from_device, to_device},
};
use std::ffi::c_void;
use vgpu_spec::structure::memory_type;

/// Up to so many bytes travel inside a message.
const INLINE: usize = 64 << 10;

/// Counts bytes that the shim copied.
pub fn count(bytes: usize) {
    if let Ok(client) = client::get() {
        let _ = client.lanes.with(|lane| lane.count_bytes_copied(bytes as u64));
    }
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Device,
    Pinned,
    Pageable,
}

/// What an address of unified addressing is.
pub fn side(address: u64) -> Side {
    if memory::find(address).is_some() { Side::Device } else { host_side(address) }
}

/// What a host address is.
pub fn host_side(address: u64) -> Side {
    if host_memory::find(address).is_some() { Side::Pinned } else { Side::Pageable }
}

/// Host to device. `wait`: the program's call returns when the copy is done, which for pageable memory it is once the bytes are taken.
///
/// # Safety
/// `src` is `n` readable bytes.
unsafe fn host_to_device(dst: u64, src: *const u8, n: usize, stream: u64, wait: bool) -> error::Result {
    handles::check_stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    if src.is_null() || dst == 0 {
        return Err(error::INVALID_VALUE);
    }
    if host_memory::holds(src.addr() as u64, n as u64) {
        calls::vgpuCopyHostToDevice(dst, src.addr() as u64, n, stream)?;
        return if wait { calls::cuStreamSynchronize(stream) } else { Ok(()) };
    }
    if memory::find(src.addr() as u64).is_some() {
        // The driver takes a device's address for a host's; it is none here.
        return device_to_device(dst, src.addr() as u64, n, stream);
    }
    if capture::captures_copy(stream)? {
        let src = (memory_type::HOST, src.expose_provenance() as u64);
        graph_pageable::capture_line((memory_type::DEVICE, dst), src, n, stream)?;
        return if wait { calls::cuStreamSynchronize(stream) } else { Ok(()) };
    }
    if n > INLINE {
        if memory::ends_far_within(dst, n as u64) {
            // Before the source is read, which need not be as long.
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        return unsafe { to_device(dst, src, n, stream) };
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts(src, n) };
    calls::vgpuCopyInlineToDevice(dst, bytes, n, stream)?;
    count(n);
    settle_unless(memory::known(dst, n as u64), stream)
}

/// Device to host.
///
/// # Safety
/// `dst` is `n` writable bytes.
unsafe fn device_to_host(dst: *mut u8, src: u64, n: usize, stream: u64, wait: bool) -> error::Result {
    handles::check_stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    if dst.is_null() || src == 0 {
        return Err(error::INVALID_VALUE);
    }
    if host_memory::holds(dst.addr() as u64, n as u64) {
        calls::vgpuCopyDeviceToHost(dst.addr() as u64, src, n, stream)?;
        return if wait { calls::cuStreamSynchronize(stream) } else { Ok(()) };
    }
    if memory::find(dst.addr() as u64).is_some() {
        return device_to_device(dst.addr() as u64, src, n, stream);
    }
    if capture::captures_copy(stream)? {
        let dst = (memory_type::HOST, dst.expose_provenance() as u64);
        graph_pageable::capture_line(dst, (memory_type::DEVICE, src), n, stream)?;
        return if wait { calls::cuStreamSynchronize(stream) } else { Ok(()) };
    }
    if n > SMALL {
        // SAFETY: the caller's promise.
        return unsafe { from_device(dst, src, n, stream) };
    }
    let sure = memory::known(src, n as u64) && !capture::may_refuse(stream);
    if !sure && n <= INLINE {
        // What the driver refuses is the call's answer.
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(dst, n) };
        calls::vgpuCopyInlineFromDevice(bytes, n, src, stream)?;
    } else {
        // SAFETY: the caller's promise.
        unsafe { small_from_device(dst, src, n, stream, sure)? };
    }
    count(n);
    Ok(())
}

/// A copy whose direction the addresses tell (unified addressing).
///
/// # Safety
/// What is host memory is `n` readable or writable bytes.
unsafe fn copy(dst: u64, src: u64, n: usize, stream: u64, wait: bool) -> error::Result {
    let host = |address: u64| std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    match (side(dst), side(src)) {
        (Side::Device, Side::Device) => device_to_device(dst, src, n, stream),
        // SAFETY: the caller's promise.
        (Side::Device, _) => unsafe { host_to_device(dst, host(src), n, stream, wait) },
        // SAFETY: the caller's promise.
        (_, Side::Device) => unsafe { device_to_host(host(dst), src, n, stream, wait) },
        _ => {
            if n > 0 && (dst == 0 || src == 0) {
                return Err(error::INVALID_VALUE);
            }
            if capture::captures_copy(stream)? {
                let unified = |address| (memory_type::UNIFIED, address);
                return graph_pageable::capture_line(unified(dst), unified(src), n, stream);
            }
            calls::cuStreamSynchronize(stream)?;
            // SAFETY: both are host memory, by the caller's promise; they may overlap.
            unsafe { std::ptr::copy(host(src), host(dst), n) };
            Ok(())
        }
    }
}

fn device_to_device(dst: u64, src: u64, n: usize, stream: u64) -> error::Result {
    handles::check_stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    calls::cuMemcpyDtoDAsync_v2(dst, src, n, stream)?;
    settle_unless_known(dst, src, n, stream)
}

/// Ends a copy that was posted. What is not sure to be right may be wrong, and captures forbid the default stream: the program learns it
/// from this call, as natively.
#[inline]
pub fn settle_unless(sure: bool, stream: u64) -> error::Result {
    if sure && !capture::may_refuse(stream) { Ok(()) } else { call::settle() }
}

/// As [`settle_unless`]: an address that is not known may be wrong.
pub fn settle_unless_known(dst: u64, src: u64, n: usize, stream: u64) -> error::Result {
    let known = |address| memory::known(address, n as u64);
    settle_unless(known(dst) && known(src), stream)
}

pub unsafe fn cuMemcpy(dst: u64, src: u64, ByteCount: usize, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy(dst, src, ByteCount, stream, true) }
}

pub unsafe fn cuMemcpyAsync(dst: u64, src: u64, ByteCount: usize, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    // SAFETY: the program's pointers.
    unsafe { copy(dst, src, ByteCount, hStream, false) }
}

pub unsafe fn cuMemcpyHtoD_v2(
    dstDevice: u64,
    srcHost: *mut c_void,
    ByteCount: usize,
    stream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { host_to_device(dstDevice, srcHost.cast(), ByteCount, stream, true) }
}

pub unsafe fn cuMemcpyDtoH_v2(
    dstHost: *mut c_void,
    srcDevice: u64,
    ByteCount: usize,
    stream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { device_to_host(dstHost.cast(), srcDevice, ByteCount, stream, true) }
}

pub unsafe fn cuMemcpyDtoD_v2(
    dstDevice: u64,
    srcDevice: u64,
    ByteCount: usize,
    stream: u64,
) -> error::Result {
    device_to_device(dstDevice, srcDevice, ByteCount, stream)
}

pub unsafe fn cuMemcpyDtoDAsync_v2(
    dstDevice: u64,
    srcDevice: u64,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    device_to_device(dstDevice, srcDevice, ByteCount, hStream)
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    dstDevice: u64,
    srcHost: *mut c_void,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { host_to_device(dstDevice, srcHost.cast(), ByteCount, hStream, false) }
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    dstHost: *mut c_void,
    srcDevice: u64,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { device_to_host(dstHost.cast(), srcDevice, ByteCount, hStream, false) }
}
