//! Stream-ordered allocation, from the device's default pool.

use crate::{call::put, calls, error, handles, memory};

pub unsafe fn cuMemAllocAsync(dptr: *mut u64, bytesize: usize, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    if dptr.is_null() || bytesize == 0 {
        return Err(error::INVALID_VALUE);
    }
    let ask = |place: &mut u64| calls::cuMemAllocAsync(place, bytesize, hStream);
    let address = memory::allocate(bytesize, ask, |address| calls::cuMemFreeAsync(address, hStream))?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(dptr, address) }
}

pub unsafe fn cuMemFreeAsync(dptr: u64, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    if !memory::remove(dptr) {
        return Err(error::INVALID_VALUE);
    }
    calls::cuMemFreeAsync(dptr, hStream)
}
