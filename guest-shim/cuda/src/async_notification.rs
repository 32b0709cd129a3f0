//! Notifications of a device. The only one there is tells of a memory budget that is exceeded, which Windows sets: nothing comes.

use crate::{call::put, device, error, handles};
use std::ffi::c_void;
use vgpu_spec::handle::Kind;

pub unsafe fn cuDeviceRegisterAsyncNotification(
    device: i32,
    callbackFunc: u64,
    _userData: *mut c_void,
    callback: *mut u64,
) -> error::Result {
    device::host_ordinal(device)?;
    if callbackFunc == 0 || callback.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let ordinal = u64::from(device.cast_unsigned());
    // SAFETY: checked above; the program's pointer.
    unsafe { put(callback, handles::create_with(Kind::AsyncCallback, ordinal, 0)?) }
}

pub unsafe fn cuDeviceUnregisterAsyncNotification(device: i32, callback: u64) -> error::Result {
    device::host_ordinal(device)?;
    let (ordinal, _) = handles::words(Kind::AsyncCallback, callback).map_err(|_| error::INVALID_VALUE)?;
    if ordinal != u64::from(device.cast_unsigned()) {
        return Err(error::INVALID_VALUE);
    }
    handles::remove(callback);
    Ok(())
}
