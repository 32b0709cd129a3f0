//! Initialisation, version, entry points, error names.

use crate::{call::put, client, error, export_table, proc_address};
use std::{
    ffi::{CStr, c_char, c_void},
    sync::OnceLock,
};
use vgpu_client::{Connection, Mode};
use vgpu_spec::{api::NEWEST, plain::Blob1, result};

pub unsafe fn cuInit(Flags: u32) -> error::Result {
    if Flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    client::start()
}

/// As cuDriverGetVersion, which may be called before cuInit: then the agent is asked for the snapshot alone.
pub fn driver_version() -> u32 {
    if let Ok(client) = client::get() {
        return client.devices.driver_version().min(NEWEST);
    }
    static EARLY: OnceLock<u32> = OnceLock::new();
    *EARLY.get_or_init(|| match Connection::open(Mode::SnapshotOnly) {
        Ok(connection) => connection.snapshot.header.driver_version.min(NEWEST),
        Err(_) => NEWEST,
    })
}

pub unsafe fn cuDriverGetVersion(driverVersion: *mut i32) -> error::Result {
    let version = i32::try_from(driver_version()).unwrap_or(0);
    // SAFETY: the program's pointer.
    unsafe { put(driverVersion, version) }
}

pub unsafe fn cuGetProcAddress_v2(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cudaVersion: i32,
    flags: u64,
    symbolStatus: *mut u32,
) -> error::Result {
    if symbol.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not NULL, hence NUL-terminated.
    let name = unsafe { CStr::from_ptr(symbol) };
    let (address, status) = proc_address::find(name, cudaVersion, flags, NEWEST)?;
    // SAFETY: the program's pointers.
    unsafe {
        put(pfn, address)?;
        if !symbolStatus.is_null() {
            symbolStatus.write(status);
        }
    }
    Ok(())
}

/// The form before CUDA 12 has no status: what is not there is CUDA_ERROR_NOT_FOUND.
pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    pfn: *mut *mut c_void,
    cudaVersion: i32,
    flags: u64,
) -> error::Result {
    let mut status = 0;
    // SAFETY: the program's pointers, and a place of our own.
    unsafe { cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, &raw mut status) }?;
    if status == 0 { Ok(()) } else { Err(result::CudaError::NotFound as u32) }
}

/// cuda.h declares the place of the result as `const void **`.
pub unsafe fn cuGetExportTable(
    ppExportTable: *const *mut c_void,
    pExportTableId: *const Blob1<16>,
) -> error::Result {
    // SAFETY: the program's pointers.
    match unsafe { export_table::get_export_table(ppExportTable.cast_mut().cast(), pExportTableId.cast()) } {
        0 => Ok(()),
        status => Err(status),
    }
}

unsafe fn describe(
    error: u32,
    place: *mut *mut c_void,
    part: fn((&'static CStr, &'static CStr)) -> &'static CStr,
) -> error::Result {
    let text = result::describe(error).map(part);
    // SAFETY: the program's pointer.
    unsafe { put(place, text.map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut().cast())) }?;
    text.map(|_| ()).ok_or(error::INVALID_VALUE)
}

pub unsafe fn cuGetErrorName(error: u32, pStr: *mut *mut c_void) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { describe(error, pStr, |(name, _)| name) }
}

pub unsafe fn cuGetErrorString(error: u32, pStr: *mut *mut c_void) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { describe(error, pStr, |(_, text)| text) }
}
