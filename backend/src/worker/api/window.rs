//! Windows are registered with the driver, so that the guest's pinned memory has device pointer == host pointer.

use super::{capture, driver};

/// CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP
const FLAGS: u32 = 0x01 | 0x02;

/// Registers `[address, address + len)`, mapped already, with the driver.
///
/// # Errors
/// The driver's CUresult.
pub fn register_window(address: u64, len: u64) -> Result<(), u32> {
    let function = driver::get().and_then(|d| d.cuMemHostRegister_v2).ok_or(801_u32)?;
    capture::allow_here();
    let len = usize::try_from(len).map_err(|_| 1_u32)?;
    // SAFETY: the worker has mapped the range and keeps it mapped until it is unregistered.
    match unsafe { function(address as *mut _, len, FLAGS) } {
        0 => Ok(()),
        status => Err(status),
    }
}

/// Ends a registration. The driver waits for copies that use the range.
///
/// # Errors
/// The driver's CUresult.
pub fn unregister_window(address: u64) -> Result<(), u32> {
    let function = driver::get().and_then(|d| d.cuMemHostUnregister).ok_or(801_u32)?;
    capture::allow_here();
    // SAFETY: only names a range; the driver refuses one that is not registered.
    match unsafe { function(address as *mut _) } {
        0 => Ok(()),
        status => Err(status),
    }
}
