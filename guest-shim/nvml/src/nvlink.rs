//! NVLink: a guest's devices have links, and none of them is up.

use crate::{
    call::Out,
    device::DISABLED,
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};

/// NVML_NVLINK_MAX_LINKS.
const MAX_LINKS: u32 = 18;

pub fn nvmlDeviceGetNvLinkState(_: &Library, _: &Device, link: u32, isActive: Out<u32>) -> error::Result {
    if link >= MAX_LINKS {
        return Err(NvmlError::InvalidArgument);
    }
    isActive.set(DISABLED);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library};

    #[test]
    fn every_link_is_down() {
        let library = library(1);
        let state = |link| output(|o| nvmlDeviceGetNvLinkState(&library, &library.devices()[0], link, o));
        assert_eq!((state(0), state(17), state(18)), (Ok(0), Ok(0), Err(NvmlError::InvalidArgument)));
    }
}
