//! Clocks. Those of the moment are the host's; the highest are among the attributes.

use crate::{
    call::Out,
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};

/// In MHz; attributes have kHz.
pub fn nvmlDeviceGetMaxClockInfo(
    _: &Library,
    device: &Device,
    r#type: u32,
    clock: Out<u32>,
) -> error::Result {
    let id = match r#type {
        // Graphics and multiprocessors have one clock.
        0 | 1 => attribute::CLOCK_RATE,
        2 => attribute::MEMORY_CLOCK_RATE,
        3 => return Err(NvmlError::NotSupported),
        _ => return Err(NvmlError::InvalidArgument),
    };
    clock.set(device.attribute(id)? / 1000);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library};

    #[test]
    fn highest_clocks_of_an_h100_are_those_of_the_native_library() {
        let library = library(1);
        let clock = |kind| output(|o| nvmlDeviceGetMaxClockInfo(&library, &library.devices()[0], kind, o));
        assert_eq!((clock(0), clock(1), clock(2)), (Ok(1980), Ok(1980), Ok(2619)));
        assert_eq!(clock(3), Err(NvmlError::NotSupported));
        assert_eq!(clock(4), Err(NvmlError::InvalidArgument));
    }
}
