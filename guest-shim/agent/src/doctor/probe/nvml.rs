//! The calls with which programs look for devices by NVML.

use super::answer::{Answer, Device};
use super::library::{Loaded, Stop, ask};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::null_mut;
use vgpu_spec::wire::snapshot::text;

type Pointer = *mut c_void;

/// `nvmlPciInfo_t`, as nvml.h has it.
#[repr(C)]
struct PciInfo {
    legacy: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    ids: [c_uint; 2],
    address: [u8; 32],
}

/// `nvmlMemory_t`, as nvml.h has it.
#[repr(C)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// Loads `library` and asks for its devices.
pub fn probe(library: &Path) -> Answer {
    ask(library, |loaded, code| loaded.name_by("nvmlErrorString", code), run)
}

fn run(nvml: &mut Loaded) -> Result<(), Stop> {
    let init = nvml.get::<unsafe extern "C" fn() -> c_int>("nvmlInit_v2")?;
    // SAFETY: a call without parameters.
    let code = unsafe { init() };
    nvml.check("nvmlInit_v2", code)?;
    let mut bytes = [0_u8; 96];
    let get = nvml.get::<unsafe extern "C" fn(*mut c_char, c_uint) -> c_int>("nvmlSystemGetDriverVersion")?;
    // SAFETY: the buffer has 96 bytes, as the call is told.
    let code = unsafe { get(bytes.as_mut_ptr().cast(), 96) };
    nvml.check("nvmlSystemGetDriverVersion", code)?;
    nvml.answer.version = text(&bytes);
    let mut count = 0;
    let get = nvml.get::<unsafe extern "C" fn(*mut c_uint) -> c_int>("nvmlDeviceGetCount_v2")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { get(&raw mut count) };
    nvml.check("nvmlDeviceGetCount_v2", code)?;
    for index in 0..count {
        device(nvml, index)?;
    }
    Ok(())
}

fn device(nvml: &mut Loaded, index: c_uint) -> Result<(), Stop> {
    let mut handle: Pointer = null_mut();
    type Handle = unsafe extern "C" fn(c_uint, *mut Pointer) -> c_int;
    let get = nvml.get::<Handle>("nvmlDeviceGetHandleByIndex_v2")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { get(index, &raw mut handle) };
    nvml.check("nvmlDeviceGetHandleByIndex_v2", code)?;
    let name = text_of(nvml, "nvmlDeviceGetName", handle)?;
    let uuid = text_of(nvml, "nvmlDeviceGetUUID", handle)?;
    let mut pci = PciInfo { legacy: [0; 16], domain: 0, bus: 0, device: 0, ids: [0; 2], address: [0; 32] };
    let get = nvml.get::<unsafe extern "C" fn(Pointer, *mut PciInfo) -> c_int>("nvmlDeviceGetPciInfo_v3")?;
    // SAFETY: the structure is as nvml.h has it and outlives the call.
    let code = unsafe { get(handle, &raw mut pci) };
    nvml.check("nvmlDeviceGetPciInfo_v3", code)?;
    let mut memory = Memory { total: 0, free: 0, used: 0 };
    let get = nvml.get::<unsafe extern "C" fn(Pointer, *mut Memory) -> c_int>("nvmlDeviceGetMemoryInfo")?;
    // SAFETY: as above.
    let code = unsafe { get(handle, &raw mut memory) };
    nvml.check("nvmlDeviceGetMemoryInfo", code)?;
    let pci = text(&pci.address);
    nvml.answer.devices.push(Device { name, uuid, pci, free: memory.free, total: memory.total });
    Ok(())
}

fn text_of(nvml: &mut Loaded, function: &str, device: Pointer) -> Result<String, Stop> {
    let mut bytes = [0_u8; 96];
    let get = nvml.get::<unsafe extern "C" fn(Pointer, *mut c_char, c_uint) -> c_int>(function)?;
    // SAFETY: the buffer has 96 bytes, as the call is told.
    let code = unsafe { get(device, bytes.as_mut_ptr().cast(), 96) };
    nvml.check(function, code)?;
    Ok(text(&bytes))
}
