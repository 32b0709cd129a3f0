//! Functions by name.

use std::ffi::{c_char, c_void};

use super::proc_table::{Row, TABLE};
use super::{Out, name_at, put, put_if_wanted};
use crate::driver::init::DRIVER_VERSION;
use crate::model::special_stream::DefaultStream;
use crate::model::{CudaError, Result};

/// `CU_GET_PROC_ADDRESS_LEGACY_STREAM` and `_PER_THREAD_DEFAULT_STREAM`.
const FLAGS: u64 = 3;
/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

/// `CU_GET_PROC_ADDRESS_SUCCESS`.
const FOUND: u32 = 0;
/// `CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`.
const NOT_FOUND: u32 = 1;
/// `CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`.
const VERSION_NOT_SUFFICIENT: u32 = 2;

/// The function that `name` means in `version`, and the status.
fn find(name: &str, version: i32, default: DefaultStream) -> (*const c_void, u32) {
    let start = TABLE.partition_point(|row| row.0 < name);
    let rows = TABLE.get(start..).unwrap_or(&[]);
    let count = rows.partition_point(|row| row.0 == name);
    let rows: &[Row] = rows.get(..count).unwrap_or(&[]);
    if rows.is_empty() || version > DRIVER_VERSION {
        return (std::ptr::null(), NOT_FOUND);
    }
    match rows.iter().rev().find(|row| row.1 <= version) {
        Some(row) if default == DefaultStream::PerThread => (row.3, FOUND),
        Some(row) => (row.2, FOUND),
        None => (std::ptr::null(), VERSION_NOT_SUFFICIENT),
    }
}

fn get(
    name: &str,
    function: Out<'_, *const c_void>,
    version: i32,
    flags: u64,
    default: DefaultStream,
    status: Out<'_, u32>,
) -> Result {
    if flags & !FLAGS != 0 {
        return Err(CudaError::InvalidValue);
    }
    let default = if flags & PER_THREAD != 0 { DefaultStream::PerThread } else { default };
    let (found, what) = find(name, version, default);
    let is_told = status.is_some();
    put_if_wanted(status, what);
    put(function, found)?;
    if is_told || what == FOUND { Ok(()) } else { Err(CudaError::NotFound) }
}

driver_api! {
    /// A function by its name and version. What softgpu lacks is not found, which is a status and no error.
    fn cuGetProcAddress_v2(
        name: *const c_char, function: Out<'_, *const c_void>, version: i32, flags: u64, status: Out<'_, u32>
    ) {
        // SAFETY: the caller answers for the string.
        get(unsafe { name_at(name) }?, function, version, flags, DefaultStream::Legacy, status)
    }

    /// A function by its name and version; not found: `NOT_FOUND`.
    fn cuGetProcAddress(name: *const c_char, function: Out<'_, *const c_void>, version: i32, flags: u64) {
        // SAFETY: the caller answers for the string.
        get(unsafe { name_at(name) }?, function, version, flags, DefaultStream::Legacy, None)
    }
}
