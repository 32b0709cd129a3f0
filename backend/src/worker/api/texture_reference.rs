//! Texture and surface references: those of modules end with their module.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    numbers::Numbers,
    thread::Thread,
};
use std::ffi::CStr;

impl Thread {
    pub fn texturereference(&self, number: u64) -> Result<u64, CudaError> {
        self.session.texture_references.table.get(number)
    }

    pub fn surfacereference(&self, number: u64) -> Result<u64, CudaError> {
        self.session.surface_references.table.get(number)
    }

    /// The number of a reference that was just made.
    pub fn number_texturereference(&self, real: u64, _owner: u64) -> Result<u64, CudaError> {
        self.session.texture_references.forget(real);
        self.session.texture_references.number_in(real, 0, self.current_context())
    }

    fn forget_found(&self, find: impl Fn(&Numbers) -> Vec<u64>) {
        for numbers in [&self.session.texture_references, &self.session.surface_references] {
            find(numbers).into_iter().for_each(|real| numbers.forget(real));
        }
    }

    /// Ends the numbers of the references in the driver's context, which end with it.
    pub fn forget_context_references(&self, context: u64) {
        self.forget_found(|numbers| numbers.of_context(context));
    }

    /// Ends the numbers of the references in the driver's module.
    pub fn forget_references(&self, module: u64) {
        self.forget_found(|numbers| numbers.owned_by(module));
    }
}

pub fn cuModuleGetTexRef(t: &mut Thread, module: u64, name: &CStr) -> Result<u64, CudaError> {
    let get = t.driver.cuModuleGetTexRef.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a live module, a NUL-terminated name, and a place that outlives the call.
    check(unsafe { get(&raw mut real, module, name.as_ptr()) })?;
    t.session.texture_references.number_in(real, module, t.current_context())
}

pub fn cuModuleGetSurfRef(t: &mut Thread, module: u64, name: &CStr) -> Result<u64, CudaError> {
    let get = t.driver.cuModuleGetSurfRef.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: as above.
    check(unsafe { get(&raw mut real, module, name.as_ptr()) })?;
    t.session.surface_references.number_in(real, module, t.current_context())
}

pub fn cuTexRefDestroy(t: &mut Thread, reference: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuTexRefDestroy.ok_or(NOT_SUPPORTED)?;
    let numbers = &t.session.texture_references;
    let taken = numbers.take(reference).ok_or(INVALID_VALUE)?;
    // SAFETY: a live reference of this client, just taken out of the table.
    match check(unsafe { destroy(reference) }) {
        Ok(()) => {
            numbers.release(taken);
            Ok(())
        }
        Err(status) => {
            numbers.restore(taken)?;
            Err(status)
        }
    }
}

/// The number of the array that is bound. One that has ended is none.
pub fn cuTexRefGetArray(t: &mut Thread, reference: u64) -> Result<u64, CudaError> {
    let get = t.driver.cuTexRefGetArray.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a live reference of this client, and a place that outlives the call.
    check(unsafe { get(&raw mut real, reference) })?;
    Ok(t.session.arrays.known(real).unwrap_or(0))
}

pub fn cuTexRefGetMipmappedArray(t: &mut Thread, reference: u64) -> Result<u64, CudaError> {
    let get = t.driver.cuTexRefGetMipmappedArray.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: as above.
    check(unsafe { get(&raw mut real, reference) })?;
    Ok(t.session.mipmapped_arrays.known(real).unwrap_or(0))
}

pub fn cuSurfRefGetArray(t: &mut Thread, reference: u64) -> Result<u64, CudaError> {
    let get = t.driver.cuSurfRefGetArray.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: as above.
    check(unsafe { get(&raw mut real, reference) })?;
    Ok(t.session.arrays.known(real).unwrap_or(0))
}
