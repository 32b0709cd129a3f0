//! Devices: count, handles, and what kind of device each is.

use crate::{
    abi::UUID,
    call::{Out, Text, check_version},
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};
use std::ffi::CStr;

/// NVML_FEATURE_DISABLED and _ENABLED.
pub const DISABLED: u32 = 0;
pub const ENABLED: u32 = 1;

pub fn nvmlDeviceGetCount_v2(library: &Library, deviceCount: Out<u32>) -> error::Result {
    deviceCount.set(u32::try_from(library.devices().len()).unwrap_or(u32::MAX));
    Ok(())
}

pub fn nvmlDeviceGetCount(library: &Library, deviceCount: Out<u32>) -> error::Result {
    nvmlDeviceGetCount_v2(library, deviceCount)
}

pub fn nvmlDeviceGetHandleByIndex_v2(library: &Library, index: u32, device: Out<u64>) -> error::Result {
    let found = usize::try_from(index).ok().and_then(|i| library.devices().get(i));
    device.set(library.handle(found.ok_or(NvmlError::InvalidArgument)?)?);
    Ok(())
}

pub fn nvmlDeviceGetHandleByIndex(library: &Library, index: u32, device: Out<u64>) -> error::Result {
    nvmlDeviceGetHandleByIndex_v2(library, index, device)
}

/// The whole UUID, with or without `GPU-`, in lower case.
pub fn nvmlDeviceGetHandleByUUID(library: &Library, uuid: &CStr, device: Out<u64>) -> error::Result {
    by_uuid(library, uuid.to_bytes(), device)
}

fn by_uuid(library: &Library, uuid: &[u8], device: Out<u64>) -> error::Result {
    let is = |d: &&Device| d.uuid.as_bytes() == uuid || d.uuid.as_bytes().strip_prefix(b"GPU-") == Some(uuid);
    let found = library.devices().iter().find(is).ok_or(NvmlError::NotFound)?;
    device.set(library.handle(found)?);
    Ok(())
}

pub fn nvmlDeviceGetHandleByUUIDV(library: &Library, uuid: &UUID, device: Out<u64>) -> error::Result {
    check_version(uuid)?;
    match uuid.kind {
        1 => {
            let text = CStr::from_bytes_until_nul(&uuid.value).map_err(|_| NvmlError::InvalidArgument)?;
            by_uuid(library, text.to_bytes(), device)
        }
        2 => {
            let found = library.devices().iter().find(|d| uuid.value.starts_with(&d.uuid_bytes));
            device.set(library.handle(found.ok_or(NvmlError::NotFound)?)?);
            Ok(())
        }
        _ => Err(NvmlError::InvalidArgument),
    }
}

pub fn nvmlDeviceGetName(_: &Library, device: &Device, name: Text) -> error::Result {
    name.set(&device.name)
}

pub fn nvmlDeviceGetUUID(_: &Library, device: &Device, uuid: Text) -> error::Result {
    uuid.set(&device.uuid)
}

pub fn nvmlDeviceGetIndex(_: &Library, device: &Device, index: Out<u32>) -> error::Result {
    index.set(device.index);
    Ok(())
}

/// The number in `/dev/nvidiaN`, where programs look for one.
pub fn nvmlDeviceGetMinorNumber(_: &Library, device: &Device, minorNumber: Out<u32>) -> error::Result {
    minorNumber.set(device.index);
    Ok(())
}

/// The brand is part of the name that the driver gives a device; the longer prefix comes first.
const BRANDS: [(&str, u32); 9] = [
    ("Quadro RTX", 12),
    ("Quadro", 1),
    ("Tesla", 2),
    ("NVS", 3),
    ("GeForce", 5),
    ("TITAN", 6),
    ("NVIDIA GeForce", 5),
    ("NVIDIA TITAN", 6),
    ("NVIDIA RTX", 13),
];

fn brand(name: &str) -> u32 {
    match BRANDS.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        Some((_, brand)) => *brand,
        None if name.starts_with("NVIDIA ") => 14,
        None => 0,
    }
}

pub fn nvmlDeviceGetBrand(_: &Library, device: &Device, r#type: Out<u32>) -> error::Result {
    r#type.set(brand(&device.name));
    Ok(())
}

/// NVML_DEVICE_ARCH_* of a compute capability.
fn architecture((major, minor): (u32, u32)) -> u32 {
    match (major, minor) {
        (3, _) => 2,
        (5, _) => 3,
        (6, _) => 4,
        (7, 5) => 6,
        (7, _) => 5,
        (8, 9) => 8,
        (8, _) => 7,
        (9, _) => 9,
        (10..=12, _) => 10,
        _ => u32::MAX,
    }
}

pub fn nvmlDeviceGetArchitecture(_: &Library, device: &Device, arch: Out<u32>) -> error::Result {
    arch.set(architecture(device.compute_capability()?));
    Ok(())
}

pub fn nvmlDeviceGetCudaComputeCapability(
    _: &Library,
    device: &Device,
    major: Out<i32>,
    minor: Out<i32>,
) -> error::Result {
    let (a, b) = device.compute_capability()?;
    major.set(a.cast_signed());
    minor.set(b.cast_signed());
    Ok(())
}

/// Cores of a multiprocessor (CUDA programming guide, compute capabilities: arithmetic instructions).
fn cores((major, minor): (u32, u32)) -> Option<u32> {
    match (major, minor) {
        (3, _) => Some(192),
        (6, 0) | (7, _) | (8, 0) => Some(64),
        (5 | 6 | 8..=12, _) => Some(128),
        _ => None,
    }
}

pub fn nvmlDeviceGetNumGpuCores(_: &Library, device: &Device, numCores: Out<u32>) -> error::Result {
    let each = cores(device.compute_capability()?).ok_or(NvmlError::NotSupported)?;
    numCores.set(device.attribute(attribute::MULTIPROCESSOR_COUNT)?.saturating_mul(each));
    Ok(())
}

/// CUDA and NVML number the modes alike.
pub fn nvmlDeviceGetComputeMode(_: &Library, device: &Device, mode: Out<u32>) -> error::Result {
    mode.set(device.attribute(attribute::COMPUTE_MODE)?);
    Ok(())
}

/// The host's workers keep the device ready while no guest uses it.
pub fn nvmlDeviceGetPersistenceMode(_: &Library, _: &Device, mode: Out<u32>) -> error::Result {
    mode.set(ENABLED);
    Ok(())
}

/// No display reaches a guest.
pub fn nvmlDeviceGetDisplayActive(_: &Library, _: &Device, isActive: Out<u32>) -> error::Result {
    isActive.set(DISABLED);
    Ok(())
}

pub fn nvmlDeviceGetDisplayMode(_: &Library, _: &Device, display: Out<u32>) -> error::Result {
    display.set(DISABLED);
    Ok(())
}

/// Kinds of functions that can be restricted to the administrator (nvmlRestrictedAPI_t).
const RESTRICTED_KINDS: u32 = 2;

/// The host alone changes its devices.
pub fn nvmlDeviceGetAPIRestriction(
    _: &Library,
    _: &Device,
    apiType: u32,
    isRestricted: Out<u32>,
) -> error::Result {
    if apiType >= RESTRICTED_KINDS {
        return Err(NvmlError::InvalidArgument);
    }
    isRestricted.set(ENABLED);
    Ok(())
}

pub fn nvmlDeviceGetMultiGpuBoard(_: &Library, device: &Device, multiGpuBool: Out<u32>) -> error::Result {
    multiGpuBool.set(device.attribute(attribute::MULTI_GPU_BOARD)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::Versioned,
        call::tests::{output, text_output},
        library::tests::library,
    };

    #[test]
    fn figures_of_an_h100_are_those_of_the_native_library() {
        let library = library(1);
        let device = &library.devices()[0];
        assert_eq!(output(|o| nvmlDeviceGetBrand(&library, device, o)), Ok(14));
        assert_eq!(output(|o| nvmlDeviceGetArchitecture(&library, device, o)), Ok(9));
        assert_eq!(output(|o| nvmlDeviceGetNumGpuCores(&library, device, o)), Ok(16896));
        assert_eq!(output(|o| nvmlDeviceGetComputeMode(&library, device, o)), Ok(0));
        assert_eq!(output(|o| nvmlDeviceGetPersistenceMode(&library, device, o)), Ok(1));
        assert_eq!(output(|o| nvmlDeviceGetDisplayActive(&library, device, o)), Ok(0));
        assert_eq!(output(|o| nvmlDeviceGetMultiGpuBoard(&library, device, o)), Ok(0));
        let restricted = |kind| output(|o| nvmlDeviceGetAPIRestriction(&library, device, kind, o));
        assert_eq!((restricted(1), restricted(2)), (Ok(1), Err(NvmlError::InvalidArgument)));
    }

    #[test]
    fn devices_are_found_by_index() {
        let library = library(2);
        assert_eq!(output(|o| nvmlDeviceGetCount(&library, o)), Ok(2));
        for index in [0, 1] {
            let handle = output(|o| nvmlDeviceGetHandleByIndex(&library, index, o)).unwrap();
            let device = library.device(handle).unwrap();
            assert_eq!(output(|o| nvmlDeviceGetIndex(&library, device, o)), Ok(index));
        }
        for index in [2, u32::MAX] {
            let found = output(|o| nvmlDeviceGetHandleByIndex_v2(&library, index, o));
            assert_eq!(found, Err(NvmlError::InvalidArgument));
        }
    }

    #[test]
    fn devices_are_found_by_their_whole_uuid_only() {
        let library = library(2);
        let want = library.handle(&library.devices()[1]);
        let find = |uuid: &CStr| output(|o| nvmlDeviceGetHandleByUUID(&library, uuid, o));
        assert_eq!(find(c"GPU-a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"), want);
        assert_eq!(find(c"a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"), want);
        for wrong in
            [c"GPU-A1A1A1A1-A1A1-A1A1-A1A1-A1A1A1A1A1A1", c"GPU-a1a1a1a1", c"GPU-", c"", c"junk", c"MIG-1"]
        {
            assert_eq!(find(wrong), Err(NvmlError::NotFound), "{wrong:?}");
        }
    }

    #[test]
    fn devices_are_found_by_both_forms_of_a_versioned_uuid() {
        let library = library(2);
        let want = library.handle(&library.devices()[1]);
        let mut uuid = UUID { version: UUID::VERSION, kind: 2, value: [0; 41] };
        uuid.value[..16].copy_from_slice(&[0xa1; 16]);
        let find = |uuid: &UUID| output(|o| nvmlDeviceGetHandleByUUIDV(&library, uuid, o));
        assert_eq!(find(&uuid), want);
        uuid.kind = 1;
        uuid.value[..40].copy_from_slice(b"GPU-a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1");
        assert_eq!(find(&uuid), want);
        uuid.value[40] = b'x';
        assert_eq!(find(&uuid), Err(NvmlError::InvalidArgument), "a text without an end");
        uuid.kind = 9;
        assert_eq!(find(&uuid), Err(NvmlError::InvalidArgument));
        uuid.version = 0;
        assert_eq!(find(&uuid), Err(NvmlError::ArgumentVersionMismatch));
    }

    #[test]
    fn name_and_uuid_need_room() {
        let library = library(1);
        let device = &library.devices()[0];
        let name = |capacity| text_output(capacity, |t| nvmlDeviceGetName(&library, device, t));
        assert_eq!(name(96), Ok("NVIDIA H100 80GB HBM3".into()));
        assert_eq!(name(5), Err(NvmlError::InsufficientSize));
        let uuid = |capacity| text_output(capacity, |t| nvmlDeviceGetUUID(&library, device, t));
        assert_eq!(uuid(41), Ok("GPU-a0a0a0a0-a0a0-a0a0-a0a0-a0a0a0a0a0a0".into()));
        assert_eq!(uuid(40), Err(NvmlError::InsufficientSize));
    }

    #[test]
    fn brands_come_from_names() {
        for (name, want) in [
            ("NVIDIA GeForce RTX 4090", 5),
            ("Quadro RTX 6000", 12),
            ("Quadro P4000", 1),
            ("Tesla T4", 2),
            ("NVIDIA RTX A6000", 13),
            ("NVIDIA A100-SXM4-40GB", 14),
            ("vgpu softgpu", 0),
        ] {
            assert_eq!(brand(name), want, "{name}");
        }
    }

    #[test]
    fn a_capability_that_is_not_known_has_no_architecture_or_cores() {
        assert_eq!(architecture((99, 0)), u32::MAX);
        assert_eq!(cores((99, 0)), None);
        assert_eq!((architecture((7, 5)), cores((7, 5))), (6, Some(64)));
        assert_eq!((architecture((8, 9)), cores((8, 9))), (8, Some(128)));
        assert_eq!((architecture((12, 0)), cores((12, 0))), (10, Some(128)));
    }
}
