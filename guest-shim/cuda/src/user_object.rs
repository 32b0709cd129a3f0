//! User objects: a function of the program runs when the last reference is gone.

use crate::{call::put, callback, calls, error, handles};
use std::ffi::c_void;
use vgpu_spec::handle::Kind;

/// CU_USER_OBJECT_NO_DESTRUCTOR_SYNC: the only flag, and required.
const NO_DESTRUCTOR_SYNC: u32 = 1;

pub unsafe fn cuUserObjectCreate(
    object_out: *mut u64,
    ptr: *mut c_void,
    destroy: u64,
    initialRefcount: u32,
    flags: u32,
) -> error::Result {
    if object_out.is_null() || initialRefcount == 0 || flags != NO_DESTRUCTOR_SYNC {
        return Err(error::INVALID_VALUE);
    }
    let number = callback::of_object(destroy, ptr)?;
    let created = handles::create(Kind::UserObject).and_then(|object| {
        calls::vgpuUserObjectCreate(object, number, initialRefcount, flags)
            .inspect_err(|_| handles::remove(object))
            .map(|()| object)
    });
    let object = created.inspect_err(|_| callback::forget(number))?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(object_out, object) }
}
