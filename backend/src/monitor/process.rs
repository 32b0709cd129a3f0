//! Processes that use a device, as the host's NVML lists them.

use std::ffi::c_void;

use vgpu_spec::wire::reading::{MAX_PROCESSES, ProcessUse, UNKNOWN_MEMORY, UNKNOWN_SHARE};

/// `nvmlProcessInfo_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Info {
    pid: u32,
    /// 2⁶⁴−1 if the driver does not tell.
    memory: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// `nvmlProcessUtilizationSample_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Sample {
    pid: u32,
    /// Microseconds.
    timestamp: u64,
    sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

/// How far back samples count, in microseconds: the driver takes one in a fraction of a second.
const WINDOW: u64 = 1_000_000;

/// All processes with what they use. `call` calls a function of NVML for the device with words behind it.
pub fn list(call: impl Fn(&str, &[*mut c_void]) -> u32) -> Vec<ProcessUse> {
    let mut infos = vec![Info::default(); MAX_PROCESSES as usize];
    let mut count = MAX_PROCESSES;
    let words = [(&raw mut count).cast(), infos.as_mut_ptr().cast()];
    if call("nvmlDeviceGetComputeRunningProcesses_v3", &words) != 0 {
        return Vec::new();
    }
    infos.truncate(count as usize);
    let samples = samples(&call);
    infos
        .iter()
        .map(|info| {
            let newest = samples.iter().filter(|s| s.pid == info.pid).max_by_key(|s| s.timestamp);
            let share = |of: fn(&Sample) -> u32| match (&samples[..], newest) {
                // No sample of any process: the driver may not take any.
                ([], _) => UNKNOWN_SHARE,
                (_, Some(sample)) => of(sample).min(100),
                (_, None) => 0,
            };
            ProcessUse {
                pid: info.pid,
                utilization: share(|s| s.sm),
                memory_utilization: share(|s| s.memory),
                reserved: 0,
                memory: if info.memory == u64::MAX { UNKNOWN_MEMORY } else { info.memory },
            }
        })
        .collect()
}

fn samples(call: &impl Fn(&str, &[*mut c_void]) -> u32) -> Vec<Sample> {
    let mut samples = vec![Sample::default(); MAX_PROCESSES as usize];
    let mut count = MAX_PROCESSES;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).saturating_sub(WINDOW);
    let since = std::ptr::without_provenance_mut(usize::try_from(since).unwrap_or(0));
    let words = [samples.as_mut_ptr().cast(), (&raw mut count).cast(), since];
    if call("nvmlDeviceGetProcessUtilization", &words) != 0 {
        return Vec::new();
    }
    samples.truncate(count as usize);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver with two processes, of which one has samples.
    fn driver(name: &str, words: &[*mut c_void]) -> u32 {
        // SAFETY: the words are those that `list` makes for the function.
        unsafe {
            match name {
                "nvmlDeviceGetComputeRunningProcesses_v3" => {
                    let infos = words[1].cast::<Info>();
                    infos.write(Info { pid: 5, memory: 100, ..Info::default() });
                    infos.add(1).write(Info { pid: 6, memory: u64::MAX, ..Info::default() });
                    words[0].cast::<u32>().write(2);
                    0
                }
                "nvmlDeviceGetProcessUtilization" => {
                    let samples = words[0].cast::<Sample>();
                    samples.write(Sample { pid: 5, timestamp: 9, sm: 30, memory: 7, ..Sample::default() });
                    samples.add(1).write(Sample { pid: 5, timestamp: 8, sm: 90, ..Sample::default() });
                    words[1].cast::<u32>().write(2);
                    0
                }
                _ => 13,
            }
        }
    }

    #[test]
    fn a_process_has_its_memory_and_its_newest_sample() {
        let got: Vec<_> =
            list(driver).iter().map(|p| (p.pid, p.memory, p.utilization, p.memory_utilization)).collect();
        assert_eq!(got, [(5, 100, 30, 7), (6, UNKNOWN_MEMORY, 0, 0)]);
    }

    #[test]
    fn a_driver_without_samples_tells_no_utilization() {
        let got = list(|name, words| if name.ends_with("Utilization") { 3 } else { driver(name, words) });
        assert!(got.iter().all(|p| p.utilization == UNKNOWN_SHARE && p.memory_utilization == UNKNOWN_SHARE));
        assert_eq!(list(|_, _| 3), []);
    }
}
