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
/// NVML_FI_MAX of the description's header: fields are numbered from 1 to below it.
const FIELD_MAX: u32 = 310;
/// NVML_VALUE_TYPE_UNSIGNED_INT.
const UNSIGNED_INT: u32 = 1;

pub fn nvmlDeviceGetFieldValues(_: &Library, device: &Device, values: &mut [FieldValue]) -> error::Result {
    if values.is_empty() {
        return Err(NvmlError::InvalidArgument);
    }
    for value in values {
        let answer = match value.field_id {
            ECC_CURRENT | ECC_PENDING => device.attribute(attribute::ECC_ENABLED),
            1..FIELD_MAX => Err(NvmlError::NotSupported),
            _ => Err(NvmlError::InvalidArgument),
        };
        (value.timestamp, value.latency_us) = (now(), 0);
        match answer {
            Ok(number) => (value.status, value.value_type, value.value) = (0, UNSIGNED_INT, number.into()),
            Err(error) => value.status = error as u32,
        }
    }
    Ok(())
}

/// Microseconds since 1970.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::tests::library;

    #[test]
    fn each_field_has_its_own_code() {
        let library = library(1);
        let mut values = [ECC_CURRENT, FIELD_MAX - 1, FIELD_MAX, 0]
            .map(|id| FieldValue { field_id: id, ..FieldValue::default() });
        assert_eq!(nvmlDeviceGetFieldValues(&library, &library.devices()[0], &mut values), Ok(()));
        assert_eq!((values[0].status, values[0].value), (0, 1));
        assert_eq!(values[1..].iter().map(|v| v.status).collect::<Vec<_>>(), [3, 2, 2]);
        let none = nvmlDeviceGetFieldValues(&library, &library.devices()[0], &mut []);
        assert_eq!(none, Err(NvmlError::InvalidArgument));
    }
}
