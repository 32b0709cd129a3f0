//! Texture and surface objects. Their numbers are the driver's own, since kernels get them as parameters; what was made is remembered,
//! so that the driver is not asked about anything else.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{
    plain::{Blob4, Blob8},
    structure::resource,
};

/// CUDA_RESOURCE_DESC.
type Resource = Blob8<144>;
/// The most objects of a client that are remembered.
const MAX_OBJECTS: usize = 1 << 20;

/// The objects that a client made, by the driver's context and number: the guest's number of what they show, 0 for memory.
#[derive(Default)]
pub struct Objects(Mutex<HashMap<(u64, u64), u64>>);

impl Objects {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<(u64, u64), u64>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn insert(&self, context: u64, object: u64, shows: u64) {
        self.with(|all| all.insert((context, object), shows));
    }

    /// The driver's context ends, and its objects with it.
    pub fn forget_context(&self, context: u64) {
        self.with(|all| all.retain(|&(of, _), _| of != context));
    }

    fn full(&self) -> bool {
        self.with(|all| all.len() >= MAX_OBJECTS)
    }

    fn take(&self, context: u64, object: u64) -> Option<u64> {
        self.with(|all| all.remove(&(context, object)))
    }

    fn get(&self, context: u64, object: u64) -> Result<u64, CudaError> {
        self.with(|all| all.get(&(context, object)).copied()).ok_or(INVALID_VALUE)
    }
}

impl Thread {
    /// A resource with the driver's handle, and the guest's number of it (0 for memory).
    fn resource(&self, given: Option<Vec<Resource>>) -> Result<(Resource, u64), CudaError> {
        let mut blob = given.and_then(|g| g.first().copied()).ok_or(INVALID_VALUE)?;
        let number = resource::HANDLE.get(&blob.0);
        // A handle that is none is, for these calls, an invalid value.
        let real = match resource::KIND.get(&blob.0) as u32 {
            resource::ARRAY => self.array(number),
            resource::MIPMAPPED_ARRAY => self.mipmappedarray(number),
            resource::LINEAR | resource::PITCH2D => return Ok((blob, 0)),
            _ => return Err(INVALID_VALUE),
        };
        resource::HANDLE.set(&mut blob.0, real.map_err(|_| INVALID_VALUE)?);
        Ok((blob, number))
    }
}

/// The driver's description with the guest's handle, as it was when the object was made.
fn shown(mut blob: Resource, number: u64) -> Resource {
    if number != 0 {
        resource::HANDLE.set(&mut blob.0, number);
    }
    blob
}

pub fn cuTexObjectCreate(
    t: &mut Thread,
    resource: Option<Vec<Resource>>,
    texture: Option<Vec<Blob4<104>>>,
    view: Option<Vec<Blob8<112>>>,
) -> Result<u64, CudaError> {
    let create = t.driver.cuTexObjectCreate.ok_or(NOT_SUPPORTED)?;
    let (resource, number) = t.resource(resource)?;
    let texture = texture.and_then(|t| t.first().copied()).ok_or(INVALID_VALUE)?;
    let view = view.map(|v| v.first().copied().ok_or(INVALID_VALUE)).transpose()?;
    if t.session.textures.full() {
        return Err(t.at_limit());
    }
    let mut object = 0_u64;
    let view = view.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: a place for the object and descriptions that outlive the call, a live handle; the driver checks addresses.
    check(unsafe { create(&raw mut object, &raw const resource, &raw const texture, view) })?;
    t.session.textures.insert(t.current_context(), object, number);
    Ok(object)
}

pub fn cuTexObjectDestroy(t: &mut Thread, object: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuTexObjectDestroy.ok_or(NOT_SUPPORTED)?;
    let context = t.current_context();
    // Before: another thread may be given the same number at once. What is no object is destroyed by the driver without an error.
    let Some(number) = t.session.textures.take(context, object) else { return Ok(()) };
    // SAFETY: an object that this client made in this context.
    check(unsafe { destroy(object) }).inspect_err(|_| t.session.textures.insert(context, object, number))
}

pub fn cuTexObjectGetResourceDesc(t: &mut Thread, object: u64) -> Result<Resource, CudaError> {
    let get = t.driver.cuTexObjectGetResourceDesc.ok_or(NOT_SUPPORTED)?;
    let number = t.session.textures.get(t.current_context(), object)?;
    let mut blob = Resource::default();
    // SAFETY: an object that this client made in this context, and a place that outlives the call.
    check(unsafe { get(&raw mut blob, object) })?;
    Ok(shown(blob, number))
}

pub fn cuTexObjectGetResourceViewDesc(t: &mut Thread, object: u64) -> Result<Blob8<112>, CudaError> {
    let get = t.driver.cuTexObjectGetResourceViewDesc.ok_or(NOT_SUPPORTED)?;
    t.session.textures.get(t.current_context(), object)?;
    let mut blob = Blob8::default();
    // SAFETY: as above.
    check(unsafe { get(&raw mut blob, object) })?;
    Ok(blob)
}

pub fn cuTexObjectGetTextureDesc(t: &mut Thread, object: u64) -> Result<Blob4<104>, CudaError> {
    let get = t.driver.cuTexObjectGetTextureDesc.ok_or(NOT_SUPPORTED)?;
    t.session.textures.get(t.current_context(), object)?;
    let mut blob = Blob4::default();
    // SAFETY: as above.
    check(unsafe { get(&raw mut blob, object) })?;
    Ok(blob)
}

pub fn cuSurfObjectCreate(t: &mut Thread, resource: Option<Vec<Resource>>) -> Result<u64, CudaError> {
    let create = t.driver.cuSurfObjectCreate.ok_or(NOT_SUPPORTED)?;
    let (resource, number) = t.resource(resource)?;
    if t.session.surfaces.full() {
        return Err(t.at_limit());
    }
    let mut object = 0_u64;
    // SAFETY: a place for the object and a description that outlive the call, a live handle.
    check(unsafe { create(&raw mut object, &raw const resource) })?;
    t.session.surfaces.insert(t.current_context(), object, number);
    Ok(object)
}

pub fn cuSurfObjectDestroy(t: &mut Thread, object: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuSurfObjectDestroy.ok_or(NOT_SUPPORTED)?;
    let context = t.current_context();
    // Before: another thread may be given the same number at once. What is no object is destroyed by the driver without an error.
    let Some(number) = t.session.surfaces.take(context, object) else { return Ok(()) };
    // SAFETY: an object that this client made in this context.
    check(unsafe { destroy(object) }).inspect_err(|_| t.session.surfaces.insert(context, object, number))
}

pub fn cuSurfObjectGetResourceDesc(t: &mut Thread, object: u64) -> Result<Resource, CudaError> {
    let get = t.driver.cuSurfObjectGetResourceDesc.ok_or(NOT_SUPPORTED)?;
    let number = t.session.surfaces.get(t.current_context(), object)?;
    let mut blob = Resource::default();
    // SAFETY: an object that this client made in this context, and a place that outlives the call.
    check(unsafe { get(&raw mut blob, object) })?;
    Ok(shown(blob, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_in_its_context_only() {
        let objects = Objects::default();
        objects.insert(1, 7, 99);
        assert_eq!(objects.get(1, 7), Ok(99));
        assert_eq!(objects.get(2, 7), Err(INVALID_VALUE));
        assert_eq!(objects.get(1, 8), Err(INVALID_VALUE));
        assert_eq!(objects.take(1, 7), Some(99));
        assert_eq!(objects.take(1, 7), None);
        assert_eq!(objects.get(1, 7), Err(INVALID_VALUE));
    }

    #[test]
    fn an_object_ends_with_its_context() {
        let objects = Objects::default();
        objects.insert(1, 7, 0);
        objects.insert(2, 7, 0);
        objects.forget_context(1);
        assert_eq!((objects.get(1, 7), objects.get(2, 7)), (Err(INVALID_VALUE), Ok(0)));
    }

    #[test]
    fn only_what_has_a_handle_shows_one() {
        let blob = Blob8([7; 144]);
        assert_eq!(shown(blob, 0).0, blob.0);
        assert_eq!(resource::HANDLE.get(&shown(blob, 0x1234).0), 0x1234);
    }
}
