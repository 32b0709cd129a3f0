//! Clocks. Those of the moment are the host's; the highest are among the attributes.

use crate::{
    call::{List, Out},
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

/// In MHz, from high to low.
pub fn nvmlDeviceGetSupportedMemoryClocks(
    library: &Library,
    device: &Device,
    clocksMHz: List<u32>,
) -> error::Result {
    clocksMHz.set(&library.figure(device, "nvmlDeviceGetSupportedMemoryClocks", &[])?.numbers()?)
}

/// In MHz, those that go with a memory clock; NVML_ERROR_NOT_FOUND for one that is none of the device's.
pub fn nvmlDeviceGetSupportedGraphicsClocks(
    library: &Library,
    device: &Device,
    memoryClockMHz: u32,
    clocksMHz: List<u32>,
) -> error::Result {
    let known = library.figure(device, "nvmlDeviceGetSupportedMemoryClocks", &[])?.numbers()?;
    if !known.contains(&memoryClockMHz) {
        return Err(NvmlError::NotFound);
    }
    let mut figure =
        library.numbered_figure(device, "nvmlDeviceGetSupportedGraphicsClocks", memoryClockMHz)?;
    clocksMHz.set(&figure.numbers()?)
}

/// NVML_PSTATE_UNKNOWN, which fills the array behind the states that there are.
const UNKNOWN_STATE: u32 = 32;

/// Each state has four of the bytes.
pub fn nvmlDeviceGetSupportedPerformanceStates(
    library: &Library,
    device: &Device,
    pstates: &mut [u8],
) -> error::Result {
    let states = library.figure(device, "nvmlDeviceGetSupportedPerformanceStates", &[])?.numbers()?;
    let room = pstates.len() / size_of::<u32>();
    if states.iter().filter(|s| **s != UNKNOWN_STATE).count() > room {
        return Err(NvmlError::InsufficientSize);
    }
    let states = states.into_iter().chain(std::iter::repeat(UNKNOWN_STATE));
    for (place, state) in pstates.chunks_exact_mut(size_of::<u32>()).zip(states) {
        place.copy_from_slice(&state.to_ne_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library, reading::tests::figure};
    use vgpu_spec::wire::reading::Reading;

    #[test]
    fn clocks_that_go_together_are_the_hosts() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        let figures = vec![
            figure("nvmlDeviceGetSupportedMemoryClocks", 0, &words(&[2619, 1593])),
            figure("nvmlDeviceGetSupportedGraphicsClocks", 2619, &words(&[1980, 1965, 345])),
            figure("nvmlDeviceGetSupportedPerformanceStates", 0, &words(&[0, 2, 32])),
        ];
        let library = library(1).with_reading(Reading { figures, ..Reading::default() });
        let device = &library.devices()[0];
        let graphics = |memory| {
            let (mut count, mut clocks) = (3, [0; 3]);
            // SAFETY: places that outlive the call.
            let list = unsafe { List::new(&raw mut count, clocks.as_mut_ptr()) }.unwrap();
            nvmlDeviceGetSupportedGraphicsClocks(&library, device, memory, list).map(|()| clocks)
        };
        assert_eq!(graphics(2619), Ok([1980, 1965, 345]));
        assert_eq!(graphics(5), Err(NvmlError::NotFound));
        assert_eq!(graphics(1593), Err(NvmlError::NotSupported), "the host does not tell");
        let mut states = [9; 19];
        assert_eq!(nvmlDeviceGetSupportedPerformanceStates(&library, device, &mut states), Ok(()));
        assert_eq!(states[..16], words(&[0, 2, 32, 32]));
        assert_eq!(states[16..], [9; 3], "19 bytes are 4 states");
        let small = nvmlDeviceGetSupportedPerformanceStates(&library, device, &mut states[..4]);
        assert_eq!(small, Err(NvmlError::InsufficientSize));
    }

    #[test]
    fn highest_clocks_of_an_h100_are_those_of_the_native_library() {
        let library = library(1);
        let clock = |kind| output(|o| nvmlDeviceGetMaxClockInfo(&library, &library.devices()[0], kind, o));
        assert_eq!((clock(0), clock(1), clock(2)), (Ok(1980), Ok(1980), Ok(2619)));
        assert_eq!(clock(3), Err(NvmlError::NotSupported));
        assert_eq!(clock(4), Err(NvmlError::InvalidArgument));
    }
}
