//! NVIDIA's own virtual devices: a guest sees one device that is wholly its own.

use crate::{call::Out, error, identity::Device, library::Library};

/// NVML_GPU_VIRTUALIZATION_MODE_NONE and _PASSTHROUGH.
const NONE: u32 = 0;
const PASSTHROUGH: u32 = 1;

/// In a VM the device looks as one that was given to it; in local mode it is the machine's.
pub fn nvmlDeviceGetVirtualizationMode(
    _: &Library,
    device: &Device,
    pVirtualMode: Out<u32>,
) -> error::Result {
    pVirtualMode.set(if device.address.is_guests() { PASSTHROUGH } else { NONE });
    Ok(())
}
