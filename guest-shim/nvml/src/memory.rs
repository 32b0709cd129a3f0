//! Memory of a device.
//!
//! How much of it is used is not known yet: the agent has no message that tells it. Until there is one all memory is said to be
//! free. The total is that of the driver API, so that both libraries agree; the native NVML counts some that the driver keeps.

use crate::{
    abi::{Memory, Memory_v2, Versioned},
    call::Out,
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};

/// Bytes of the device that this VM uses.
fn used(_: &Device) -> u64 {
    0
}

fn memory(device: &Device) -> Memory {
    let total = device.total_memory;
    let used = used(device).min(total);
    Memory { total, free: total - used, used }
}

pub fn nvmlDeviceGetMemoryInfo(_: &Library, device: &Device, memory: Out<Memory>) -> error::Result {
    memory.set(self::memory(device));
    Ok(())
}

/// NVML_ERROR_FUNCTION_NOT_FOUND for another version of the structure, as the native library.
pub fn nvmlDeviceGetMemoryInfo_v2(_: &Library, device: &Device, memory: &mut Memory_v2) -> error::Result {
    if memory.version() != Memory_v2::VERSION {
        return Err(NvmlError::FunctionNotFound);
    }
    let Memory { total, free, used } = self::memory(device);
    *memory = Memory_v2 { version: Memory_v2::VERSION, total, reserved: 0, free, used };
    Ok(())
}

pub fn nvmlDeviceGetMemoryBusWidth(_: &Library, device: &Device, busWidth: Out<u32>) -> error::Result {
    busWidth.set(device.attribute(attribute::GLOBAL_MEMORY_BUS_WIDTH)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library};

    #[test]
    fn both_versions_tell_the_same_memory() {
        let library = library(1);
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
        let library = library(1);
        for version in [0, 2, 0x0100_0028] {
            let mut memory = Memory_v2 { version, total: 7, ..Memory_v2::default() };
            let result = nvmlDeviceGetMemoryInfo_v2(&library, &library.devices()[0], &mut memory);
            assert_eq!(result, Err(NvmlError::FunctionNotFound));
            assert_eq!(memory.total, 7);
        }
    }
}
