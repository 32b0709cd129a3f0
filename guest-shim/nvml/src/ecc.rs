//! Error correction of a device's memory.

use crate::{
    call::Out,
    error,
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
