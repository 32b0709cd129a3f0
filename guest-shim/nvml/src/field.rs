//! Field values: many figures in one call, each with a code of its own.

use crate::{
    abi::FieldValue,
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};

/// NVML_FI_DEV_ECC_CURRENT and _PENDING.
const ECC_CURRENT: u32 = 1;
const ECC_PENDING: u32 = 2;
/// NVML_FI_DEV_NVLINK_LINK_COUNT: no link reaches a guest.
const NVLINK_LINK_COUNT: u32 = 91;
/// NVML_FI_MAX of the description's header: fields are numbered from 1 to below it.
const FIELD_MAX: u32 = 310;
/// NVML_VALUE_TYPE_UNSIGNED_INT.
const UNSIGNED_INT: u32 = 1;

pub fn nvmlDeviceGetFieldValues(
    library: &Library,
    device: &Device,
    values: &mut [FieldValue],
) -> error::Result {
    if values.is_empty() {
        return Err(NvmlError::InvalidArgument);
    }
    for value in values {
        let answer = match value.field_id {
            ECC_CURRENT | ECC_PENDING => ecc(device),
            NVLINK_LINK_COUNT => Ok((UNSIGNED_INT, 0)),
            1..FIELD_MAX => hosts(library, device, value),
            _ => Err(NvmlError::InvalidArgument),
        };
        (value.timestamp, value.latency_us) = (now(), 0);
        match answer {
            Ok((kind, number)) => (value.status, value.value_type, value.value) = (0, kind, number),
            Err(error) => value.status = error as u32,
        }
    }
    Ok(())
}

fn ecc(device: &Device) -> error::Result<(u32, u64)> {
    Ok((UNSIGNED_INT, device.attribute(attribute::ECC_ENABLED)?.into()))
}

/// Type and value as the host has them. It is asked for the whole device only, which is scope 0 of a field that has scopes.
fn hosts(library: &Library, device: &Device, value: &FieldValue) -> error::Result<(u32, u64)> {
    if value.scope_id != 0 {
        return Err(NvmlError::NotSupported);
    }
    let mut figure = library.numbered_figure(device, "nvmlDeviceGetFieldValues", value.field_id)?;
    let [kind, _padding]: [u32; 2] = figure.read()?;
    Ok((kind, figure.read()?))
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{library::tests::library, reading::tests::figure};
    use vgpu_spec::wire::reading::Reading;

    #[test]
    fn each_field_has_its_own_code() {
        let bytes =
            [&[UNSIGNED_INT, 0].map(u32::to_ne_bytes).concat()[..], &71_000_u64.to_ne_bytes()].concat();
        let figures = vec![figure("nvmlDeviceGetFieldValues", 186, &bytes)];
        let library = library(1).with_reading(Reading { figures, ..Reading::default() });
        let mut power =
            [0, 1].map(|scope_id| FieldValue { field_id: 186, scope_id, ..FieldValue::default() });
        assert_eq!(nvmlDeviceGetFieldValues(&library, &library.devices()[0], &mut power), Ok(()));
        assert_eq!((power[0].status, power[0].value_type, power[0].value), (0, UNSIGNED_INT, 71_000));
        assert_eq!(power[1].status, NvmlError::NotSupported as u32, "of another scope");
        let mut values = [ECC_CURRENT, FIELD_MAX - 1, FIELD_MAX, 0]
            .map(|id| FieldValue { field_id: id, ..FieldValue::default() });
        assert_eq!(nvmlDeviceGetFieldValues(&library, &library.devices()[0], &mut values), Ok(()));
        assert_eq!((values[0].status, values[0].value), (0, 1));
        assert_eq!(values[1..].iter().map(|v| v.status).collect::<Vec<_>>(), [3, 2, 2]);
        let none = nvmlDeviceGetFieldValues(&library, &library.devices()[0], &mut []);
        assert_eq!(none, Err(NvmlError::InvalidArgument));
    }
}
