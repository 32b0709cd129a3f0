//! Green contexts.
//!
//! A CUdevResource is the driver's own structure, with fields that only the driver understands. The guest keeps it, but what comes back
//! is taken only if this driver gave exactly these bytes before: so no guest makes the driver read fields of its own invention.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, check},
    thread::Thread,
};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::plain::Blob4;

/// CUdevResource.
pub type Resource = Blob4<144>;

/// The most different resources that a client's driver hands out.
const MOST: usize = 16384;
/// CUDA_ERROR_INVALID_RESOURCE_TYPE and CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION.
const INVALID_TYPE: CudaError = CudaError(914);
const INVALID_CONFIGURATION: CudaError = CudaError(915);
/// CU_DEV_RESOURCE_TYPE_SM.
const SM: u32 = 1;

/// The resources that the driver gave to a client.
#[derive(Default)]
pub struct Given(Mutex<HashSet<[u8; 144]>>);

impl Given {
    fn remember(&self, resource: &Resource) -> Result<(), CudaError> {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= MOST && !given.contains(&resource.0) {
            return Err(OUT_OF_MEMORY);
        }
        given.insert(resource.0);
        Ok(())
    }

    fn check(&self, resource: &Resource) -> Result<(), CudaError> {
        let [a, b, c, d, ..] = resource.0;
        if u32::from_le_bytes([a, b, c, d]) != SM {
            return Err(INVALID_TYPE);
        }
        let given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if given.contains(&resource.0) { Ok(()) } else { Err(INVALID_CONFIGURATION) }
    }
}

/// Asks with `ask`, and remembers what the driver gives.
fn resource(t: &Thread, ask: impl FnOnce(*mut Resource) -> u32) -> Result<Resource, CudaError> {
    let mut resource = Blob4([0; 144]);
    check(ask(&raw mut resource))?;
    t.session.resources.remember(&resource)?;
    Ok(resource)
}

/// A device's resource of a type.
pub fn cuDeviceGetDevResource(t: &mut Thread, device: i32, kind: u32) -> Result<Resource, CudaError> {
    let get = t.driver.cuDeviceGetDevResource.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a place that outlives the call.
    resource(t, |place| unsafe { get(device, place, kind) })
}

/// A context's resource of a type.
pub fn cuCtxGetDevResource(t: &mut Thread, context: u64, kind: u32) -> Result<Resource, CudaError> {
    let get = t.driver.cuCtxGetDevResource.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live context of this client, and a place that outlives the call.
    resource(t, |place| unsafe { get(context, place, kind) })
}

/// A green context's resource of a type.
pub fn cuGreenCtxGetDevResource(t: &mut Thread, green: u64, kind: u32) -> Result<Resource, CudaError> {
    let get = t.driver.cuGreenCtxGetDevResource.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live green context of this client, and a place that outlives the call.
    resource(t, |place| unsafe { get(green, place, kind) })
}

/// Splits SM resources into at most `room` groups; without room it is only counted.
pub fn vgpuSmResourceSplit(
    t: &mut Thread,
    result: usize,
    room: u32,
    input: Option<Vec<Resource>>,
    flags: u32,
    least: u32,
) -> Result<(u32, Vec<Resource>, Resource), CudaError> {
    let split = t.driver.cuDevSmResourceSplitByCount.ok_or(NOT_SUPPORTED)?;
    let input = input.as_deref().and_then(<[_]>::first).ok_or(INVALID_VALUE)?;
    t.session.resources.check(input)?;
    let mut groups = vec![Blob4([0; 144]); result];
    let mut remaining = Blob4([0; 144]);
    let mut count = if groups.is_empty() { room } else { u32::try_from(result).map_err(|_| INVALID_VALUE)? };
    let places = if groups.is_empty() { std::ptr::null_mut() } else { groups.as_mut_ptr() };
    let rest = if groups.is_empty() { std::ptr::null_mut() } else { &raw mut remaining };
    // SAFETY: places that outlive the call, as many as the driver is told of, and a resource that this driver gave.
    check(unsafe { split(places, &raw mut count, &raw const *input, rest, flags, least) })?;
    groups.truncate(count as usize);
    for group in &groups {
        t.session.resources.remember(group)?;
    }
    t.session.resources.remember(&remaining)?;
    Ok((count, groups, remaining))
}

/// A description of what a green context is to have.
pub fn vgpuResourceDescription(
    t: &mut Thread,
    description: u64,
    resources: Option<Vec<Resource>>,
    n: u32,
) -> Result<(), CudaError> {
    let generate = t.driver.cuDevResourceGenerateDesc.ok_or(NOT_SUPPORTED)?;
    let resources = resources.unwrap_or_default();
    if resources.len() != n as usize {
        return Err(INVALID_VALUE);
    }
    resources.iter().try_for_each(|r| t.session.resources.check(r))?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle, and as many resources as the driver is told of, each of which this driver gave.
    check(unsafe { generate(&raw mut real, resources.as_ptr(), n) })?;
    t.insert_resourcedescription(description, real)
}

/// Creates a green context, and makes its context known as `context`.
pub fn vgpuGreenContextCreate(
    t: &mut Thread,
    green: u64,
    context: u64,
    description: u64,
    device: i32,
    flags: u32,
) -> Result<(), CudaError> {
    let create = t.driver.cuGreenCtxCreate.ok_or(NOT_SUPPORTED)?;
    let convert = t.driver.cuCtxFromGreenCtx.ok_or(NOT_SUPPORTED)?;
    let (mut real, mut real_context) = (0_u64, 0_u64);
    // SAFETY: a place for the handle, and a description that this driver made.
    check(unsafe { create(&raw mut real, description, device, flags) })?;
    // SAFETY: a place for the handle, and the green context just made.
    check(unsafe { convert(&raw mut real_context, real) })?;
    t.forget_context();
    t.insert_context(context, real_context)?;
    t.insert_greencontext(green, real)
}

/// Destroys a green context and its context.
pub fn vgpuGreenContextDestroy(t: &mut Thread, green: u64, context: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuGreenCtxDestroy.ok_or(NOT_SUPPORTED)?;
    t.leave_context();
    t.take_context(context)?;
    // SAFETY: a live green context of this client, just taken out of the table.
    check(unsafe { destroy(green) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_resources_that_the_driver_gave_come_back() {
        let given = Given::default();
        let mut bytes = [7; 144];
        bytes[..4].copy_from_slice(&SM.to_le_bytes());
        assert_eq!(given.check(&Blob4(bytes)), Err(INVALID_CONFIGURATION));
        given.remember(&Blob4(bytes)).unwrap();
        assert_eq!(given.check(&Blob4(bytes)), Ok(()));
        let mut other = bytes;
        other[50] = 8;
        assert_eq!(given.check(&Blob4(other)), Err(INVALID_CONFIGURATION));
        bytes[0] = 0;
        given.remember(&Blob4(bytes)).unwrap();
        assert_eq!(given.check(&Blob4(bytes)), Err(INVALID_TYPE), "an invalid resource is none to use");
    }
}
