//! Excluded (once "blacklisted") devices: a guest has none.

use crate::{
    abi::ExcludedDeviceInfo,
    call::Out,
    error::{self, NvmlError},
    library::Library,
};

pub fn nvmlGetExcludedDeviceCount(_: &Library, deviceCount: Out<u32>) -> error::Result {
    deviceCount.set(0);
    Ok(())
}

pub fn nvmlGetBlacklistDeviceCount(library: &Library, deviceCount: Out<u32>) -> error::Result {
    nvmlGetExcludedDeviceCount(library, deviceCount)
}

pub fn nvmlGetExcludedDeviceInfoByIndex(
    _: &Library,
    _index: u32,
    _info: Out<ExcludedDeviceInfo>,
) -> error::Result {
    Err(NvmlError::InvalidArgument)
}

pub fn nvmlGetBlacklistDeviceInfoByIndex(
    library: &Library,
    index: u32,
    info: Out<ExcludedDeviceInfo>,
) -> error::Result {
    nvmlGetExcludedDeviceInfoByIndex(library, index, info)
}
