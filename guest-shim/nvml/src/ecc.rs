//! Error correction of a device's memory.

use crate::{
    call::{List, Out},
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};

/// A guest can't change the mode, so none is pending.
pub fn nvmlDeviceGetEccMode(
    _: &Library,
    device: &Device,
    current: Out<u32>,
    pending: Out<u32>,
) -> error::Result {
    let mode = device.attribute(attribute::ECC_ENABLED)?;
    current.set(mode);
    pending.set(mode);
    Ok(())
}

/// Causes for which a page is retired (nvmlPageRetirementCause_t).
const CAUSES: u32 = 2;

/// Which pages of the host's device are retired is none of a guest's business: it has none of its own. That rows were remapped is a
/// figure of the host's.
pub fn nvmlDeviceGetRetiredPages(_: &Library, _: &Device, cause: u32, addresses: List<u64>) -> error::Result {
    if cause >= CAUSES {
        return Err(NvmlError::InvalidArgument);
    }
    addresses.set_empty();
    Ok(())
}

pub fn nvmlDeviceGetRetiredPages_v2(
    library: &Library,
    device: &Device,
    cause: u32,
    addresses: List<u64>,
    _timestamps: List<u64>,
) -> error::Result {
    nvmlDeviceGetRetiredPages(library, device, cause, addresses)
}
