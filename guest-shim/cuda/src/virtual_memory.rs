//! Virtual memory management: reserved addresses, physical memory, and its mappings.
//!
//! An allocation's words in the handle table: how often the program holds it, and the device's ordinal.

use crate::{
    call::put,
    calls, client, device, error, handles,
    location::{self, set_word, word},
    memory, sharing,
};
use std::{
    ffi::c_void,
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::{
    handle::Kind,
    plain::{Blob4, Blob8},
};

/// CU_MEM_HANDLE_TYPE_WIN32, _WIN32_KMT and _FABRIC.
const WIN32: u32 = 2;
const WIN32_KMT: u32 = 4;
const FABRIC: u32 = 8;

/// Serialises changes of the counts in the handle table.
static HOLDING: Mutex<()> = Mutex::new(());

fn holding() -> MutexGuard<'static, ()> {
    HOLDING.lock().unwrap_or_else(PoisonError::into_inner)
}

pub unsafe fn cuMemAddressReserve(
    ptr: *mut u64,
    size: usize,
    alignment: usize,
    addr: u64,
    flags: u64,
) -> error::Result {
    if ptr.is_null() || size == 0 || flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    let ask = |place: &mut u64| calls::cuMemAddressReserve(place, size, alignment, addr, flags);
    let base = memory::place(size, ask, |base| calls::cuMemAddressFree(base, size))?;
    memory::insert_reservation(base, size);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(ptr, base) }
}

/// The driver refuses what is not a whole reservation, or has mappings. The addresses stay free of host memory here.
pub unsafe fn cuMemAddressFree(ptr: u64, size: usize) -> error::Result {
    calls::cuMemAddressFree(ptr, size)?;
    memory::remove_reservation(ptr);
    Ok(())
}

/// Places in CUmemAllocationProp.
mod props {
    pub const TYPE: usize = 0;
    /// Which of them there are, the host's driver knows.
    #[allow(dead_code)]
    pub const HANDLE_TYPES: usize = 4;
    pub const LOCATION: usize = 8;
    /// Windows' metadata, which must be NULL.
    pub const METADATA: std::ops::Range<usize> = 16..24;
    pub const RESERVED: std::ops::Range<usize> = 28..32;
}

/// CU_MEM_ALLOCATION_TYPE_PINNED and _MANAGED.
const PINNED: u32 = 1;
const MANAGED: u32 = 2;

/// Checked properties with the host's ordinal, and the program's ordinal.
fn properties(wanted: &Blob8<32>) -> error::Result<(Blob8<32>, i32)> {
    let bytes = &wanted.0;
    let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|&b| b == 0);
    if !zero(props::METADATA) || !zero(props::RESERVED) {
        return Err(error::INVALID_VALUE);
    }
    match word(bytes, props::TYPE) {
        PINNED => {}
        MANAGED => return Err(error::NOT_SUPPORTED),
        _ => return Err(error::INVALID_VALUE),
    }
    let ordinal = location::ordinal(bytes, props::LOCATION)?;
    Ok((*wanted, ordinal))
}

/// [`properties`] as the host's driver is to get them.
///
/// # Safety
/// `place` is NULL or the program's properties.
unsafe fn host_properties(place: *const Blob8<32>) -> error::Result<(Blob8<32>, i32)> {
    // SAFETY: the caller's promise.
    let (mut wanted, ordinal) = properties(unsafe { place.as_ref() }.ok_or(error::INVALID_VALUE)?)?;
    location::to_host(&mut wanted.0, props::LOCATION)?;
    Ok((wanted, ordinal))
}

/// The properties of memory of the first device, as the host's driver is to get them.
fn device_memory() -> error::Result<Blob8<32>> {
    let mut wanted = Blob8([0; 32]);
    set_word(&mut wanted.0, props::TYPE, PINNED);
    set_word(&mut wanted.0, props::LOCATION, location::DEVICE);
    location::to_host(&mut wanted.0, props::LOCATION)?;
    Ok(wanted)
}

pub unsafe fn cuMemCreate(
    handle: *mut u64,
    size: usize,
    prop: *const Blob8<32>,
    flags: u64,
) -> error::Result {
    if handle.is_null() || size == 0 || flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer.
    let (wanted, ordinal) = unsafe { host_properties(prop) }?;
    let made = handles::create_with(Kind::Allocation, 1, u64::from(ordinal.cast_unsigned()))?;
    if let Err(status) = calls::cuMemCreate(made, size, &[wanted], flags) {
        handles::remove(made);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(handle, made) }
}

/// The memory lives on while it is mapped.
pub unsafe fn cuMemRelease(handle: u64) -> error::Result {
    handles::check_allocation(handle)?;
    let _holding = holding();
    let (count, _) = handles::words(Kind::Allocation, handle)?;
    if count > 1 {
        handles::set_word(handle, 0, count - 1);
        return Ok(());
    }
    let result = calls::cuMemRelease(handle);
    handles::remove(handle);
    result
}

/// The handle of what is mapped at an address, which is to be released once more: the program's own, or a new one if it has released
/// that.
pub unsafe fn cuMemRetainAllocationHandle(handle: *mut u64, addr: *mut c_void) -> error::Result {
    let address = addr.expose_provenance() as u64;
    let (known, device) = memory::mapping(address).ok_or(error::INVALID_VALUE)?;
    if handle.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let _holding = holding();
    let retained = match handles::words(Kind::Allocation, known) {
        Ok((count, _)) => {
            handles::set_word(known, 0, count + 1);
            known
        }
        Err(_) => {
            let made = handles::create_with(Kind::Allocation, 1, u64::from(device.cast_unsigned()))?;
            if let Err(status) = calls::vgpuMemRetainHandle(made, address) {
                handles::remove(made);
                return Err(status);
            }
            memory::rename_mappings(known, made);
            made
        }
    };
    // SAFETY: checked above; the program's pointer.
    unsafe { put(handle, retained) }
}

pub unsafe fn cuMemMap(ptr: u64, size: usize, offset: usize, handle: u64, flags: u64) -> error::Result {
    let (_, device) = handles::words(Kind::Allocation, handle).map_err(|_| error::INVALID_VALUE)?;
    calls::cuMemMap(ptr, size, offset, handle, flags)?;
    memory::insert_mapping(ptr, size, handle, i32::try_from(device).unwrap_or(0));
    Ok(())
}

/// The driver refuses a part of a mapping.
pub unsafe fn cuMemUnmap(ptr: u64, size: usize) -> error::Result {
    calls::cuMemUnmap(ptr, size)?;
    memory::remove_mappings(ptr, size);
    Ok(())
}

pub unsafe fn cuMemSetAccess(ptr: u64, size: usize, desc: *const Blob4<12>, count: usize) -> error::Result {
    // SAFETY: the program's array of `count`.
    let list = unsafe { location::descriptions(desc, count, error::INVALID_VALUE) }?;
    calls::cuMemSetAccess(ptr, size, &list, count)
}

pub unsafe fn cuMemGetAccess(flags: *mut u64, location: *const Blob4<8>, ptr: u64) -> error::Result {
    // SAFETY: the program's pointers, or NULL.
    let (flags, place) = unsafe { (flags.as_mut(), location.as_ref()) };
    let (Some(flags), Some(&place)) = (flags, place) else { return Err(error::INVALID_VALUE) };
    let mut place = [place];
    // Here the driver takes what is no location for a device that is not there.
    if !location::is_one(&place[0].0) {
        return Err(error::INVALID_DEVICE);
    }
    location::to_host(&mut place[0].0, 0)?;
    calls::cuMemGetAccess(flags, &place, ptr)
}

/// Measured: the driver looks at nothing but `option`, so that properties that are none have the granularity of any memory of a device.
/// So has host memory, which cuMemCreate then refuses: NCCL falls back to shared memory if that does, but not if this does.
pub unsafe fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    prop: *const Blob8<32>,
    option: u32,
) -> error::Result {
    if granularity.is_null() || prop.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer.
    let wanted = match unsafe { host_properties(prop) } {
        Err(error::INVALID_VALUE | error::NOT_SUPPORTED) => device_memory()?,
        wanted => wanted?.0,
    };
    let mut value = 0;
    calls::cuMemGetAllocationGranularity(&mut value, &[wanted], option)?;
    // SAFETY: the program's pointer.
    unsafe { put(granularity, value) }
}

pub unsafe fn cuMemGetAllocationPropertiesFromHandle(prop: *mut Blob8<32>, handle: u64) -> error::Result {
    let (_, device) = handles::words(Kind::Allocation, handle).map_err(|_| error::INVALID_VALUE)?;
    let mut value = Blob8::default();
    calls::cuMemGetAllocationPropertiesFromHandle(&mut value, handle)?;
    // The ordinal is the program's, for imported memory too.
    if word(&value.0, props::LOCATION) == location::DEVICE {
        set_word(&mut value.0, props::LOCATION + 4, device as u32);
    }
    // SAFETY: the program's pointer.
    unsafe { put(prop, value) }
}

/// Only descriptors are given out; what the driver says of other types is passed on.
pub unsafe fn cuMemExportToShareableHandle(
    shareableHandle: *mut c_void,
    handle: u64,
    handleType: u32,
    flags: u64,
) -> error::Result {
    if shareableHandle.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (_, device) = handles::words(Kind::Allocation, handle).map_err(|_| error::INVALID_VALUE)?;
    let host = device::host_ordinal(i32::try_from(device).unwrap_or(-1))?;
    let token =
        sharing::token(|low, high| calls::vgpuShareAllocation(low, high, handle, host, handleType, flags))?;
    // SAFETY: checked above; the program's int.
    unsafe { sharing::put_descriptor(shareableHandle, token) }
}

/// The device of an imported thing, as the program's ordinal; `release` gives it back if the program does not see that device.
pub fn imported_on(host: i32, release: impl FnOnce()) -> error::Result<i32> {
    client::get()?.devices.ordinal_of_host(host).ok_or_else(|| {
        release();
        error::INVALID_DEVICE
    })
}

pub unsafe fn cuMemImportFromShareableHandle(
    handle: *mut u64,
    osHandle: *mut c_void,
    shHandleType: u32,
) -> error::Result {
    if handle.is_null() {
        return Err(error::INVALID_VALUE);
    }
    check_import(osHandle, shHandleType)?;
    let token = sharing::token_of_descriptor(osHandle).ok_or(error::UNKNOWN)?;
    let made = handles::create_with(Kind::Allocation, 1, 0)?;
    let mut host = 0;
    let imported = calls::vgpuOpenAllocation(made, &mut host, token.low, token.high);
    let device = imported.and_then(|()| imported_on(host, || calls::cuMemRelease(made).unwrap_or_default()));
    match device {
        Ok(device) => handles::set_word(made, 1, u64::from(device.cast_unsigned())),
        Err(status) => {
            handles::remove(made);
            return Err(status);
        }
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(handle, made) }
}

/// What is wrong with an import whatever the handle names. Only descriptors are taken; the other types are other systems'.
pub fn check_import(handle: *mut c_void, kind: u32) -> error::Result {
    match kind {
        _ if handle.is_null() => Err(error::INVALID_VALUE),
        sharing::FILE_DESCRIPTOR => Ok(()),
        WIN32 | WIN32_KMT | FABRIC => Err(error::NOT_SUPPORTED),
        _ => Err(error::INVALID_VALUE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_of_a_descriptor_or_of_another_systems_handle() {
        let handle = std::ptr::without_provenance_mut(7);
        assert_eq!(check_import(handle, sharing::FILE_DESCRIPTOR), Ok(()));
        assert_eq!(check_import(handle, FABRIC), Err(error::NOT_SUPPORTED));
        for kind in [0, 3, u32::MAX] {
            assert_eq!(check_import(handle, kind), Err(error::INVALID_VALUE), "{kind}");
        }
        assert_eq!(check_import(std::ptr::null_mut(), WIN32), Err(error::INVALID_VALUE));
    }

    #[test]
    fn properties_that_are_not_understood_are_refused() {
        let mut good = Blob8([0; 32]);
        set_word(&mut good.0, props::TYPE, PINNED);
        set_word(&mut good.0, props::LOCATION, location::DEVICE);
        set_word(&mut good.0, props::LOCATION + 4, 3);
        assert_eq!(properties(&good).map(|p| p.1), Ok(3));
        for (at, value, want) in [
            (props::HANDLE_TYPES, sharing::FILE_DESCRIPTOR, Ok(3)),
            (props::HANDLE_TYPES, 8, Ok(3)),
            (props::TYPE, MANAGED, Err(error::NOT_SUPPORTED)),
            (props::TYPE, 0, Err(error::INVALID_VALUE)),
            (props::LOCATION, 2, Err(error::NOT_SUPPORTED)),
            (props::METADATA.start, 1, Err(error::INVALID_VALUE)),
            (props::RESERVED.start, 1, Err(error::INVALID_VALUE)),
        ] {
            let mut other = good;
            set_word(&mut other.0, at, value);
            assert_eq!(properties(&other).map(|p| p.1), want, "{value} at {at}");
        }
    }
}
