//! The part of NVML that vgpu's monitor asks: softgpu has a figure where a CPU has one to give, and says what it is.
//!
//! Memory, processes and whether kernels run are true; clocks are those of the device's attributes; temperature and power are made up
//! and always the same, for programs that want to show some.

use std::ffi::{CStr, c_char};
use std::sync::LazyLock;

use super::Out;
use crate::model::device::Device;
use crate::model::usage;

const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;

/// Degrees Celsius.
const TEMPERATURE: u32 = 35;
/// Milliwatts.
const POWER: u32 = 20_000;
const POWER_LIMIT: u32 = 100_000;

type Answer = Result<(), u32>;

/// NVML knows no CUDA_VISIBLE_DEVICES.
static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(Device::all_from_environment);

/// Declares exported functions whose bodies give an [`Answer`].
macro_rules! nvml {
    ($(fn $name:ident($($parameter:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        /// As NVML's.
        ///
        /// # Safety
        /// Pointers must be NULL or valid for what NVML says that this function reads and writes.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($parameter: $type),*) -> u32 {
            let answer = move || -> Answer { $body };
            answer().err().unwrap_or(0)
        }
    )*};
}

/// A handle is the ordinal and 1.
fn device(handle: usize) -> Result<&'static Device, u32> {
    let device = handle.checked_sub(1).and_then(|ordinal| DEVICES.get(ordinal));
    device.ok_or(INVALID_ARGUMENT)
}

fn put<T>(out: Out<'_, T>, value: T) -> Answer {
    out.ok_or(INVALID_ARGUMENT)?.write(value);
    Ok(())
}

/// A constant of every device.
fn constant<T>(handle: usize, out: Out<'_, T>, value: T) -> Answer {
    device(handle)?;
    put(out, value)
}

fn text(place: *mut c_char, length: u32, value: &CStr) -> Answer {
    let bytes = value.to_bytes_with_nul();
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    if bytes.len() > usize::try_from(length).unwrap_or(usize::MAX) {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller answers for `length` bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), place, bytes.len()) };
    Ok(())
}

/// In MHz, from attributes in kHz.
fn clock(handle: usize, kind: u32) -> Result<u32, u32> {
    let attribute = match kind {
        0 | 1 => 13,
        2 => 36,
        3 => return Err(NOT_SUPPORTED),
        _ => return Err(INVALID_ARGUMENT),
    };
    let khz = device(handle)?.attribute(attribute).map_err(|_| NOT_SUPPORTED)?;
    Ok(u32::try_from(khz / 1000).unwrap_or(0))
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Utilization {
    gpu: u32,
    memory: u32,
}

/// `nvmlProcessInfo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfo {
    pid: u32,
    used: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sample {
    pid: u32,
    timestamp: u64,
    sm: u32,
    memory: u32,
    encoder: u32,
    decoder: u32,
}

/// 100 while a kernel runs.
fn percent(running: bool) -> u32 {
    if running { 100 } else { 0 }
}

fn processes(handle: usize) -> Result<Vec<usage::Process>, u32> {
    Ok(usage::processes(device(handle)?.number()))
}

/// Writes an array of which the caller says how much it holds, and is told how much was needed.
///
/// # Safety
/// `count` is NULL or valid, and `place` has room for `*count` values.
unsafe fn list<T: Copy>(count: *mut u32, place: *mut T, values: &[T]) -> Answer {
    // SAFETY: the caller's promise.
    let count = unsafe { count.as_mut() }.ok_or(INVALID_ARGUMENT)?;
    let room = std::mem::replace(count, u32::try_from(values.len()).unwrap_or(u32::MAX));
    if *count > room {
        return Err(INSUFFICIENT_SIZE);
    }
    if place.is_null() && !values.is_empty() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: there is room for so many.
    unsafe {
        std::ptr::copy_nonoverlapping(values.as_ptr(), place, if place.is_null() { 0 } else { values.len() })
    };
    Ok(())
}

nvml! {
    fn nvmlInit_v2() {
        Ok(())
    }

    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, handle: Out<'_, usize>) {
        if uuid.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: the caller answers for the text.
        let wanted = unsafe { CStr::from_ptr(uuid) }.to_str().map_err(|_| NOT_FOUND)?;
        let text = |d: &Device| format!("GPU-{}", vgpu_spec::wire::snapshot::uuid_text(&d.uuid()));
        let ordinal = DEVICES.iter().position(|d| text(d) == wanted).ok_or(NOT_FOUND)?;
        put(handle, ordinal + 1)
    }

    fn nvmlDeviceGetMemoryInfo_v2(handle: usize, memory: Out<'_, Memory>) {
        let total = device(handle)?.total();
        let used = processes(handle)?.iter().fold(0_u64, |sum, p| sum.saturating_add(p.used)).min(total);
        // Every process has the whole memory for itself, but that is what a device does not say.
        put(memory, Memory { version: 0x0200_0028, total, reserved: 0, free: total - used, used })
    }

    fn nvmlDeviceGetUtilizationRates(handle: usize, utilization: Out<'_, Utilization>) {
        let busy = percent(processes(handle)?.iter().any(|p| p.running));
        put(utilization, Utilization { gpu: busy, memory: busy })
    }

    fn nvmlDeviceGetComputeRunningProcesses_v3(handle: usize, count: *mut u32, infos: *mut ProcessInfo) {
        let info = |p: &usage::Process| ProcessInfo {
            pid: p.pid,
            used: p.used,
            gpu_instance: u32::MAX,
            compute_instance: u32::MAX,
        };
        let values: Vec<ProcessInfo> = processes(handle)?.iter().map(info).collect();
        // SAFETY: as the caller promises.
        unsafe { list(count, infos, &values) }
    }

    fn nvmlDeviceGetProcessUtilization(handle: usize, samples: *mut Sample, count: *mut u32, since: u64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let timestamp = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let sample = |p: &usage::Process| Sample {
            pid: p.pid,
            timestamp,
            sm: percent(p.running),
            memory: percent(p.running),
            encoder: 0,
            decoder: 0,
        };
        let values: Vec<Sample> = processes(handle)?.iter().map(sample).collect();
        if timestamp <= since || values.is_empty() {
            return Err(NOT_FOUND);
        }
        // SAFETY: as the caller promises.
        unsafe { list(count, samples, &values) }
    }

    fn nvmlDeviceGetClockInfo(handle: usize, kind: u32, mhz: Out<'_, u32>) {
        put(mhz, clock(handle, kind)?)
    }

    fn nvmlDeviceGetApplicationsClock(handle: usize, kind: u32, mhz: Out<'_, u32>) {
        put(mhz, clock(handle, kind)?)
    }

    fn nvmlDeviceGetDefaultApplicationsClock(handle: usize, kind: u32, mhz: Out<'_, u32>) {
        put(mhz, clock(handle, kind)?)
    }

    fn nvmlDeviceGetCurrentClocksThrottleReasons(handle: usize, reasons: Out<'_, u64>) {
        constant(handle, reasons, 0)
    }

    fn nvmlDeviceGetCurrentClocksEventReasons(handle: usize, reasons: Out<'_, u64>) {
        constant(handle, reasons, 0)
    }

    fn nvmlDeviceGetPerformanceState(handle: usize, state: Out<'_, u32>) {
        constant(handle, state, 0)
    }

    fn nvmlDeviceGetPowerState(handle: usize, state: Out<'_, u32>) {
        constant(handle, state, 0)
    }

    fn nvmlDeviceGetTemperature(handle: usize, _sensor: u32, degrees: Out<'_, u32>) {
        constant(handle, degrees, TEMPERATURE)
    }

    fn nvmlDeviceGetPowerUsage(handle: usize, milliwatts: Out<'_, u32>) {
        constant(handle, milliwatts, POWER)
    }

    fn nvmlDeviceGetPowerManagementMode(handle: usize, mode: Out<'_, u32>) {
        constant(handle, mode, 1)
    }

    fn nvmlDeviceGetPowerManagementLimit(handle: usize, milliwatts: Out<'_, u32>) {
        constant(handle, milliwatts, POWER_LIMIT)
    }

    fn nvmlDeviceGetPowerManagementDefaultLimit(handle: usize, milliwatts: Out<'_, u32>) {
        constant(handle, milliwatts, POWER_LIMIT)
    }

    fn nvmlDeviceGetEnforcedPowerLimit(handle: usize, milliwatts: Out<'_, u32>) {
        constant(handle, milliwatts, POWER_LIMIT)
    }

    fn nvmlDeviceGetVbiosVersion(handle: usize, place: *mut c_char, length: u32) {
        device(handle)?;
        text(place, length, c"softgpu")
    }

    fn nvmlDeviceGetSerial(handle: usize, place: *mut c_char, length: u32) {
        device(handle)?;
        text(place, length, c"softgpu")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    /// What a function writes.
    fn output<T>(call: impl FnOnce(Out<'_, T>) -> u32) -> Result<T, u32> {
        let mut place = MaybeUninit::uninit();
        match call(Some(&mut place)) {
            // SAFETY: written, as the code says.
            0 => Ok(unsafe { place.assume_init() }),
            code => Err(code),
        }
    }

    #[test]
    fn a_device_is_found_by_its_uuid_and_tells_figures() {
        let uuid = c"GPU-76677075-2d73-6f66-7467-707500000000";
        // SAFETY: live texts and places.
        unsafe {
            let handle = output(|o| nvmlDeviceGetHandleByUUID(uuid.as_ptr(), o)).unwrap();
            assert_eq!(output(|o| nvmlDeviceGetHandleByUUID(c"GPU-1".as_ptr(), o)), Err(NOT_FOUND));
            assert_eq!(output(|o| nvmlDeviceGetPowerUsage(handle, o)), Ok(POWER));
            assert_eq!(output(|o| nvmlDeviceGetPowerUsage(0, o)), Err(INVALID_ARGUMENT));
            assert_eq!(output(|o| nvmlDeviceGetClockInfo(handle, 0, o)), Ok(1000));
            assert_eq!(output(|o| nvmlDeviceGetClockInfo(handle, 9, o)), Err(INVALID_ARGUMENT));
            assert_eq!(nvmlDeviceGetPowerUsage(handle, None), INVALID_ARGUMENT);
            let mut text = [0; 8];
            assert_eq!(nvmlDeviceGetSerial(handle, text.as_mut_ptr(), 7), INSUFFICIENT_SIZE);
            assert_eq!(nvmlDeviceGetSerial(handle, text.as_mut_ptr(), 8), 0);
            assert_eq!(CStr::from_ptr(text.as_ptr()), c"softgpu");
        }
    }

    #[test]
    fn this_process_is_listed_with_its_memory() {
        usage::announce();
        let (mut count, mut infos) =
            (64, [ProcessInfo { pid: 0, used: 0, gpu_instance: 0, compute_instance: 0 }; 64]);
        // SAFETY: places of these lengths.
        let code = unsafe { nvmlDeviceGetComputeRunningProcesses_v3(1, &raw mut count, infos.as_mut_ptr()) };
        assert_eq!(code, 0);
        let listed = infos.iter().take(count as usize).any(|info| info.pid == std::process::id());
        assert!(listed, "{count} processes");
        count = 64;
        // SAFETY: as above.
        let code =
            unsafe { nvmlDeviceGetComputeRunningProcesses_v3(1, &raw mut count, std::ptr::null_mut()) };
        assert_eq!(code, INVALID_ARGUMENT, "no room where some is said to be");
    }
}
