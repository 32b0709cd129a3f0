//! Allocation in stream order. There is one pool per device, which is the device's memory.

use super::{Out, put};
use crate::model::allocation::RangeKind;
use crate::model::special_stream;
use crate::model::work::Work;
use crate::model::{CudaError, state};

/// The default pool of device 0; the others follow, in steps of 16.
const FIRST_POOL: u64 = (crate::model::handle::Kind::Pool as u64) << 40;

driver_api! {
    /// The device's one pool.
    fn cuDeviceGetDefaultMemPool(pool: Out<'_, u64>, device: i32) {
        put(pool, FIRST_POOL + 16 * u64::from(state()?.device(device)?.ordinal()))
    }

    /// The device's one pool.
    fn cuDeviceGetMemPool(pool: Out<'_, u64>, device: i32) {
        put(pool, FIRST_POOL + 16 * u64::from(state()?.device(device)?.ordinal()))
    }
}

stream_api! {
    /// Allocates device memory; it can be used at once, which includes in the stream's order.
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(default; address: Out<'_, u64>, bytes: usize, stream: u64) {
        let out = address.ok_or(CudaError::InvalidValue)?;
        let (context, _) = special_stream::find(stream, default)?;
        let bytes = u64::try_from(bytes).map_err(|_| CudaError::OutOfMemory)?;
        out.write(state()?.memory.allocate(&context, RangeKind::Device, bytes)?.base());
        Ok(())
    }

    /// Frees device memory when the stream gets there.
    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(default; address: u64, stream: u64) {
        let (context, stream) = special_stream::find(stream, default)?;
        let memory = &state()?.memory;
        if !memory.at(address).is_some_and(|range| range.is_device()) {
            return Err(CudaError::InvalidValue);
        }
        let free = Box::new(move |_: &_| drop(memory.remove(address)));
        context.submit(&stream, Vec::new(), Work::Task(free)).map(drop)
    }
}
