//! The exported functions, by the noun that they serve. Each checks its arguments and calls the model.
//!
//! Enumerations are plain integers, so that a value that is not known is an error and not undefined behaviour.
//! Pointers to results are optional references: NULL is `None`.

#![allow(non_snake_case)]

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use crate::model::{CudaError, Result};

/// Declares exported functions whose bodies give a `Result`.
macro_rules! driver_api {
    ($($(#[$doc:meta])* fn $name:ident($($parameter:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers must be valid for what the CUDA driver API says that this function reads and writes.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($parameter: $type),*) -> u32 {
            let answer = move || -> $crate::model::Result { $body };
            $crate::driver::code_of(answer())
        }
    )*};
}

/// Declares pairs of exported functions that differ in what a NULL stream means.
macro_rules! stream_api {
    ($($(#[$doc:meta])*
       fn $name:ident | $per_thread:ident($default:ident; $($parameter:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        stream_api!(@one $(#[$doc])* $name, Legacy, $default, ($($parameter: $type),*), $body);
        stream_api!(@one
            /// The same with the calling thread's default stream.
            $per_thread, PerThread, $default, ($($parameter: $type),*), $body);
    )*};
    (@one $(#[$doc:meta])* $name:ident, $which:ident, $default:ident, ($($parameter:ident: $type:ty),*), $body:block) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers must be valid for what the CUDA driver API says that this function reads and writes.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($parameter: $type),*) -> u32 {
            let $default = $crate::model::special_stream::DefaultStream::$which;
            let answer = move || -> $crate::model::Result { $body };
            $crate::driver::code_of(answer())
        }
    };
}

pub mod array;
pub mod capture;
pub mod context;
pub mod copy;
pub mod copy_array;
pub mod copy_strided;
pub mod device;
pub mod error;
pub mod event;
pub mod external;
pub mod external_node;
pub mod function;
pub mod graph;
pub mod graph_memory;
pub mod graph_node;
pub mod green_context;
pub mod host_memory;
pub mod init;
pub mod ipc;
mod jit_options;
pub mod kernel;
pub mod launch;
pub mod library;
pub mod link;
pub mod memory;
pub mod memset;
pub mod module;
pub mod occupancy;
pub mod pointer;
pub mod pool;
pub mod primary_context;
pub mod proc_address;
mod proc_table;
pub mod stream;
pub mod stream_memory_operation;
pub mod surface;
pub mod tensor_map;
pub mod texture;
pub mod texture_reference;
pub mod user_object;
pub mod virtual_memory;

/// Where a function writes a result.
pub type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// The `CUresult` of an answer.
fn code_of(answer: Result) -> u32 {
    answer.map_or_else(CudaError::code, |()| 0)
}

/// Writes a result that the caller must want; `INVALID_VALUE` for NULL.
fn put<T>(out: Out<'_, T>, value: T) -> Result {
    out.ok_or(CudaError::InvalidValue)?.write(value);
    Ok(())
}

/// Writes a result that the caller may want.
fn put_if_wanted<T>(out: Out<'_, T>, value: T) {
    if let Some(out) = out {
        out.write(value);
    }
}

/// A name that the program gives; `INVALID_VALUE` for NULL, `NOT_FOUND` for what is no name of ours.
///
/// # Safety
/// `name` must be NULL or point to a string that ends in NUL and lives as long as the result.
unsafe fn name_at<'a>(name: *const c_char) -> Result<&'a str> {
    if name.is_null() {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the caller answers for the string.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| CudaError::NotFound)
}

/// An array that the program gives; `INVALID_VALUE` for NULL, unless it is empty.
///
/// # Safety
/// `start` must be NULL or point to `count` values that live as long as the result.
unsafe fn array_at<'a, T>(start: *const T, count: usize) -> Result<&'a [T]> {
    match count {
        0 => Ok(&[]),
        _ if start.is_null() => Err(CudaError::InvalidValue),
        // SAFETY: the caller answers for the values.
        _ => Ok(unsafe { std::slice::from_raw_parts(start, count) }),
    }
}

/// Writes as many of `values` as `count` allows to an array that the program gives.
///
/// # Safety
/// `start` must be NULL or have room for `count` values.
unsafe fn put_array<T>(start: *mut T, count: usize, values: impl Iterator<Item = T>) -> Result {
    if start.is_null() && count > 0 {
        return Err(CudaError::InvalidValue);
    }
    for (index, value) in values.take(count).enumerate() {
        // SAFETY: `index` is below `count`, for which the caller answers.
        unsafe { start.add(index).write(value) };
    }
    Ok(())
}

/// Writes `text` and a NUL to a buffer of `length` bytes, cut if need be.
///
/// # Safety
/// `buffer` must be NULL or have room for `length` bytes.
unsafe fn put_text(buffer: *mut c_char, length: i32, text: &str) -> Result {
    let length = usize::try_from(length).map_err(|_| CudaError::InvalidValue)?;
    if buffer.is_null() || length == 0 {
        return Err(CudaError::InvalidValue);
    }
    let bytes = text.bytes().take(length - 1).chain([0]).map(|byte| c_char::from_ne_bytes([byte]));
    // SAFETY: the caller answers for `length` bytes, and no more come.
    unsafe { put_array(buffer, length, bytes) }
}
