//! Device memory.

use super::{Out, put_if_wanted};
use crate::model::allocation::RangeKind;
use crate::model::graph::forbid_unsafe;
use crate::model::graph_memory::GraphMemory;
use crate::model::{CudaError, Result, current, state};

/// What `cuMemAllocPitch` rounds rows to, as an H100 does.
const PITCH: u64 = 512;

fn allocate(kind: RangeKind, bytes: usize) -> Result<u64> {
    let context = current::working_context()?;
    let bytes = u64::try_from(bytes).map_err(|_| CudaError::OutOfMemory)?;
    Ok(state()?.memory.allocate(&context, kind, bytes)?.base())
}

/// Frees device memory once nothing that was given before uses it.
fn free(address: u64) -> Result {
    let context = current::working_context()?;
    if address == 0 {
        return Ok(());
    }
    if let Some(graphs) = GraphMemory::find(address) {
        context.synchronize()?;
        return graphs.free();
    }
    let memory = &state()?.memory;
    let allocation = memory.at(address).filter(|allocation| allocation.can_be_freed());
    let owner = allocation.ok_or(CudaError::InvalidValue)?.context();
    // Another context's memory waits for that context's work.
    match state()?.contexts.get(owner) {
        Ok(owner) => owner.synchronize()?,
        Err(_) => context.synchronize()?,
    }
    memory.remove(address);
    Ok(())
}

driver_api! {
    /// Allocates device memory: `OUT_OF_MEMORY` beyond `VGPU_SOFTGPU_MEMORY`.
    fn cuMemAlloc_v2(address: Out<'_, u64>, bytes: usize) {
        forbid_unsafe()?;
        let out = address.ok_or(CudaError::InvalidValue)?;
        out.write(allocate(RangeKind::Device, bytes)?);
        Ok(())
    }

    /// Allocates rows, `pitch` bytes apart.
    fn cuMemAllocPitch_v2(address: Out<'_, u64>, pitch: Out<'_, usize>, width: usize, height: usize, element: u32) {
        forbid_unsafe()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CudaError::InvalidValue);
        }
        let (address, pitch) = address.zip(pitch).ok_or(CudaError::InvalidValue)?;
        let row = usize::try_from(PITCH).ok().and_then(|pitch| width.checked_next_multiple_of(pitch));
        let row = row.ok_or(CudaError::OutOfMemory)?;
        let bytes = row.checked_mul(height).ok_or(CudaError::OutOfMemory)?;
        address.write(allocate(RangeKind::Device, bytes)?);
        pitch.write(row);
        Ok(())
    }

    /// Allocates memory that host and device share, which here all device memory is.
    fn cuMemAllocManaged(address: Out<'_, u64>, bytes: usize, flags: u32) {
        let out = address.ok_or(CudaError::InvalidValue)?;
        if !matches!(flags, 1 | 2) {
            return Err(CudaError::InvalidValue);
        }
        out.write(allocate(RangeKind::Managed, bytes)?);
        Ok(())
    }

    /// Frees device memory; NULL is fine.
    fn cuMemFree_v2(address: u64) {
        forbid_unsafe()?;
        free(address)
    }

    /// Free and total bytes of the current device.
    fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) {
        let context = current::working_context()?;
        put_if_wanted(free, usize::try_from(context.device().free()).unwrap_or(usize::MAX));
        put_if_wanted(total, usize::try_from(context.device().total()).unwrap_or(usize::MAX));
        Ok(())
    }

    /// The allocation that an address lies in.
    fn cuMemGetAddressRange_v2(base: Out<'_, u64>, size: Out<'_, usize>, address: u64) {
        current::working_context()?;
        let allocation = state()?.memory.find(address, 1).ok_or(CudaError::NotFound)?;
        put_if_wanted(base, allocation.base());
        put_if_wanted(size, usize::try_from(allocation.size()).unwrap_or(usize::MAX));
        Ok(())
    }
}
