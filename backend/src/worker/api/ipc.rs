//! Sharing between processes of a VM. The driver's handles and descriptors go to the broker and come from it; the guest sees tokens.
#![allow(non_snake_case)]

use super::{
    error::{
        CudaError, INVALID_HANDLE, INVALID_VALUE, MAP_FAILED, NOT_SUPPORTED, OPERATING_SYSTEM, UNKNOWN,
        check, complain,
    },
    thread::Thread,
};
use crate::{link::message::share_kind, log::chain, worker::broker_link::ShareError};
use std::{
    ffi::c_void,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::without_provenance_mut,
};
use vgpu_spec::{plain::Blob1, wire::share::Token};

/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
const FILE_DESCRIPTOR: u32 = 1;

/// What a failed request to the broker means; `unknown` for a token that names nothing.
fn failed(error: &ShareError, unknown: CudaError) -> CudaError {
    complain(&chain(error));
    match error {
        ShareError::Unknown => unknown,
        ShareError::Gone => INVALID_HANDLE,
        _ => OPERATING_SYSTEM,
    }
}

type Halves = (u64, u64);

fn halves(shared: Result<Token, ShareError>) -> Result<Halves, CudaError> {
    shared.map(|token| (token.low, token.high)).map_err(|error| failed(&error, OPERATING_SYSTEM))
}

/// Shares memory of cuMemAlloc.
pub fn vgpuShareMemory(t: &mut Thread, address: u64) -> Result<Halves, CudaError> {
    let get = t.driver.cuIpcGetMemHandle.ok_or(NOT_SUPPORTED)?;
    let mut handle = Blob1::default();
    t.spare.share();
    // SAFETY: a place for the handle; the driver looks the address up.
    check(unsafe { get(&raw mut handle, address) })?;
    halves(t.client.broker.share_handle(share_kind::MEMORY, handle.0))
}

/// Shares an event that was made with CU_EVENT_INTERPROCESS.
pub fn vgpuShareEvent(t: &mut Thread, event: u64) -> Result<Halves, CudaError> {
    let get = t.driver.cuIpcGetEventHandle.ok_or(NOT_SUPPORTED)?;
    let mut handle = Blob1::default();
    // SAFETY: a place for the handle, and a live event of this client.
    check(unsafe { get(&raw mut handle, event) })?;
    halves(t.client.broker.share_handle(share_kind::EVENT, handle.0))
}

/// A descriptor that the driver writes with `export`.
fn exported(export: impl FnOnce(*mut c_void) -> u32) -> Result<OwnedFd, CudaError> {
    let mut file: i32 = -1;
    check(export((&raw mut file).cast()))?;
    if file < 0 {
        return Err(OPERATING_SYSTEM);
    }
    // SAFETY: the driver made the descriptor for its caller.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// What the driver says of a handle type other than a descriptor. Its result would be a handle of the host's, so success is none here.
fn refused(export: impl FnOnce(*mut c_void) -> u32) -> Result<Halves, CudaError> {
    // As large as the largest of them.
    let mut place = [0_u64; 8];
    check(export(place.as_mut_ptr().cast()))?;
    Err(NOT_SUPPORTED)
}

/// Shares an allocation as a file. Which device it is on is for the importer.
pub fn vgpuShareAllocation(
    t: &mut Thread,
    allocation: u64,
    device: i32,
    kind: u32,
    flags: u64,
) -> Result<Halves, CudaError> {
    let export = t.driver.cuMemExportToShareableHandle.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a place for a handle of any type, and a live allocation of this client.
    let export = |place| unsafe { export(place, allocation, kind, flags) };
    if kind != FILE_DESCRIPTOR {
        return refused(export);
    }
    let file = exported(export)?;
    halves(t.client.broker.share_file(share_kind::ALLOCATION, u64::from(device.cast_unsigned()), &file))
}

/// Shares a pool as a file, with its device.
pub fn vgpuSharePool(
    t: &mut Thread,
    pool: u64,
    device: i32,
    kind: u32,
    flags: u64,
) -> Result<Halves, CudaError> {
    let export = t.driver.cuMemPoolExportToShareableHandle.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a place for a handle of any type, and a live pool of this client.
    let export = |place| unsafe { export(place, pool, kind, flags) };
    if kind != FILE_DESCRIPTOR {
        return refused(export);
    }
    let file = exported(export)?;
    halves(t.client.broker.share_file(share_kind::POOL, u64::from(device.cast_unsigned()), &file))
}

/// Shares memory of a pool that is shared.
pub fn vgpuSharePoolMemory(t: &mut Thread, address: u64) -> Result<Halves, CudaError> {
    let export = t.driver.cuMemPoolExportPointer.ok_or(NOT_SUPPORTED)?;
    let mut data = Blob1::default();
    // SAFETY: a place for the data; the driver looks the address up.
    check(unsafe { export(&raw mut data, address) })?;
    halves(t.client.broker.share_handle(share_kind::POOL_MEMORY, data.0))
}

/// Takes a share back.
pub fn vgpuUnshare(t: &mut Thread, low: u64, high: u64) -> Result<(), CudaError> {
    t.client.broker.unshare(Token { low, high }).map_err(|error| failed(&error, OPERATING_SYSTEM))
}

/// The allocation in which `address`, just opened, lies: address, first address and bytes.
fn extent(t: &Thread, address: u64) -> Result<(u64, u64, usize), CudaError> {
    let get = t.driver.cuMemGetAddressRange_v2.ok_or(NOT_SUPPORTED)?;
    let (mut base, mut size) = (0_u64, 0_usize);
    // SAFETY: places for the results; the driver looks the address up.
    check(unsafe { get(&raw mut base, &raw mut size, address) })?;
    Ok((address, base, size))
}

/// Opens another process's memory.
pub fn vgpuOpenMemory(
    t: &mut Thread,
    low: u64,
    high: u64,
    flags: u32,
) -> Result<(u64, u64, usize), CudaError> {
    let open = t.driver.cuIpcOpenMemHandle_v2.ok_or(NOT_SUPPORTED)?;
    let close = t.driver.cuIpcCloseMemHandle.ok_or(NOT_SUPPORTED)?;
    let handle = t.client.broker.fetch_handle(share_kind::MEMORY, Token { low, high });
    let handle = handle.map_err(|error| failed(&error, INVALID_VALUE))?;
    let mut address = 0_u64;
    // SAFETY: a place for the address, and a handle that the driver of another worker made.
    check(unsafe { open(&raw mut address, Blob1(handle), flags) })?;
    extent(t, address).inspect_err(|_| {
        // SAFETY: opened above.
        unsafe { close(address) };
    })
}

/// Opens another process's event.
pub fn vgpuOpenEvent(t: &mut Thread, event: u64, low: u64, high: u64) -> Result<(), CudaError> {
    let open = t.driver.cuIpcOpenEventHandle.ok_or(NOT_SUPPORTED)?;
    let handle = t.client.broker.fetch_handle(share_kind::EVENT, Token { low, high });
    let handle = handle.map_err(|error| failed(&error, MAP_FAILED))?;
    let mut real = 0_u64;
    // SAFETY: a place for the event, and a handle that the driver of another worker made.
    check(unsafe { open(&raw mut real, Blob1(handle)) })?;
    t.insert_event(event, real)
}

/// The descriptor as the driver's import functions take it: a number in a pointer.
fn number(file: &OwnedFd) -> *mut c_void {
    without_provenance_mut(usize::try_from(file.as_raw_fd()).unwrap_or(usize::MAX))
}

/// The number and the descriptor that a token of `kind` names. `other`: the driver's answer to a descriptor of the other kind.
fn file_of(
    t: &Thread,
    kind: u32,
    token: Token,
    other: (u32, CudaError),
) -> Result<(i32, OwnedFd), CudaError> {
    match t.client.broker.fetch_file(kind, token) {
        Ok((device, file)) => Ok((i32::try_from(device).map_err(|_| INVALID_VALUE)?, file)),
        Err(ShareError::Unknown) if t.client.broker.fetch_file(other.0, token).is_ok() => Err(other.1),
        Err(error) => Err(failed(&error, UNKNOWN)),
    }
}

/// Imports another process's allocation; gives the device that it is said to be on.
pub fn vgpuOpenAllocation(t: &mut Thread, allocation: u64, low: u64, high: u64) -> Result<i32, CudaError> {
    let import = t.driver.cuMemImportFromShareableHandle.ok_or(NOT_SUPPORTED)?;
    let other = (share_kind::POOL, NOT_SUPPORTED);
    let (device, file) = file_of(t, share_kind::ALLOCATION, Token { low, high }, other)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle, and a live descriptor, which the driver duplicates.
    check(unsafe { import(&raw mut real, number(&file), FILE_DESCRIPTOR) })?;
    t.insert_allocation(allocation, real)?;
    Ok(device)
}

/// Imports another process's pool; gives the device that it is said to be on, and its number, which is that of an earlier import if there
/// is one.
pub fn vgpuOpenPool(
    t: &mut Thread,
    pool: u64,
    low: u64,
    high: u64,
    flags: u64,
) -> Result<(i32, u64), CudaError> {
    let import = t.driver.cuMemPoolImportFromShareableHandle.ok_or(NOT_SUPPORTED)?;
    let other = (share_kind::ALLOCATION, NOT_SUPPORTED);
    let (device, file) = file_of(t, share_kind::POOL, Token { low, high }, other)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle, and a live descriptor, which the driver duplicates.
    check(unsafe { import(&raw mut real, number(&file), FILE_DESCRIPTOR, flags) })?;
    if let Some(known) = t.known_pool(real) {
        return Ok((device, known));
    }
    t.insert_memorypool(pool, real)?;
    Ok((device, pool))
}

/// Imports memory of another process's pool.
pub fn vgpuOpenPoolMemory(
    t: &mut Thread,
    pool: u64,
    low: u64,
    high: u64,
) -> Result<(u64, u64, usize), CudaError> {
    let import = t.driver.cuMemPoolImportPointer.ok_or(NOT_SUPPORTED)?;
    let free = t.driver.cuMemFree_v2.ok_or(NOT_SUPPORTED)?;
    let data = t.client.broker.fetch_handle(share_kind::POOL_MEMORY, Token { low, high });
    let mut data = Blob1(data.map_err(|error| failed(&error, INVALID_VALUE))?);
    let mut address = 0_u64;
    // SAFETY: a place for the address, a live pool, and data that the driver of another worker made.
    check(unsafe { import(&raw mut address, pool, &raw mut data) })?;
    extent(t, address).inspect_err(|_| {
        // SAFETY: imported above.
        unsafe { free(address) };
    })
}
