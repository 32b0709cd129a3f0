//! Virtual memory management. Only device memory: memory of the host's own is not for a guest to take.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use crate::worker::quota::Share;
use std::ptr::without_provenance_mut;
use vgpu_spec::plain::Blob8;

/// CU_MEM_ALLOCATION_TYPE_PINNED and CU_MEM_LOCATION_TYPE_DEVICE.
const PINNED: u32 = 1;
const DEVICE: u32 = 1;

/// CUmemAllocationProp for memory of a device.
fn checked(props: Option<Vec<Blob8<32>>>) -> Result<Blob8<32>, CudaError> {
    let props = props.as_deref().and_then(<[_]>::first).copied().ok_or(INVALID_VALUE)?;
    let word =
        |at: usize| props.0.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    // Any handle types (word 1): the driver knows which it has, and only descriptors are exported.
    if word(0) != PINNED || word(8) != DEVICE {
        return Err(NOT_SUPPORTED);
    }
    // The pointer of Windows' metadata.
    if word(16) != 0 || word(20) != 0 {
        return Err(INVALID_VALUE);
    }
    Ok(props)
}

/// Allocates memory of a device.
pub fn cuMemCreate(
    t: &mut Thread,
    handle: u64,
    size: usize,
    props: Option<Vec<Blob8<32>>>,
    flags: u64,
) -> Result<(), CudaError> {
    let create = t.driver.cuMemCreate.ok_or(NOT_SUPPORTED)?;
    let props = checked(props)?;
    let share = Share { device: location(&props), bytes: size as u64 };
    let real = t.with_memory(share.device, share.bytes, || {
        let mut real = 0_u64;
        // SAFETY: a place for the handle and checked properties that outlive the call.
        check(unsafe { create(&raw mut real, size, &raw const props, flags) })?;
        Ok(real)
    })?;
    t.session.quota.physical().created(real, share);
    t.insert_allocation(handle, real)
}

/// The ordinal of the device whose memory it is: CUmemAllocationProp::location.id.
fn location(props: &Blob8<32>) -> u32 {
    props.0.get(12..16).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Gives a handle back.
pub fn cuMemRelease(t: &mut Thread, allocation: u64) -> Result<(), CudaError> {
    let release = t.driver.cuMemRelease.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live handle of this client, just taken out of the table.
    check(unsafe { release(allocation) })?;
    let freed = t.session.quota.physical().released(allocation);
    freed.into_iter().for_each(|share| t.give_back(share));
    Ok(())
}

/// Maps an allocation into a reserved range.
pub fn cuMemMap(
    t: &mut Thread,
    address: u64,
    size: usize,
    offset: usize,
    allocation: u64,
    flags: u64,
) -> Result<(), CudaError> {
    let map = t.driver.cuMemMap.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live allocation of this client; the driver checks the range.
    check(unsafe { map(address, size, offset, allocation, flags) })?;
    t.session.quota.physical().mapped(address, size as u64, allocation);
    Ok(())
}

/// Unmaps what is mapped in a range.
pub fn cuMemUnmap(t: &mut Thread, address: u64, size: usize) -> Result<(), CudaError> {
    let unmap = t.driver.cuMemUnmap.ok_or(NOT_SUPPORTED)?;
    // SAFETY: the driver checks the range.
    check(unsafe { unmap(address, size) })?;
    let freed = t.session.quota.physical().unmapped(address, size as u64);
    freed.into_iter().for_each(|share| t.give_back(share));
    Ok(())
}

/// What sizes and offsets of such memory must be multiples of.
pub fn cuMemGetAllocationGranularity(
    t: &mut Thread,
    props: Option<Vec<Blob8<32>>>,
    option: u32,
) -> Result<usize, CudaError> {
    let get = t.driver.cuMemGetAllocationGranularity.ok_or(NOT_SUPPORTED)?;
    let props = checked(props)?;
    let mut value = 0_usize;
    // SAFETY: a place for the number and checked properties that outlive the call.
    check(unsafe { get(&raw mut value, &raw const props, option) })?;
    Ok(value)
}

/// A handle of what is mapped at `address`.
pub fn vgpuMemRetainHandle(t: &mut Thread, handle: u64, address: u64) -> Result<(), CudaError> {
    let retain = t.driver.cuMemRetainAllocationHandle.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle; the driver looks the address up and does not follow it.
    check(unsafe { retain(&raw mut real, without_provenance_mut(address as usize)) })?;
    t.session.quota.physical().retained(real, address);
    t.insert_allocation(handle, real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn props(words: [u32; 8]) -> Option<Vec<Blob8<32>>> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Some(vec![Blob8(bytes.try_into().unwrap())])
    }

    #[test]
    fn only_memory_of_a_device_is_allocated() {
        assert!(checked(props([1, 0, 1, 7, 0, 0, 0, 0])).is_ok());
        assert!(checked(props([1, 1, 1, 0, 0, 0, 0x100, 0])).is_ok());
        assert!(checked(props([1, 8, 1, 0, 0, 0, 0, 0])).is_ok());
        for wrong in [
            [2, 0, 1, 0, 0, 0, 0, 0],
            [1, 0, 2, 0, 0, 0, 0, 0],
            [1, 0, 3, 0, 0, 0, 0, 0],
            [1, 0, 1, 0, 0, 1, 0, 0],
        ] {
            assert!(checked(props(wrong)).is_err(), "{wrong:?}");
        }
        assert!(checked(Some(Vec::new())).is_err());
    }
}
