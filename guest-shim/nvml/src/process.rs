//! Processes of this VM that use a device, by the guest's own numbers.

use crate::{
    abi::{
        ProcessDetail_v1, ProcessDetailList, ProcessInfo, ProcessInfo_v1, ProcessInfo_v2,
        ProcessUtilizationInfo_v1, ProcessUtilizationSample, ProcessesUtilizationInfo, Utilization,
    },
    call::{List, Out, check_version},
    error::{self, NvmlError},
    field::now,
    identity::Device,
    library::Library,
};
use vgpu_spec::wire::reading::{ProcessUse, Reading, UNKNOWN_MEMORY, UNKNOWN_SHARE};

/// nvmlProcessMode_t: compute, and the last, all.
const COMPUTE: u32 = 0;
const ALL: u32 = 3;
/// Of an instance where there are none. (Memory that is not known is the same in NVML as on the wire.)
const NO_INSTANCE: u32 = u32::MAX;
const _: () = assert!(UNKNOWN_MEMORY == u64::MAX);

/// Every process of a VM computes: graphics do not reach a guest, nor does MPS.
fn compute<T: Copy>(
    library: &Library,
    device: &Device,
    infos: List<T>,
    info: fn(&ProcessUse) -> T,
) -> error::Result {
    infos.set(&library.reading(device)?.processes.iter().map(info).collect::<Vec<T>>())
}

pub fn nvmlDeviceGetComputeRunningProcesses(
    library: &Library,
    device: &Device,
    infos: List<ProcessInfo_v1>,
) -> error::Result {
    compute(library, device, infos, |p| ProcessInfo_v1 { pid: p.pid, used_gpu_memory: p.memory })
}

pub fn nvmlDeviceGetComputeRunningProcesses_v2(
    library: &Library,
    device: &Device,
    infos: List<ProcessInfo_v2>,
) -> error::Result {
    compute(library, device, infos, |p| ProcessInfo_v2 {
        pid: p.pid,
        used_gpu_memory: p.memory,
        gpu_instance_id: NO_INSTANCE,
        compute_instance_id: NO_INSTANCE,
    })
}

pub fn nvmlDeviceGetComputeRunningProcesses_v3(
    library: &Library,
    device: &Device,
    infos: List<ProcessInfo>,
) -> error::Result {
    nvmlDeviceGetComputeRunningProcesses_v2(library, device, infos)
}

macro_rules! none {
    ($($name:ident: $info:ty),* $(,)?) => {$(
        pub fn $name(_: &Library, _: &Device, infos: List<$info>) -> error::Result {
            infos.set(&[])
        }
    )*};
}
none!(
    nvmlDeviceGetGraphicsRunningProcesses: ProcessInfo_v1,
    nvmlDeviceGetGraphicsRunningProcesses_v2: ProcessInfo_v2,
    nvmlDeviceGetGraphicsRunningProcesses_v3: ProcessInfo,
    nvmlDeviceGetMPSComputeRunningProcesses: ProcessInfo_v1,
    nvmlDeviceGetMPSComputeRunningProcesses_v2: ProcessInfo_v2,
    nvmlDeviceGetMPSComputeRunningProcesses_v3: ProcessInfo,
);

pub fn nvmlDeviceGetRunningProcessDetailList(
    library: &Library,
    device: &Device,
    plist: &mut ProcessDetailList,
) -> error::Result {
    check_version(plist)?;
    if plist.mode > ALL {
        return Err(NvmlError::InvalidArgument);
    }
    // SAFETY: a place of our own, and an array for as many entries as it says.
    let list = unsafe { List::new(&raw mut plist.entries, plist.array) }?;
    if plist.mode != COMPUTE && plist.mode != ALL {
        return list.set(&[]);
    }
    compute(library, device, list, |p| ProcessDetail_v1 {
        pid: p.pid,
        used_gpu_memory: p.memory,
        gpu_instance_id: NO_INSTANCE,
        compute_instance_id: NO_INSTANCE,
        used_protected_memory: 0,
    })
}

/// The VM's own share if the host tells it, else that of the whole device.
pub fn nvmlDeviceGetUtilizationRates(
    library: &Library,
    device: &Device,
    utilization: Out<Utilization>,
) -> error::Result {
    let reading = library.reading(device)?;
    match (total(&reading, |p| p.utilization), total(&reading, |p| p.memory_utilization)) {
        (Some(gpu), Some(memory)) => {
            utilization.set(Utilization { gpu, memory });
            Ok(())
        }
        _ => library.figure(device, "nvmlDeviceGetUtilizationRates", &[])?.value(utilization),
    }
}

/// Percent of all processes together; none if one is not known.
fn total(reading: &Reading, share: fn(&ProcessUse) -> u32) -> Option<u32> {
    let add = |sum: u32, p: &ProcessUse| (share(p) != UNKNOWN_SHARE).then(|| sum.saturating_add(share(p)));
    reading.processes.iter().try_fold(0, add).map(|sum: u32| sum.min(100))
}

/// Samples newer than `since`, made of what each process does at the moment.
fn samples(library: &Library, device: &Device, since: u64) -> error::Result<(u64, Vec<ProcessUse>)> {
    let reading = library.reading(device)?;
    if total(&reading, |p| p.utilization).is_none() {
        return Err(NvmlError::NotSupported);
    }
    let timestamp = now().unsigned_abs();
    if reading.processes.is_empty() || timestamp <= since {
        return Err(NvmlError::NotFound);
    }
    Ok((timestamp, reading.processes.clone()))
}

fn percent(share: u32) -> u32 {
    if share == UNKNOWN_SHARE { 0 } else { share }
}

pub fn nvmlDeviceGetProcessUtilization(
    library: &Library,
    device: &Device,
    utilization: List<ProcessUtilizationSample>,
    lastSeenTimeStamp: u64,
) -> error::Result {
    let (timestamp, processes) = samples(library, device, lastSeenTimeStamp)?;
    let sample = |p: &ProcessUse| ProcessUtilizationSample {
        pid: p.pid,
        timestamp,
        sm: percent(p.utilization),
        memory: percent(p.memory_utilization),
        encoder: 0,
        decoder: 0,
    };
    utilization.set(&processes.iter().map(sample).collect::<Vec<_>>())
}

pub fn nvmlDeviceGetProcessesUtilizationInfo(
    library: &Library,
    device: &Device,
    procesesUtilInfo: &mut ProcessesUtilizationInfo,
) -> error::Result {
    check_version(procesesUtilInfo)?;
    let (timestamp, processes) = samples(library, device, procesesUtilInfo.last_seen)?;
    let info = |p: &ProcessUse| ProcessUtilizationInfo_v1 {
        timestamp,
        pid: p.pid,
        sm: percent(p.utilization),
        memory: percent(p.memory_utilization),
        ..ProcessUtilizationInfo_v1::default()
    };
    // SAFETY: a place of our own, and an array for as many entries as it says.
    let list = unsafe { List::new(&raw mut procesesUtilInfo.count, procesesUtilInfo.array) }?;
    list.set(&processes.iter().map(info).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::Versioned, call::tests::output, library::tests::library, reading::tests::figure};
    use std::ptr;

    fn process(pid: u32, memory: u64, utilization: u32) -> ProcessUse {
        ProcessUse { pid, utilization, memory_utilization: utilization, reserved: 0, memory }
    }

    fn with(processes: &[ProcessUse]) -> Library {
        let bytes = [33_u32, 11].map(u32::to_ne_bytes).concat();
        let figures = vec![figure("nvmlDeviceGetUtilizationRates", 0, &bytes)];
        library(1).with_reading(Reading { figures, processes: processes.into(), memory_used: 0 })
    }

    fn list<T: Copy + Default>(
        capacity: u32,
        get: impl FnOnce(List<T>) -> error::Result,
    ) -> (error::Result, u32, Vec<T>) {
        let (mut count, mut room) = (capacity, vec![T::default(); capacity as usize]);
        // SAFETY: places that outlive the call.
        let result = get(unsafe { List::new(&raw mut count, room.as_mut_ptr()) }.unwrap());
        room.truncate(count as usize);
        (result, count, room)
    }

    #[test]
    fn processes_are_listed_in_all_versions_and_a_small_buffer_tells_the_size() {
        let library = with(&[process(7, 100, 1), process(9, UNKNOWN_MEMORY, 2)]);
        let device = &library.devices()[0];
        let (result, count, _) =
            list(1, |l: List<ProcessInfo_v1>| nvmlDeviceGetComputeRunningProcesses(&library, device, l));
        assert_eq!((result, count), (Err(NvmlError::InsufficientSize), 2));
        let (result, _, first) =
            list(4, |l: List<ProcessInfo_v1>| nvmlDeviceGetComputeRunningProcesses(&library, device, l));
        assert_eq!(result, Ok(()));
        assert_eq!(first[0], ProcessInfo_v1 { pid: 7, used_gpu_memory: 100 });
        let (_, _, third) = list(4, |l| nvmlDeviceGetComputeRunningProcesses_v3(&library, device, l));
        assert_eq!((third.len(), third[1].used_gpu_memory), (2, u64::MAX), "not available");
        assert_eq!(third[1].gpu_instance_id, u32::MAX);
        let (result, count, _) = list(4, |l| nvmlDeviceGetGraphicsRunningProcesses_v3(&library, device, l));
        assert_eq!((result, count), (Ok(()), 0));
    }

    #[test]
    fn utilization_is_the_vms_own_or_else_the_devices() {
        let rates = |processes: &[ProcessUse]| {
            let library = with(processes);
            let rates: Utilization =
                output(|o| nvmlDeviceGetUtilizationRates(&library, &library.devices()[0], o)).unwrap();
            (rates.gpu, rates.memory)
        };
        assert_eq!(rates(&[]), (0, 0));
        assert_eq!(rates(&[process(1, 0, 30), process(2, 0, 40)]), (70, 70));
        assert_eq!(rates(&[process(1, 0, 80), process(2, 0, 90)]), (100, 100));
        assert_eq!(rates(&[process(1, 0, 80), process(2, 0, UNKNOWN_SHARE)]), (33, 11));
    }

    #[test]
    fn samples_are_those_after_the_last_seen() {
        let library = with(&[process(7, 0, 30)]);
        let device = &library.devices()[0];
        let get = |since| list(4, |l| nvmlDeviceGetProcessUtilization(&library, device, l, since));
        let (result, _, samples) = get(0);
        assert_eq!((result, samples[0].pid, samples[0].sm), (Ok(()), 7, 30));
        assert_eq!(get(u64::MAX).0, Err(NvmlError::NotFound));
        let idle = with(&[]);
        let none = list(4, |l| nvmlDeviceGetProcessUtilization(&idle, &idle.devices()[0], l, 0));
        assert_eq!(none.0, Err(NvmlError::NotFound));
        let mut info =
            ProcessesUtilizationInfo { version: 1, count: 0, last_seen: 0, array: ptr::null_mut() };
        let ask = |i: &mut _| nvmlDeviceGetProcessesUtilizationInfo(&library, device, i);
        assert_eq!(ask(&mut info), Err(NvmlError::ArgumentVersionMismatch));
        info.version = ProcessesUtilizationInfo::VERSION;
        assert_eq!(ask(&mut info), Err(NvmlError::InsufficientSize));
        assert_eq!(info.count, 1);
    }

    #[test]
    fn a_list_of_another_version_or_mode_is_refused() {
        let library = with(&[]);
        let device = &library.devices()[0];
        for (version, mode, want) in [
            (0, 0, Err(NvmlError::ArgumentVersionMismatch)),
            (ProcessDetailList::VERSION, 4, Err(NvmlError::InvalidArgument)),
            (ProcessDetailList::VERSION, 3, Ok(())),
        ] {
            let mut list = ProcessDetailList { version, mode, entries: 5, array: ptr::null_mut() };
            assert_eq!(nvmlDeviceGetRunningProcessDetailList(&library, device, &mut list), want);
            assert_eq!(list.entries, if want.is_ok() { 0 } else { 5 });
        }
    }
}
