//! Memory of a device: what this VM uses of it, and what is left.
//!
//! The total is that of the driver API, so that both libraries agree; the native NVML counts some that the driver keeps. Free is what a
//! program of this VM can still get, so memory that the driver and other VMs hold is "reserved".

use crate::{
    abi::{Memory, Memory_v2, Versioned},
    call::Out,
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};
use vgpu_spec::wire::reading::UNKNOWN_MEMORY;

fn memory(library: &Library, device: &Device) -> error::Result<Memory_v2> {
    let (used, free) = match library.reading(device) {
        Ok(reading) => {
            let host = host(library, device);
            let used = match reading.memory_used {
                UNKNOWN_MEMORY => host.map_or(0, |h| h.used),
                used => used,
            };
            (used, host.map_or(u64::MAX, |h| h.free))
        }
        // An older agent tells nothing of it.
        Err(NvmlError::NotSupported) => (0, u64::MAX),
        Err(error) => return Err(error),
    };
    let total = device.total_memory;
    let used = used.min(total);
    let free = free.min(total - used);
    Ok(Memory_v2 { version: Memory_v2::VERSION, total, reserved: total - used - free, free, used })
}

/// What the host's NVML says of the whole device.
fn host(library: &Library, device: &Device) -> Option<Memory_v2> {
    library.figure(device, "nvmlDeviceGetMemoryInfo_v2", &[]).ok()?.read().ok()
}

/// This version counts what is reserved as used.
pub fn nvmlDeviceGetMemoryInfo(library: &Library, device: &Device, memory: Out<Memory>) -> error::Result {
    let Memory_v2 { total, free, .. } = self::memory(library, device)?;
    memory.set(Memory { total, free, used: total - free });
    Ok(())
}

/// NVML_ERROR_FUNCTION_NOT_FOUND for another version of the structure, as the native library.
pub fn nvmlDeviceGetMemoryInfo_v2(
    library: &Library,
    device: &Device,
    memory: &mut Memory_v2,
) -> error::Result {
    if memory.version() != Memory_v2::VERSION {
        return Err(NvmlError::FunctionNotFound);
    }
    *memory = self::memory(library, device)?;
    Ok(())
}

pub fn nvmlDeviceGetMemoryBusWidth(_: &Library, device: &Device, busWidth: Out<u32>) -> error::Result {
    busWidth.set(device.attribute(attribute::GLOBAL_MEMORY_BUS_WIDTH)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library, reading::tests::figure};
    use vgpu_spec::wire::reading::Reading;

    const GIB: u64 = 1 << 30;

    /// A VM that uses `used`, on a device of which the host says what is free and used.
    fn with(used: u64, host: Option<(u64, u64)>) -> Library {
        let bytes = |(free, used): (u64, u64)| [2, 81 * GIB, GIB, free, used].map(u64::to_ne_bytes).concat();
        let figures = host.map(|h| figure("nvmlDeviceGetMemoryInfo_v2", 0, &bytes(h))).into_iter().collect();
        library(1).with_reading(Reading { memory_used: used, figures, processes: Vec::new() })
    }

    #[test]
    fn free_is_what_is_left_and_used_is_the_vms_own() {
        let info = |library: Library| {
            let memory = memory(&library, &library.devices()[0]).unwrap();
            (memory.used / GIB, memory.free / GIB, memory.reserved / GIB)
        };
        assert_eq!(info(with(10 * GIB, None)), (10, 70, 0));
        assert_eq!(info(with(10 * GIB, Some((50 * GIB, 30 * GIB)))), (10, 50, 20), "another VM has 20");
        assert_eq!(info(with(UNKNOWN_MEMORY, Some((50 * GIB, 30 * GIB)))), (30, 50, 0), "the device's");
        assert_eq!(info(with(90 * GIB, Some((50 * GIB, 0)))), (80, 0, 0), "more than there is");
        assert_eq!(info(with(UNKNOWN_MEMORY, None)), (0, 80, 0));
    }

    #[test]
    fn both_versions_tell_the_same_memory() {
        let library = with(10 * GIB, Some((50 * GIB, 30 * GIB)));
        let device = &library.devices()[0];
        let first = output(|o| nvmlDeviceGetMemoryInfo(&library, device, o)).unwrap();
        assert_eq!(first.total, 80 << 30);
        assert_eq!(first.free + first.used, first.total);
        let mut second = Memory_v2 { version: Memory_v2::VERSION, ..Memory_v2::default() };
        assert_eq!(nvmlDeviceGetMemoryInfo_v2(&library, device, &mut second), Ok(()));
        assert_eq!((second.total, second.free + second.used + second.reserved), (first.total, first.total));
        assert_eq!(output(|o| nvmlDeviceGetMemoryBusWidth(&library, device, o)), Ok(5120));
    }

    #[test]
    fn an_old_version_of_the_structure_is_refused_and_left_alone() {
        let library = with(0, None);
        for version in [0, 2, 0x0100_0028] {
            let mut memory = Memory_v2 { version, total: 7, ..Memory_v2::default() };
            let result = nvmlDeviceGetMemoryInfo_v2(&library, &library.devices()[0], &mut memory);
            assert_eq!(result, Err(NvmlError::FunctionNotFound));
            assert_eq!(memory.total, 7);
        }
    }
}
