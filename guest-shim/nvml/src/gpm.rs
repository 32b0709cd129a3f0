//! Performance monitoring (GPM): its samples are of the whole device, all VMs together, so a guest has none.

use crate::{abi::GpmSupport, call::check_version, error, identity::Device, library::Library};

pub fn nvmlGpmQueryDeviceSupport(_: &Library, _: &Device, gpmSupport: &mut GpmSupport) -> error::Result {
    check_version(gpmSupport)?;
    gpmSupport.supported = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::Versioned, error::NvmlError, library::tests::library};

    #[test]
    fn it_is_said_not_to_be_supported() {
        let library = library(1);
        let mut support = GpmSupport { version: 0, supported: 7 };
        let ask = |s: &mut _| nvmlGpmQueryDeviceSupport(&library, &library.devices()[0], s);
        assert_eq!(ask(&mut support), Err(NvmlError::ArgumentVersionMismatch));
        support.version = GpmSupport::VERSION;
        assert_eq!(ask(&mut support), Ok(()));
        assert_eq!(support.supported, 0);
    }
}
