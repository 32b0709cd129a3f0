//! Multi-instance GPU: off for a guest, whatever the host does.

use crate::{
    call::Out,
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};

/// NVML_DEVICE_MIG_DISABLE.
const OFF: u32 = 0;

pub fn nvmlDeviceGetMigMode(
    _: &Library,
    _: &Device,
    currentMode: Out<u32>,
    pendingMode: Out<u32>,
) -> error::Result {
    currentMode.set(OFF);
    pendingMode.set(OFF);
    Ok(())
}

pub fn nvmlDeviceIsMigDeviceHandle(_: &Library, _: &Device, isMigDevice: Out<u32>) -> error::Result {
    isMigDevice.set(0);
    Ok(())
}

pub fn nvmlDeviceGetMaxMigDeviceCount(_: &Library, _: &Device, count: Out<u32>) -> error::Result {
    count.set(0);
    Ok(())
}

pub fn nvmlDeviceGetMigDeviceHandleByIndex(
    _: &Library,
    _: &Device,
    _index: u32,
    _migDevice: Out<u64>,
) -> error::Result {
    Err(NvmlError::NotFound)
}

/// Every handle is one of a whole device.
pub fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(_: &Library, _: &Device, _: Out<u64>) -> error::Result {
    Err(NvmlError::InvalidArgument)
}

pub fn nvmlDeviceGetGpuInstanceId(_: &Library, _: &Device, _id: Out<u32>) -> error::Result {
    Err(NvmlError::InvalidArgument)
}

pub fn nvmlDeviceGetComputeInstanceId(_: &Library, _: &Device, _id: Out<u32>) -> error::Result {
    Err(NvmlError::InvalidArgument)
}
