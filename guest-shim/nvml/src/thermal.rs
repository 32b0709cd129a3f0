//! Temperature, by the structure that has a version; the plain functions are the host's.

use crate::{abi::Temperature, call::check_version, error, identity::Device, library::Library};

/// Sensors: one, of the device itself.
const SENSORS: u32 = 1;

pub fn nvmlDeviceGetTemperatureV(
    library: &Library,
    device: &Device,
    temperature: &mut Temperature,
) -> error::Result {
    check_version(temperature)?;
    let sensor = (temperature.sensor, SENSORS);
    temperature.degrees = library.figure(device, "nvmlDeviceGetTemperature", &[sensor])?.read()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::Versioned, error::NvmlError, library::tests::library, reading::tests::figure};
    use vgpu_spec::wire::reading::Reading;

    #[test]
    fn the_structure_has_what_the_plain_function_says() {
        let figures = vec![figure("nvmlDeviceGetTemperature", 0, &41_u32.to_ne_bytes())];
        let library = library(1).with_reading(Reading { figures, ..Reading::default() });
        let get = |version, sensor| {
            let mut temperature = Temperature { version, sensor, degrees: 0 };
            let result = nvmlDeviceGetTemperatureV(&library, &library.devices()[0], &mut temperature);
            result.map(|()| temperature.degrees)
        };
        assert_eq!(get(Temperature::VERSION, 0), Ok(41));
        assert_eq!(get(Temperature::VERSION, 1), Err(NvmlError::InvalidArgument));
        assert_eq!(get(1, 0), Err(NvmlError::ArgumentVersionMismatch));
    }
}
