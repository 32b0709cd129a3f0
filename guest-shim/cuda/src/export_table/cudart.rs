//! CUDART: the driver's entrance for the CUDA runtime.
//!
//! Runtime 12 and later needs only the primary context; runtime 11 also loads its fatbins through this table.

use std::ffi::c_void;
use std::ptr;

use super::slot::{Slot, Table, Uuid};
use super::{answer, host, log, status};

pub const ID: Uuid = Uuid::new("6bd5fb6c-5bf4-e74a-8987-d93912fd9df9");

pub static TABLE: Table<13> = Table::sized::<{ ID.prefix() }>(&[
    (1, load_wrapper as Slot),
    (2, primary_context as Slot),
    (6, load_wrapper_with_options as Slot),
    (7, nothing as Slot),
    (8, load_fatbin_with_options as Slot),
    (12, load_compilers as Slot),
]);

/// The form of `__fatBinC_Wrapper_t`, which nvcc puts around an embedded fatbin.
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    data: *const c_void,
    file_name: *const c_void,
}

const WRAPPER_MAGIC: u32 = 0x4662_43B1;

/// The handle of a primary context that may not exist yet.
///
/// # Safety
/// `context` must be null or valid for a write.
unsafe extern "C" fn primary_context(context: *mut u64, device: i32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { answer(context, || host()?.primary_context(device)) }
}

/// # Safety
/// `module` must be null or valid for a write, `wrapper` null or a fatbin wrapper.
unsafe extern "C" fn load_wrapper(module: *mut u64, wrapper: *const c_void) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { load(module, wrapper, false) }
}

/// The three last arguments look like cuModuleLoadDataEx's options; runtime 11.8 passes none.
///
/// # Safety
/// As [`load_wrapper`].
unsafe extern "C" fn load_wrapper_with_options(
    module: *mut u64,
    wrapper: *const c_void,
    options: *const c_void,
    values: *const c_void,
    count: u32,
) -> u32 {
    let any = !options.is_null() || !values.is_null() || count != 0;
    // SAFETY: as the caller promises.
    unsafe { load(module, wrapper, any) }
}

/// As [`load_wrapper_with_options`], for a fatbin without a wrapper, and with the arguments in another order.
///
/// # Safety
/// `module` must be null or valid for a write, `fatbin` null or a fatbin.
unsafe extern "C" fn load_fatbin_with_options(
    fatbin: *const c_void,
    module: *mut u64,
    options: *const c_void,
    values: *const c_void,
    count: u32,
) -> u32 {
    if fatbin.is_null() {
        return status::INVALID_VALUE;
    }
    let any = !options.is_null() || !values.is_null() || count != 0;
    let wrapper = Wrapper { magic: WRAPPER_MAGIC, version: 1, data: fatbin, file_name: ptr::null() };
    // SAFETY: as the caller promises; the wrapper lives until the call returns.
    unsafe { load(module, ptr::from_ref(&wrapper).cast(), any) }
}

/// # Safety
/// As [`load_wrapper`].
unsafe fn load(module: *mut u64, wrapper: *const c_void, options: bool) -> u32 {
    if wrapper.is_null() {
        return status::INVALID_VALUE;
    }
    if options {
        log("loading a fatbin through the CUDART table: options are not supported");
        return status::NOT_SUPPORTED;
    }
    // SAFETY: as the caller promises.
    unsafe { answer(module, || host()?.load_fatbin_wrapper(wrapper)) }
}

/// Called by old runtimes when they end; nothing is owed.
extern "C" fn nothing(_: usize) -> u32 {
    status::SUCCESS
}

/// Runtime 13.5 asks the driver to load its PTX compilers early. They are loaded on the host when needed.
extern "C" fn load_compilers() -> u32 {
    status::SUCCESS
}
