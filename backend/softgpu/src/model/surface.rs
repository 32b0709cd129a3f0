//! Surface objects, and surface references of modules.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::array::{Array, SURFACE};
use super::context::Context;
use super::handle::{self, Kind};
use super::texture::{ARRAY, Resource};
use super::{CudaError, Result, state};
use crate::exec::texture::Surface;

/// A `CUsurfObject`.
#[derive(Debug)]
pub struct SurfaceObject {
    context: u64,
    surface: Arc<Surface>,
    /// What it was made of.
    pub resource: Resource,
}

impl SurfaceObject {
    /// Makes one and returns its handle: a small number, as the real driver's.
    pub fn create(context: &Context, resource: &Resource) -> Result<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if resource.kind != ARRAY {
            return Err(CudaError::InvalidValue);
        }
        let surface = Arc::new(Surface { image: resource.image()? });
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        let object = SurfaceObject { context: context.handle(), surface, resource: *resource };
        state()?.surfaces.insert(handle, Arc::new(object));
        Ok(handle)
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// What it shows.
    pub fn surface(&self) -> &Arc<Surface> {
        &self.surface
    }
}

/// A `CUsurfref`: a `.surfref` of a module.
#[derive(Debug)]
pub struct SurfaceReference {
    handle: u64,
    /// The address of the variable.
    variable: u64,
    array: Mutex<u64>,
}

impl SurfaceReference {
    /// The reference of the variable at an address, which the state knows.
    pub fn create(variable: u64) -> Result<Arc<SurfaceReference>> {
        let handle = handle::new_handle(Kind::SurfaceReference);
        let reference = Arc::new(SurfaceReference { handle, variable, array: Mutex::default() });
        state()?.surface_references.insert(handle, Arc::clone(&reference));
        Ok(reference)
    }

    /// The `CUsurfref`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Shows an array, which must be made for it.
    pub fn set(&self, array: &Arc<Array>) -> Result {
        if array.descriptor().flags & SURFACE == 0 {
            return Err(CudaError::InvalidValue);
        }
        let surface = Arc::new(Surface { image: array.image()? });
        state()?.bound_surfaces.insert(self.variable, surface);
        *self.array.lock().unwrap_or_else(PoisonError::into_inner) = array.handle();
        Ok(())
    }

    /// The array that it shows; `INVALID_VALUE` for none.
    pub fn array(&self) -> Result<u64> {
        match *self.array.lock().unwrap_or_else(PoisonError::into_inner) {
            0 => Err(CudaError::InvalidValue),
            array => Ok(array),
        }
    }

    /// Ends it with its module.
    pub fn forget(&self) -> Result {
        let state = state()?;
        let _ = state.surface_references.remove(self.handle);
        let _ = state.bound_surfaces.remove(self.variable);
        Ok(())
    }
}
