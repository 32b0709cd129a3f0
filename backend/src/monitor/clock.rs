//! Clocks and states that a device can have, which never change.

use std::ffi::c_void;

use vgpu_spec::wire::lane::function_id;
use vgpu_spec::wire::reading::{Figure, MAX_FIGURE};

const MEMORY: &str = "nvmlDeviceGetSupportedMemoryClocks";
const GRAPHICS: &str = "nvmlDeviceGetSupportedGraphicsClocks";
const STATES: &str = "nvmlDeviceGetSupportedPerformanceStates";
/// The most numbers of a list.
const ROOM: u32 = MAX_FIGURE / 4;
/// NVML_MAX_GPU_PERF_PSTATES.
const MAX_STATES: usize = 16;

/// All lists that the driver gives. `call` calls a function of NVML for the device with words behind it.
pub fn list(call: impl Fn(&str, &[*mut c_void]) -> u32) -> Vec<Figure> {
    let mut figures = Vec::new();
    if let Some(memory) = numbers(&call, MEMORY, None) {
        for clock in &memory {
            let graphics = numbers(&call, GRAPHICS, Some(*clock));
            figures.extend(graphics.map(|clocks| figure(GRAPHICS, *clock, &clocks)));
        }
        figures.push(figure(MEMORY, 0, &memory));
    }
    let mut states = [0_u32; MAX_STATES];
    let bytes = std::ptr::without_provenance_mut(size_of_val(&states));
    if call(STATES, &[states.as_mut_ptr().cast(), bytes]) == 0 {
        figures.push(figure(STATES, 0, &states));
    }
    figures
}

fn figure(name: &str, index: u32, values: &[u32]) -> Figure {
    let bytes = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
    Figure { function: function_id(name), index, status: 0, bytes }
}

/// A list, perhaps of those that go with `of`.
fn numbers(call: &impl Fn(&str, &[*mut c_void]) -> u32, name: &str, of: Option<u32>) -> Option<Vec<u32>> {
    let mut values = vec![0_u32; ROOM as usize];
    let mut count = ROOM;
    let mut words: Vec<*mut c_void> =
        of.map(|of| std::ptr::without_provenance_mut(of as usize)).into_iter().collect();
    words.extend([(&raw mut count).cast(), values.as_mut_ptr().cast()]);
    if call(name, &words) != 0 {
        return None;
    }
    values.truncate(count as usize);
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphics_clocks_are_asked_for_each_memory_clock() {
        let driver = |name: &str, words: &[*mut c_void]| {
            let (count, values): (_, &[u32]) = match (name, words.len()) {
                (MEMORY, 2) => (0, &[2619, 1593]),
                (GRAPHICS, 3) if words[0].addr() == 2619 => (1, &[1980, 345]),
                _ => return 3,
            };
            // SAFETY: the words that `numbers` makes: a count and room for 64 numbers and more.
            unsafe {
                words[count].cast::<u32>().write(2);
                std::ptr::copy_nonoverlapping(values.as_ptr(), words[count + 1].cast(), 2);
            }
            0
        };
        assert_eq!(list(driver), [figure(GRAPHICS, 2619, &[1980, 345]), figure(MEMORY, 0, &[2619, 1593])]);
        assert_eq!(list(|_, _| 3), []);
    }
}
