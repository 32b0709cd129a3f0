//! A CUDA driver that does nothing, for tests of the transport: it can be loaded, has one device, and calls return.
//!
//! It computes nothing, so no test that uses it says anything about CUDA.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_void};

const SUCCESS: u32 = 0;
const INVALID_VALUE: u32 = 1;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: u32) -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *version = 13000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> u32 {
    let text = c"vgpu null device";
    if usize::try_from(len).unwrap_or(0) < text.count_bytes() + 1 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's buffer is long enough.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name, text.count_bytes() + 1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *uuid = *b"vgpu-null-device" };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *bytes = 1 << 30 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, id: u32, _device: c_int) -> u32 {
    if id != 33 {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out parameter.
    unsafe { *value = 7 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> u32 {
    // SAFETY: the caller's out parameters.
    unsafe { (*least, *greatest) = (0, 0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *context = std::ptr::dangling_mut() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(_address: *mut c_void, _bytes: usize, _flags: u32) -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(_address: *mut c_void) -> u32 {
    SUCCESS
}

/// Prints, as a kernel's printf does.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_stream: *mut c_void) -> u32 {
    unsafe extern "C" {
        fn puts(text: *const c_char) -> c_int;
    }
    // SAFETY: a literal with its NUL.
    unsafe { puts(c"printed by a kernel".as_ptr()) };
    SUCCESS
}

/// Never returns, as with a kernel that runs for ever.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> u32 {
    loop {
        std::thread::park();
    }
}
