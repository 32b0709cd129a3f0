//! Green contexts.
//!
//! A CUdevResource is the driver's own structure, with addresses in fields that only the driver understands. The guest gets a copy in
//! which a number takes their place, and what comes back is taken only if it is such a copy, unchanged.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, check},
    thread::Thread,
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, atomic::Ordering},
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

/// The driver's own fields, behind the type and its padding.
const OWN: std::ops::Range<usize> = 8..96;

/// The resources that the driver gave to a client.
#[derive(Default)]
pub struct Given(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The driver's by what the guest has.
    real: HashMap<[u8; 144], [u8; 144]>,
    /// And back, so that equal ones stay equal.
    shown: HashMap<[u8; 144], [u8; 144]>,
}

impl Given {
    /// What the guest is to have for a resource of the driver's.
    fn show(&self, resource: &Resource) -> Result<Resource, CudaError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = known.shown.get(&resource.0) {
            return Ok(Blob4(*shown));
        }
        let number = known.real.len();
        if number >= MOST {
            return Err(OUT_OF_MEMORY);
        }
        let mut shown = resource.0;
        shown[OWN].fill(0);
        shown[OWN.start..OWN.start + 8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
        known.real.insert(shown, resource.0);
        known.shown.insert(resource.0, shown);
        Ok(Blob4(shown))
    }

    /// The driver's resource for what the guest has.
    fn real(&self, shown: &Resource) -> Result<Resource, CudaError> {
        let [a, b, c, d, ..] = shown.0;
        if u32::from_le_bytes([a, b, c, d]) != SM {
            return Err(INVALID_TYPE);
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.real.get(&shown.0).map(|&real| Blob4(real)).ok_or(INVALID_CONFIGURATION)
    }
}

/// Asks with `ask`, and shows what the driver gives.
fn resource(t: &Thread, ask: impl FnOnce(*mut Resource) -> u32) -> Result<Resource, CudaError> {
    let mut resource = Blob4([0; 144]);
    check(ask(&raw mut resource))?;
    t.session.resources.show(&resource)
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
    let input = t.session.resources.real(input)?;
    let mut groups = vec![Blob4([0; 144]); result];
    let mut remaining = Blob4([0; 144]);
    let mut count =
        if groups.is_empty() { room } else { u32::try_from(result).map_err(|_| INVALID_VALUE)? };
    let places = if groups.is_empty() { std::ptr::null_mut() } else { groups.as_mut_ptr() };
    let rest = if groups.is_empty() { std::ptr::null_mut() } else { &raw mut remaining };
    // SAFETY: places that outlive the call, as many as the driver is told of, and a resource that this driver gave.
    check(unsafe { split(places, &raw mut count, &raw const input, rest, flags, least) })?;
    groups.truncate(count as usize);
    let shown = groups.iter().map(|group| t.session.resources.show(group)).collect::<Result<_, _>>()?;
    Ok((count, shown, t.session.resources.show(&remaining)?))
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
    let resources = resources.iter().map(|r| t.session.resources.real(r)).collect::<Result<Vec<_>, _>>()?;
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
    t.session.streams_differ.store(true, Ordering::Release);
    let (mut real, mut real_context) = (0_u64, 0_u64);
    let description = if description == 0 { 0 } else { t.resourcedescription(description)? };
    // SAFETY: a place for the handle, and a description that this driver made, or none.
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
        let real = |shown| given.real(&Blob4(shown)).map(|r| r.0);
        assert_eq!(real(bytes), Err(INVALID_CONFIGURATION));
        let shown = given.show(&Blob4(bytes)).unwrap().0;
        assert!(shown[OWN] != bytes[OWN] && shown[OWN.end..] == bytes[OWN.end..]);
        assert_eq!(given.show(&Blob4(bytes)).unwrap().0, shown, "equal ones stay equal");
        assert_eq!(real(shown), Ok(bytes));
        for place in [OWN.start, 50, 96] {
            let mut other = shown;
            other[place] ^= 8;
            assert_eq!(real(other), Err(INVALID_CONFIGURATION), "{place}");
        }
        bytes[0] = 0;
        let shown = given.show(&Blob4(bytes)).unwrap().0;
        assert_eq!(real(shown), Err(INVALID_TYPE), "an invalid resource is none to use");
    }
}
