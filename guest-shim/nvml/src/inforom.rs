//! Board and firmware, where the plain passing on of the host's answer is not enough.

use crate::{
    abi::GspFirmwareVersion,
    call::Out,
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};
use std::ffi::CStr;

/// The buffer has 64 bytes by definition.
pub fn nvmlDeviceGetGspFirmwareVersion(
    library: &Library,
    device: &Device,
    version: Out<GspFirmwareVersion>,
) -> error::Result {
    let mut figure = library.figure(device, "nvmlDeviceGetGspFirmwareVersion", &[])?;
    let mut bytes = [0; 64];
    for (place, byte) in bytes.iter_mut().take(63).zip(figure.string()?.bytes()) {
        *place = byte;
    }
    version.set(bytes);
    Ok(())
}

pub fn nvmlDeviceGetHandleBySerial(library: &Library, serial: &CStr, device: Out<u64>) -> error::Result {
    let has = |d: &&crate::identity::Device| {
        let figure = library.figure(d, "nvmlDeviceGetSerial", &[]);
        figure.is_ok_and(|mut f| f.string().is_ok_and(|text| text.as_bytes() == serial.to_bytes()))
    };
    let found = library.devices().iter().find(has).ok_or(NvmlError::NotFound)?;
    device.set(library.handle(found)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library, reading::tests::figure};
    use vgpu_spec::wire::reading::Reading;

    #[test]
    fn a_device_is_found_by_its_serial_number() {
        let figures = vec![figure("nvmlDeviceGetSerial", 0, b"1650")];
        let library = library(1).with_reading(Reading { figures, ..Reading::default() });
        let find = |text| output(|o| nvmlDeviceGetHandleBySerial(&library, text, o));
        assert_eq!(find(c"1650"), library.handle(&library.devices()[0]));
        assert_eq!(find(c"165"), Err(NvmlError::NotFound));
    }
}
