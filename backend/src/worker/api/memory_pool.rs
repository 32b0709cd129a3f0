//! Memory pools. Only pools of device memory: memory of the host's own is not for a guest to take.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use crate::ledger::DEVICES;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use vgpu_spec::plain::Blob8;

/// CU_MEM_ALLOCATION_TYPE_PINNED and CU_MEM_LOCATION_TYPE_DEVICE.
const PINNED: u32 = 1;
const DEVICE: u32 = 1;

/// The default pool of `device` as the guest's handle `pool`.
pub fn vgpuPoolDefault(t: &mut Thread, pool: u64, device: i32) -> Result<(), CudaError> {
    let get = t.driver.cuDeviceGetDefaultMemPool.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call.
    check(unsafe { get(&raw mut real, device) })?;
    t.insert_memorypool(pool, real)
}

/// CUmemPoolProps for a pool of device memory.
fn properties(device: i32, max_size: usize, usage: u32, handle_types: u32) -> Result<Blob8<88>, CudaError> {
    let mut bytes = [0; 88];
    bytes[..4].copy_from_slice(&PINNED.to_le_bytes());
    bytes[4..8].copy_from_slice(&handle_types.to_le_bytes());
    bytes[8..12].copy_from_slice(&DEVICE.to_le_bytes());
    bytes[12..16].copy_from_slice(&device.to_le_bytes());
    bytes[24..32].copy_from_slice(&(max_size as u64).to_le_bytes());
    bytes[32..34].copy_from_slice(&u16::try_from(usage).map_err(|_| INVALID_VALUE)?.to_le_bytes());
    Ok(Blob8(bytes))
}

/// Creates a pool.
pub fn vgpuPoolCreate(
    t: &mut Thread,
    pool: u64,
    device: i32,
    max_size: usize,
    usage: u32,
    handle_types: u32,
) -> Result<(), CudaError> {
    let create = t.driver.cuMemPoolCreate.ok_or(NOT_SUPPORTED)?;
    let wanted = properties(device, max_size, usage, handle_types)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle and properties that outlive the call.
    check(unsafe { create(&raw mut real, &raw const wanted) })?;
    t.session.quota.watch(real, device.cast_unsigned());
    t.insert_memorypool(pool, real)
}

/// The reuse policies (1 to 3) are int, thresholds and counters (4 to 8) 64 bits; both fit in a u64. Others may have other types.
fn known(attribute: u32) -> Result<(), CudaError> {
    if (1..=8).contains(&attribute) { Ok(()) } else { Err(INVALID_VALUE) }
}

/// Asks for an attribute.
pub fn vgpuPoolGetAttribute(t: &mut Thread, pool: u64, attribute: u32) -> Result<u64, CudaError> {
    known(attribute)?;
    let get = t.driver.cuMemPoolGetAttribute.ok_or(NOT_SUPPORTED)?;
    let mut value = 0_u64;
    // SAFETY: a live pool of this client, and a place for a value of either length.
    check(unsafe { get(pool, attribute, (&raw mut value).cast::<c_void>()) })?;
    Ok(value)
}

/// Sets an attribute.
pub fn vgpuPoolSetAttribute(
    t: &mut Thread,
    pool: u64,
    attribute: u32,
    mut value: u64,
) -> Result<(), CudaError> {
    known(attribute)?;
    let set = t.driver.cuMemPoolSetAttribute.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live pool of this client, and a value of either length.
    check(unsafe { set(pool, attribute, (&raw mut value).cast::<c_void>()) })
}

/// The pools from which devices allocate, as far as they were asked for; 0 for one that is not known.
#[derive(Default)]
pub struct CurrentPools([AtomicU64; DEVICES as usize]);

impl CurrentPools {
    /// They may be others now.
    pub(super) fn forget(&self) {
        self.0.iter().for_each(|pool| pool.store(0, Ordering::Release));
    }
}

/// The pool from which `device` allocates.
fn current_pool(t: &Thread, device: u32) -> Result<u64, CudaError> {
    let known = t.session.current_pools.0.get(device as usize);
    if let Some(pool) = known.map(|known| known.load(Ordering::Acquire)).filter(|&pool| pool != 0) {
        return Ok(pool);
    }
    let get = t.driver.cuDeviceGetMemPool.ok_or(NOT_SUPPORTED)?;
    let mut pool = 0_u64;
    // SAFETY: a place that outlives the call.
    check(unsafe { get(&raw mut pool, device.cast_signed()) })?;
    known.inspect(|known| known.store(pool, Ordering::Release));
    Ok(pool)
}

/// Has a device allocate from another pool.
pub fn cuDeviceSetMemPool(t: &mut Thread, dev: i32, pool: u64) -> Result<(), CudaError> {
    let set = t.driver.cuDeviceSetMemPool.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live pool of this client.
    let status = check(unsafe { set(dev, pool) });
    t.session.current_pools.forget();
    status
}

/// Undoes an allocation that the VM may not have.
fn free(t: &Thread, address: u64, stream: u64) {
    if let Some(free) = t.driver.cuMemFreeAsync {
        // SAFETY: just allocated in this stream, and nobody has been told of it.
        unsafe { free(address, stream) };
    }
}

/// Allocates from the current pool, in order of a stream.
pub fn cuMemAllocAsync(t: &mut Thread, bytes: usize, stream: u64) -> Result<u64, CudaError> {
    let allocate = t.driver.cuMemAllocAsync.ok_or(NOT_SUPPORTED)?;
    let (device, _) = t.here()?;
    let pool = current_pool(t, device)?;
    let make = || {
        let mut address = 0_u64;
        // SAFETY: a place that outlives the call, and a live stream of this client.
        check(unsafe { allocate(&raw mut address, bytes, stream) })?;
        Ok(address)
    };
    t.allocate_in_pool(pool, device, bytes as u64, make, |address| free(t, address, stream))
}

/// Allocates from a pool, in order of a stream.
pub fn cuMemAllocFromPoolAsync(
    t: &mut Thread,
    bytes: usize,
    pool: u64,
    stream: u64,
) -> Result<u64, CudaError> {
    let allocate = t.driver.cuMemAllocFromPoolAsync.ok_or(NOT_SUPPORTED)?;
    let make = || {
        let mut address = 0_u64;
        // SAFETY: a place that outlives the call, and a live pool and stream of this client.
        check(unsafe { allocate(&raw mut address, bytes, pool, stream) })?;
        Ok(address)
    };
    // One of another device is watched as that device's already.
    let watched = t.session.quota.reserves().iter().find(|r| r.pool == pool).map(|r| r.device);
    let device = watched.map_or_else(|| t.device(), Ok)?;
    t.allocate_in_pool(pool, device, bytes as u64, make, |address| free(t, address, stream))
}

/// Frees in order of a stream: the pool gives memory back when the stream has come there and somebody waits for it.
pub fn cuMemFreeAsync(t: &mut Thread, address: u64, stream: u64) -> Result<(), CudaError> {
    let free = t.driver.cuMemFreeAsync.ok_or(NOT_SUPPORTED)?;
    // SAFETY: the driver looks the address up; a live stream of this client.
    t.free_blocks(address, || check(unsafe { free(address, stream) }))
}

pub fn cuMemPoolDestroy(t: &mut Thread, pool: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuMemPoolDestroy.ok_or(NOT_SUPPORTED)?;
    t.pool_ends(pool);
    // SAFETY: a live pool of this client, just taken out of the table.
    let status = check(unsafe { destroy(pool) });
    // The device that had it goes back to its default pool.
    t.session.current_pools.forget();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_lie_where_the_driver_reads_them() {
        let bytes = properties(3, 0x1_0000_0002, 2, 9).unwrap().0;
        assert_eq!(bytes[..16], [1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[24..36], [2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert!(properties(0, 0, 0x1_0000, 0).is_err());
    }
}
