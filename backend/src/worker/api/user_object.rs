//! User objects: what the program wants to be told of when the last graph that uses it is gone.
#![allow(non_snake_case)]

use super::{
    callback::{CALLBACKS, argument},
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::ffi::c_void;

/// The driver must not wait for the guest in a destructor: it may hold locks.
extern "C" fn destroyed(callback: *mut c_void) {
    CALLBACKS.run(callback.addr() as u64, 0, false);
}

pub fn vgpuUserObjectCreate(
    t: &mut Thread,
    object: u64,
    callback: u64,
    references: u32,
    flags: u32,
) -> Result<(), CudaError> {
    let real = create(t, callback, references, flags)?;
    t.insert_userobject(object, real)
}

/// An object whose end the guest is told of by `callback`: the driver's handle.
pub fn create(t: &Thread, callback: u64, references: u32, flags: u32) -> Result<u64, CudaError> {
    let create = t.driver.cuUserObjectCreate.ok_or(NOT_SUPPORTED)?;
    let function = destroyed as extern "C" fn(*mut c_void) as usize as u64;
    let mut real = 0_u64;
    // SAFETY: a place that outlives the call; the function takes any argument.
    check(unsafe { create(&raw mut real, argument(callback), function, references, flags) })?;
    Ok(real)
}
