//! A CUDA driver that does nothing, for tests of the transport: it can be loaded, has one device, and calls return.
//!
//! It computes nothing, so no test that uses it says anything about CUDA.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod checkpoint;
mod escape;

use std::ffi::{c_char, c_int, c_void};

const SUCCESS: u32 = 0;
const OPERATING_SYSTEM: u32 = 304;
const INVALID_VALUE: u32 = 1;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: u32) -> u32 {
    if named_thread() { SUCCESS } else { OPERATING_SYSTEM }
}

/// Whether a thread of this process can be named from another one, which NVIDIA's cuInit does and depends on.
fn named_thread() -> bool {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let (tell, hear) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: asks for the thread's own number.
        let _ = tell.send(unsafe { libc::gettid() });
        let _ = wait.recv();
    });
    let path = hear.recv().map(|thread| format!("/proc/self/task/{thread}/comm"));
    let named = path.is_ok_and(|path| std::fs::write(path, "null-driver").is_ok());
    drop(end);
    let _ = thread.join();
    named
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *device = 0 };
    SUCCESS
}

/// Gives an address with nothing behind it. While the file `small-device` is there, only one process has room: others must be moved off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32 {
    if bytes > 1 << 30 {
        return checkpoint::OUT_OF_MEMORY;
    }
    if std::path::Path::new("small-device").exists() && !checkpoint::others_are_away() {
        return checkpoint::OUT_OF_MEMORY;
    }
    // SAFETY: the caller's out parameter.
    unsafe { *address = 0x7f00_0000_0000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(_address: u64) -> u32 {
    SUCCESS
}

/// A handle of memory is its address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Handle([u8; 64]);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut Handle, address: u64) -> u32 {
    let mut bytes = [0xA5; 64];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    // SAFETY: the caller's out parameter.
    unsafe { *handle = Handle(bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcOpenMemHandle_v2(address: *mut u64, handle: Handle, _flags: u32) -> u32 {
    let (front, rest) = handle.0.split_at(8);
    if rest.iter().any(|&b| b != 0xA5) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out parameter.
    unsafe { *address = u64::from_le_bytes(front.try_into().unwrap_or_default()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuIpcCloseMemHandle(_address: u64) -> u32 {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, address: u64) -> u32 {
    // SAFETY: the caller's out parameters.
    unsafe { (*base, *size) = (address, 4096) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    _size: usize,
    _properties: *const c_void,
    _flags: u64,
) -> u32 {
    // SAFETY: the caller's out parameter.
    unsafe { *handle = 0x1000 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemExportToShareableHandle(
    place: *mut c_int,
    _handle: u64,
    _type: u32,
    _flags: u64,
) -> u32 {
    use std::os::fd::IntoRawFd;
    let Ok(file) = std::fs::File::open("/dev/null") else { return INVALID_VALUE };
    // SAFETY: the caller's out parameter.
    unsafe { *place = file.into_raw_fd() };
    SUCCESS
}

/// Only `/dev/null` is memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemImportFromShareableHandle(
    handle: *mut u64,
    descriptor: *mut c_void,
    _type: u32,
) -> u32 {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.addr()));
    if path.is_ok_and(|p| p.as_os_str() == "/dev/null") {
        // SAFETY: the caller's out parameter.
        unsafe { *handle = 0x2000 };
        return SUCCESS;
    }
    INVALID_VALUE
}
