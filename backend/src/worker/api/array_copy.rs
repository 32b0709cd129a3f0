//! Copies of arrays in the order of their bytes. Host addresses lie in windows.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::ptr::with_exposed_provenance_mut;

impl Thread {
    fn in_window(&self, address: u64, n: usize) -> Result<(), CudaError> {
        if self.client.windows.contains(address, n as u64) { Ok(()) } else { Err(INVALID_VALUE) }
    }
}

pub fn vgpuCopyHostToArray(
    t: &mut Thread,
    array: u64,
    offset: usize,
    src: u64,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let copy = t.driver.cuMemcpyHtoAAsync_v2.ok_or(NOT_SUPPORTED)?;
    t.in_window(src, n)?;
    // SAFETY: a live array, whose extent the driver checks, and a checked window.
    check(unsafe { copy(array, offset, with_exposed_provenance_mut(src as usize), n, stream) })?;
    t.work.to_device += n as u64;
    Ok(())
}

pub fn vgpuCopyArrayToHost(
    t: &mut Thread,
    dst: u64,
    array: u64,
    offset: usize,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let copy = t.driver.cuMemcpyAtoHAsync_v2.ok_or(NOT_SUPPORTED)?;
    t.in_window(dst, n)?;
    // SAFETY: as above.
    check(unsafe { copy(with_exposed_provenance_mut(dst as usize), array, offset, n, stream) })?;
    t.work.from_device += n as u64;
    Ok(())
}

// The three that follow have no form with a stream: they run in the default one, which waits for the per-thread streams too.

pub fn vgpuCopyDeviceToArray(
    t: &mut Thread,
    array: u64,
    offset: usize,
    src: u64,
    n: usize,
) -> Result<(), CudaError> {
    let copy = t.driver.cuMemcpyDtoA_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live array; the driver checks addresses and extents.
    check(unsafe { copy(array, offset, src, n) })
}

pub fn vgpuCopyArrayToDevice(
    t: &mut Thread,
    dst: u64,
    array: u64,
    offset: usize,
    n: usize,
) -> Result<(), CudaError> {
    let copy = t.driver.cuMemcpyAtoD_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: as above.
    check(unsafe { copy(dst, array, offset, n) })
}

pub fn vgpuCopyArrayToArray(
    t: &mut Thread,
    dst: u64,
    dst_offset: usize,
    src: u64,
    src_offset: usize,
    n: usize,
) -> Result<(), CudaError> {
    let copy = t.driver.cuMemcpyAtoA_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: live arrays, whose extents the driver checks.
    check(unsafe { copy(dst, dst_offset, src, src_offset, n) })
}
