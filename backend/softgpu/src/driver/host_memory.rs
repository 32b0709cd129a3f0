//! Pinned and registered host memory, which kernels use at the same addresses.

use super::{Out, put};
use crate::model::allocation::RangeKind;
use crate::model::{CudaError, Result, current, state};

/// `CU_MEMHOSTALLOC_DEVICEMAP` and `CU_MEMHOSTREGISTER_DEVICEMAP`, which all such memory has.
const DEVICE_MAP: u32 = 2;
/// `CU_MEMHOSTALLOC_PORTABLE`, `_DEVICEMAP` and `_WRITECOMBINED`.
const ALLOC_FLAGS: u32 = 7;
/// `CU_MEMHOSTREGISTER_PORTABLE`, `_DEVICEMAP`, `_IOMEMORY` and `_READ_ONLY`.
const REGISTER_FLAGS: u32 = 15;

fn allocate(pointer: Out<'_, u64>, bytes: usize, flags: u32) -> Result {
    let context = current::working_context()?;
    let out = pointer.ok_or(CudaError::InvalidValue)?;
    if flags & !ALLOC_FLAGS != 0 {
        return Err(CudaError::InvalidValue);
    }
    let bytes = u64::try_from(bytes).map_err(|_| CudaError::OutOfMemory)?;
    let kind = RangeKind::Host(flags | DEVICE_MAP);
    // Nothing is allocated for nothing, without an error, as on the real driver.
    out.write(if bytes == 0 { 0 } else { state()?.memory.allocate(&context, kind, bytes)?.base() });
    Ok(())
}

driver_api! {
    /// Allocates pinned memory.
    fn cuMemHostAlloc(pointer: Out<'_, u64>, bytes: usize, flags: u32) {
        allocate(pointer, bytes, flags)
    }

    /// Allocates pinned memory.
    fn cuMemAllocHost_v2(pointer: Out<'_, u64>, bytes: usize) {
        allocate(pointer, bytes, 0)
    }

    /// Frees pinned memory; NULL is fine.
    fn cuMemFreeHost(pointer: u64) {
        let context = current::working_context()?;
        if pointer == 0 {
            return Ok(());
        }
        let memory = &state()?.memory;
        let is_ours = memory.at(pointer).is_some_and(|range| matches!(range.kind(), RangeKind::Host(_)));
        if !is_ours {
            return Err(CudaError::InvalidValue);
        }
        context.synchronize()?;
        memory.remove(pointer);
        Ok(())
    }

    /// Lets kernels use the program's memory: `INVALID_VALUE` if it is not mapped.
    fn cuMemHostRegister_v2(pointer: u64, bytes: usize, flags: u32) {
        let context = current::working_context()?;
        if flags & !REGISTER_FLAGS != 0 || pointer == 0 {
            return Err(CudaError::InvalidValue);
        }
        let bytes = u64::try_from(bytes).map_err(|_| CudaError::InvalidValue)?;
        state()?.memory.register(&context, pointer, bytes, flags | DEVICE_MAP)
    }

    /// Takes the program's memory back.
    fn cuMemHostUnregister(pointer: u64) {
        let context = current::working_context()?;
        let memory = &state()?.memory;
        match memory.at(pointer).map(|range| range.kind()) {
            Some(RangeKind::Registered(_)) => {}
            None if memory.find(pointer, 1).is_none() => return Err(CudaError::HostMemoryNotRegistered),
            _ => return Err(CudaError::InvalidValue),
        }
        context.synchronize()?;
        memory.remove(pointer);
        Ok(())
    }

    /// The address for kernels: the same.
    fn cuMemHostGetDevicePointer_v2(address: Out<'_, u64>, pointer: u64, flags: u32) {
        current::working_context()?;
        let range = state()?.memory.find(pointer, 1).filter(|range| !range.is_device());
        if flags != 0 || range.is_none() {
            return Err(CudaError::InvalidValue);
        }
        put(address, pointer)
    }

    /// The flags of pinned or registered memory.
    fn cuMemHostGetFlags(flags: Out<'_, u32>, pointer: u64) {
        current::working_context()?;
        match state()?.memory.find(pointer, 1).map(|range| range.kind()) {
            Some(RangeKind::Host(kept) | RangeKind::Registered(kept)) => put(flags, kept),
            _ => Err(CudaError::InvalidValue),
        }
    }
}
