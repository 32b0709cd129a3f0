//! Primary contexts.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::sync::PoisonError;

/// Retains the primary context of `device` as the guest's handle `context`. The shim counts retains; here it is retained once.
pub fn vgpuPrimaryContextRetain(
    t: &mut Thread,
    context: u64,
    device: i32,
    flags: u32,
) -> Result<(), CudaError> {
    let flags = flags & !super::context::COREDUMP;
    if flags != 0 {
        let set = t.driver.cuDevicePrimaryCtxSetFlags_v2.ok_or(NOT_SUPPORTED)?;
        // SAFETY: plain values.
        check(unsafe { set(device, flags) })?;
    }
    let retain = t.driver.cuDevicePrimaryCtxRetain.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call.
    check(unsafe { retain(&raw mut real, device) })?;
    t.session.primaries.lock().unwrap_or_else(PoisonError::into_inner).insert(device, real);
    t.insert_context(context, real)
}

/// Resets the primary context of `device`: everything in it ends.
pub fn vgpuPrimaryContextReset(t: &mut Thread, device: i32) -> Result<(), CudaError> {
    let reset = t.driver.cuDevicePrimaryCtxReset_v2.ok_or(NOT_SUPPORTED)?;
    t.forget_context();
    let ends = t.session.primaries.lock().unwrap_or_else(PoisonError::into_inner).get(&device).copied();
    if let Some(context) = ends {
        t.session.turns.forget_context(context);
    }
    // SAFETY: a plain value.
    check(unsafe { reset(device) })?;
    let ended = t.session.primaries.lock().unwrap_or_else(PoisonError::into_inner).remove(&device);
    if let Some(context) = ended {
        t.forget_objects(context);
    }
    Ok(())
}
