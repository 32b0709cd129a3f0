//! Copies between host and device.
//!
//! Host addresses are in windows, which the guest process and this worker map at the same place; any other is refused.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use vgpu_spec::wire::lane::MAX_MESSAGE;

impl Thread {
    /// A host pointer of the guest, checked to lie in one of its windows.
    fn host(&self, address: u64, len: usize) -> Result<u64, CudaError> {
        if self.client.windows.contains(address, len as u64) { Ok(address) } else { Err(INVALID_VALUE) }
    }

    fn host_to_device(&mut self, dst: u64, src: *const u8, n: usize, stream: u64) -> Result<(), CudaError> {
        let copy = self.driver.cuMemcpyHtoDAsync_v2.ok_or(NOT_SUPPORTED)?;
        // SAFETY: `src` is `n` readable bytes: a checked window, or a private copy, which the driver has read when it returns
        // (pageable memory). The driver checks `dst`.
        check(unsafe { copy(dst, src.cast_mut().cast(), n, stream) })?;
        self.work.to_device += n as u64;
        Ok(())
    }

    fn device_to_host(&mut self, dst: *mut u8, src: u64, n: usize, stream: u64) -> Result<(), CudaError> {
        let copy = self.driver.cuMemcpyDtoHAsync_v2.ok_or(NOT_SUPPORTED)?;
        // SAFETY: `dst` is `n` writable bytes, a checked window or a private buffer; for the latter the caller waits.
        check(unsafe { copy(dst.cast(), src, n, stream) })?;
        self.work.from_device += n as u64;
        Ok(())
    }
}

/// Copies the message's own bytes. On return the driver has them: pageable memory is staged before the call returns.
pub fn vgpuCopyInlineToDevice(
    t: &mut Thread,
    dst: u64,
    data: Option<&[u8]>,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let data = data.and_then(|d| d.get(..n)).ok_or(INVALID_VALUE)?;
    t.host_to_device(dst, data.as_ptr(), n, stream)
}

/// Copies into the reply.
pub fn vgpuCopyInlineFromDevice(
    t: &mut Thread,
    room: usize,
    n: usize,
    src: u64,
    stream: u64,
) -> Result<Vec<u8>, CudaError> {
    if n > MAX_MESSAGE || n != room {
        return Err(INVALID_VALUE);
    }
    let mut data = vec![0; n];
    t.device_to_host(data.as_mut_ptr(), src, n, stream)?;
    // Done already, as a rule: the memory is pageable.
    t.synchronize(stream)?;
    Ok(data)
}

/// Copies from pinned memory, in stream order.
pub fn vgpuCopyHostToDevice(
    t: &mut Thread,
    dst: u64,
    src: u64,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let src = t.host(src, n)?;
    t.host_to_device(dst, src as *const u8, n, stream)
}

/// Copies to pinned memory, in stream order.
pub fn vgpuCopyDeviceToHost(
    t: &mut Thread,
    dst: u64,
    src: u64,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let dst = t.host(dst, n)?;
    t.device_to_host(dst as *mut u8, src, n, stream)
}

/// Copies from staging, which the shim uses again once this message is used.
pub fn vgpuCopyStagedToDevice(
    t: &mut Thread,
    dst: u64,
    src: u64,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    vgpuCopyHostToDevice(t, dst, src, n, stream)?;
    t.wait_for(stream)
}

/// Copies to staging, which the shim reads once this message is used.
pub fn vgpuCopyStagedFromDevice(
    t: &mut Thread,
    dst: u64,
    src: u64,
    n: usize,
    stream: u64,
) -> Result<(), CudaError> {
    vgpuCopyDeviceToHost(t, dst, src, n, stream)?;
    t.wait_for(stream)
}
