//! cuGetProcAddress: from a name and a CUDA version to one of the exported symbols.

use crate::{error, exports};
use std::ffi::{CStr, c_void};

/// A function's address.
#[derive(Clone, Copy)]
pub struct Address(pub *const ());

// SAFETY: the address of a function, which is never written.
unsafe impl Sync for Address {}

/// One version of an API.
pub struct Entry {
    pub api: &'static str,
    /// The first CUDA version that has it: 1000 × major + 10 × minor.
    pub since: u32,
    pub symbol: Address,
    /// What to give where stream 0 means the per-thread stream.
    pub per_thread: Address,
}

include!(concat!(env!("OUT_DIR"), "/proc_address.rs"));

/// CUdriverProcAddressQueryResult.
mod query {
    pub const SUCCESS: u32 = 0;
    pub const SYMBOL_NOT_FOUND: u32 = 1;
    pub const VERSION_NOT_SUFFICIENT: u32 = 2;
}

/// CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM.
const PER_THREAD: u64 = 2;
/// CU_GET_PROC_ADDRESS_LEGACY_STREAM.
const LEGACY: u64 = 1;

/// The symbol for `name` at `version`, and the query's result.
///
/// The newest version of the API that is not newer than `version` is meant (measured: an unknown name gives success and "not found",
/// a version below the first gives success and "version not sufficient", one above the driver's is invalid).
pub fn find(name: &CStr, version: i32, flags: u64, driver_version: u32) -> error::Result<(*mut c_void, u32)> {
    // Measured: what is below 0 is as the newest, and both streams at once are taken.
    let version = u32::try_from(version).unwrap_or(driver_version);
    if version > driver_version || flags > (LEGACY | PER_THREAD) {
        return Err(error::INVALID_VALUE);
    }
    let name = name.to_bytes();
    let first = TABLE.partition_point(|e| e.api.as_bytes() < name);
    let versions = TABLE[first..].iter().take_while(|e| e.api.as_bytes() == name);
    let mut known = false;
    let mut found = None;
    for entry in versions {
        known |= entry.since <= driver_version;
        if entry.since <= version {
            found = Some(entry);
        }
    }
    Ok(match found {
        Some(entry) => {
            let address = if flags & PER_THREAD != 0 { entry.per_thread } else { entry.symbol };
            (address.0.cast_mut().cast(), query::SUCCESS)
        }
        None if known => (std::ptr::null_mut(), query::VERSION_NOT_SUFFICIENT),
        None => (std::ptr::null_mut(), query::SYMBOL_NOT_FOUND),
    })
}

/// The name of a function id of the protocol.
pub fn name(id: u32) -> &'static str {
    NAMES.iter().find(|n| n.0 == id).map_or("an unknown function", |n| n.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &CStr, version: i32, flags: u64) -> error::Result<(*mut c_void, u32)> {
        find(name, version, flags, 13000)
    }

    #[test]
    fn the_newest_version_not_above_the_asked_one_is_given() {
        let v1 = exports::cuMemAlloc as *const () as *mut c_void;
        let v2 = exports::cuMemAlloc_v2 as *const () as *mut c_void;
        assert_eq!(ask(c"cuMemAlloc", 3010, 0), Ok((v1, 0)));
        assert_eq!(ask(c"cuMemAlloc", 3020, 0), Ok((v2, 0)));
        assert_eq!(ask(c"cuMemAlloc", 13000, 0), Ok((v2, 0)));
    }

    #[test]
    fn the_per_thread_flag_selects_the_other_symbol() {
        let per_thread = exports::cuLaunchKernel_ptsz as *const () as *mut c_void;
        assert_eq!(ask(c"cuLaunchKernel", 13000, 2), Ok((per_thread, 0)));
    }

    #[test]
    fn what_is_not_there_is_answered_as_the_real_driver_does() {
        let null = std::ptr::null_mut();
        assert_eq!(ask(c"", 13000, 0), Ok((null, 1)));
        assert_eq!(ask(c"cuMemAlloc_v2", 13000, 0), Ok((null, 1)));
        assert_eq!(ask(c"cuNoSuchThing", 13000, 0), Ok((null, 1)));
        assert_eq!(ask(c"cuMemAllocAsync", 9000, 0), Ok((null, 2)));
        assert_eq!(ask(c"cuMemAlloc", 13010, 0), Err(1));
    }

    #[test]
    fn every_name_of_the_table_resolves_at_the_drivers_version() {
        for entry in TABLE.iter().filter(|e| e.since <= 13000) {
            let name = std::ffi::CString::new(entry.api).unwrap();
            let (address, status) = ask(&name, 13000, 0).unwrap();
            assert!(!address.is_null() && status == 0, "{}", entry.api);
        }
    }
}
