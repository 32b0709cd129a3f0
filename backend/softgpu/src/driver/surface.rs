//! Surface objects and references.

use std::ffi::c_char;
use std::sync::Arc;

use super::array::array;
use super::texture::put_resource;
use super::{Out, name_at, put};
use crate::model::graph::forbid_unsafe;
use crate::model::surface::{SurfaceObject, SurfaceReference};
use crate::model::texture::Resource;
use crate::model::{CudaError, Result, current, state};

fn reference(handle: u64) -> Result<Arc<SurfaceReference>> {
    state()?.surface_references.get(handle)
}

driver_api! {
    /// Makes a surface object of an array.
    fn cuSurfObjectCreate(out: Out<'_, u64>, resource: Option<&Resource>) {
        forbid_unsafe()?;
        let context = current::working_context()?;
        let (out, resource) = out.zip(resource).ok_or(CudaError::InvalidValue)?;
        out.write(SurfaceObject::create(&context, resource)?);
        Ok(())
    }

    /// Ends a surface object. What is none is no error.
    fn cuSurfObjectDestroy(handle: u64) {
        forbid_unsafe()?;
        current::working_context()?;
        let _ = state()?.surfaces.remove(handle);
        Ok(())
    }

    /// What a surface object was made of.
    fn cuSurfObjectGetResourceDesc(out: Out<'_, Resource>, handle: u64) {
        let object = state()?.surfaces.get(handle).map_err(|_| CudaError::InvalidValue)?;
        put_resource(out, &object.resource)
    }

    /// A surface reference of a module by its name: `NOT_FOUND` if there is none.
    fn cuModuleGetSurfRef(out: Out<'_, u64>, module: u64, name: *const c_char) {
        let module = super::module::find(module)?;
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        put(out, module.surface_reference(name).ok_or(CudaError::NotFound)?.handle())
    }

    /// Makes a surface reference show an array. There are no flags.
    fn cuSurfRefSetArray(handle: u64, shown: u64, flags: u32) {
        let reference = reference(handle)?;
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        reference.set(&array(shown)?)
    }

    /// The array that a surface reference shows.
    fn cuSurfRefGetArray(out: Out<'_, u64>, handle: u64) {
        put(out, reference(handle)?.array()?)
    }
}
