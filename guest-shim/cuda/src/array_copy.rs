//! Copies of arrays in the order of their bytes. Pageable memory goes through a block of a window.

use crate::{
    array, call, calls, capture, copy, error, graph_pageable, handles, host_memory, memory,
    staging::{BLOCK, Block},
};
use std::ffi::c_void;
use vgpu_spec::structure::{Memcpy3D, Memcpy3DSide, memory_type};

fn host(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Whether the bytes are certainly in the array, so that nobody need wait to learn it. Of arrays with rows the driver knows.
fn certain(array: u64, offset: usize, n: usize) -> bool {
    let Ok(shape) = array::shape(array) else { return false };
    shape.element != 0
        && (shape.height, shape.depth) == (1, 1)
        && (offset % shape.element, n % shape.element) == (0, 0)
        && offset.checked_add(n).is_some_and(|end| end <= shape.width * shape.element)
}

/// Whether the bytes are certainly not all in the array, so that the program's need not be either.
fn beyond(array: u64, offset: usize, n: usize) -> bool {
    let size = array::shape(array).ok().and_then(|shape| shape.bytes());
    size.is_some_and(|size| offset.checked_add(n).is_none_or(|end| end > size))
}

fn finish(sure: bool, stream: u64, wait: bool) -> error::Result {
    if wait { calls::cuStreamSynchronize(stream) } else { copy::settle_unless(sure, stream) }
}

/// Adds a copy between pageable memory and an array's first row to what `stream` captures: kinds, address or array, offsets in bytes.
fn capture_row(dst: (u32, u64, usize), src: (u32, u64, usize), n: usize, stream: u64) -> error::Result {
    let side = |(kind, what, x): (u32, u64, usize)| {
        let (host, array) = if kind == memory_type::HOST { (what, 0) } else { (0, what) };
        Memcpy3DSide { kind, host, array, x, ..Memcpy3DSide::default() }
    };
    let copy = Memcpy3D { src: side(src), dst: side(dst), width: n, height: 1, depth: 1 };
    graph_pageable::capture(&copy, stream)
}

/// # Safety
/// `src` is `n` readable bytes.
unsafe fn to_array(
    array: u64,
    offset: usize,
    src: *const u8,
    n: usize,
    stream: u64,
    wait: bool,
) -> error::Result {
    handles::check_stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    array::check_copied(array)?;
    if src.is_null() || beyond(array, offset, n) {
        return Err(error::INVALID_VALUE);
    }
    let address = src.addr() as u64;
    if host_memory::holds(address, n as u64) {
        calls::vgpuCopyHostToArray(array, offset, address, n, stream)?;
        return finish(certain(array, offset, n), stream, wait);
    }
    if capture::captures_copy(stream)? {
        return capture_row((memory_type::ARRAY, array, offset), (memory_type::HOST, address, 0), n, stream);
    }
    let block = Block::take()?;
    for at in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - at);
        // SAFETY: the caller's bytes, and a block of that size.
        unsafe { std::ptr::copy_nonoverlapping(src.add(at), host(block.address()), len) };
        copy::count(len);
        calls::vgpuCopyHostToArray(array, offset.wrapping_add(at), block.address(), len, stream)?;
        calls::cuStreamSynchronize(stream)?;
    }
    Ok(())
}

/// # Safety
/// `dst` is `n` writable bytes.
unsafe fn from_array(
    dst: *mut u8,
    array: u64,
    offset: usize,
    n: usize,
    stream: u64,
    wait: bool,
) -> error::Result {
    handles::check_stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    array::check_copied(array)?;
    if dst.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let address = dst.addr() as u64;
    if host_memory::holds(address, n as u64) {
        calls::vgpuCopyArrayToHost(address, array, offset, n, stream)?;
        return finish(certain(array, offset, n), stream, wait);
    }
    if capture::captures_copy(stream)? {
        return capture_row((memory_type::HOST, address, 0), (memory_type::ARRAY, array, offset), n, stream);
    }
    let block = Block::take()?;
    for at in (0..n).step_by(BLOCK) {
        let len = BLOCK.min(n - at);
        calls::vgpuCopyArrayToHost(block.address(), array, offset.wrapping_add(at), len, stream)?;
        calls::cuStreamSynchronize(stream)?;
        // SAFETY: the caller's bytes, and a block that the device has filled.
        unsafe { std::ptr::copy_nonoverlapping(host(block.address()), dst.add(at), len) };
        copy::count(len);
    }
    Ok(())
}

pub unsafe fn cuMemcpyHtoA_v2(
    dstArray: u64,
    dstOffset: usize,
    srcHost: *mut c_void,
    ByteCount: usize,
    stream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { to_array(dstArray, dstOffset, srcHost.cast(), ByteCount, stream, true) }
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    dstArray: u64,
    dstOffset: usize,
    srcHost: *mut c_void,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { to_array(dstArray, dstOffset, srcHost.cast(), ByteCount, hStream, false) }
}

pub unsafe fn cuMemcpyAtoH_v2(
    dstHost: *mut c_void,
    srcArray: u64,
    srcOffset: usize,
    ByteCount: usize,
    stream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { from_array(dstHost.cast(), srcArray, srcOffset, ByteCount, stream, true) }
}

pub unsafe fn cuMemcpyAtoHAsync_v2(
    dstHost: *mut c_void,
    srcArray: u64,
    srcOffset: usize,
    ByteCount: usize,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { from_array(dstHost.cast(), srcArray, srcOffset, ByteCount, hStream, false) }
}

// The copies that stay on the device run in the default stream, whichever form was called: it waits for the per-thread streams too.

pub unsafe fn cuMemcpyAtoD_v2(
    dstDevice: u64,
    srcArray: u64,
    srcOffset: usize,
    ByteCount: usize,
    _stream: u64,
) -> error::Result {
    if ByteCount == 0 {
        return Ok(());
    }
    array::check_copied(srcArray)?;
    calls::vgpuCopyArrayToDevice(dstDevice, srcArray, srcOffset, ByteCount)?;
    finish(certain(srcArray, srcOffset, ByteCount) && memory::known(dstDevice, ByteCount as u64), 0, false)
}

pub unsafe fn cuMemcpyDtoA_v2(
    dstArray: u64,
    dstOffset: usize,
    srcDevice: u64,
    ByteCount: usize,
    _stream: u64,
) -> error::Result {
    if ByteCount == 0 {
        return Ok(());
    }
    array::check_copied(dstArray)?;
    calls::vgpuCopyDeviceToArray(dstArray, dstOffset, srcDevice, ByteCount)?;
    finish(certain(dstArray, dstOffset, ByteCount) && memory::known(srcDevice, ByteCount as u64), 0, false)
}

pub unsafe fn cuMemcpyAtoA_v2(
    dstArray: u64,
    dstOffset: usize,
    srcArray: u64,
    srcOffset: usize,
    ByteCount: usize,
    _stream: u64,
) -> error::Result {
    if ByteCount == 0 {
        return Ok(());
    }
    array::check_copied(dstArray)?;
    array::check_copied(srcArray)?;
    calls::vgpuCopyArrayToArray(dstArray, dstOffset, srcArray, srcOffset, ByteCount)?;
    call::settle()
}

call::only_in_old_contexts! {
    cuMemcpyAtoA(u64, u32, u64, u32, u32);
    cuMemcpyAtoD(u32, u64, u32, u32);
    cuMemcpyAtoH(*mut c_void, u64, u32, u32);
    cuMemcpyAtoHAsync(*mut c_void, u64, u32, u32, u64);
    cuMemcpyDtoA(u64, u32, u32, u32);
    cuMemcpyHtoA(u64, u32, *mut c_void, u32);
    cuMemcpyHtoAAsync(u64, u32, *mut c_void, u32, u64);
}
