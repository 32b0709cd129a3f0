//! The driver's functions, resolved by symbol from the library that cudarc loaded.
//!
//! cudarc's own signatures have Rust enums where the API has C enums, so a number that they do not list would be undefined
//! behaviour; the guest chooses numbers, so calls go through signatures of plain integers.

use std::{ffi::CStr, sync::OnceLock};

mod table {
    #![allow(clippy::all)] // derived
    use super::symbol;
    include!(concat!(env!("OUT_DIR"), "/driver.rs"));
}
pub use table::Driver;

/// Looks `name` up; `None` if the driver lacks it.
///
/// # Safety
/// `T` is the function pointer type of that symbol.
unsafe fn symbol<T: Copy>(library: &libloading::Library, name: &CStr) -> Option<T> {
    // SAFETY: the caller vouches for the type; the library stays loaded for the life of the process.
    unsafe { library.get::<T>(name.to_bytes_with_nul()) }.ok().map(|s| *s)
}

#[cfg(test)]
impl Driver {
    /// One that has no function, for tests to give it some.
    pub fn none() -> Self {
        // SAFETY: a driver consists of optional functions, for which zero is none.
        unsafe { std::mem::zeroed() }
    }
}

/// The driver, once [`load`] has succeeded.
static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Loads the CUDA driver library through cudarc.
///
/// # Errors
/// A sentence for the log when the library cannot be found.
pub fn load() -> Result<&'static Driver, String> {
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    // SAFETY: only tries to load libraries by name.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err("loading the CUDA driver: libcuda.so.1 was not found (install the NVIDIA driver, or use --softgpu)".into());
    }
    // SAFETY: presence was checked, so cudarc does not panic.
    let library = unsafe { cudarc::driver::sys::culib() };
    Ok(DRIVER.get_or_init(|| Driver::load(library)))
}

/// The loaded driver.
pub fn get() -> Option<&'static Driver> {
    DRIVER.get()
}
