//! The calls with which programs on libcudart look for devices.

use super::answer::{Answer, Device};
use super::library::{Loaded, Stop, ask};
use std::ffi::{c_char, c_int};
use std::path::Path;
use vgpu_spec::wire::snapshot::text;

type Get = unsafe extern "C" fn(*mut c_int) -> c_int;

/// Loads the libcudart at `library` and asks for its devices.
pub fn probe(library: &Path) -> Answer {
    ask(library, |loaded, code| loaded.name_by("cudaGetErrorName", code), run)
}

fn run(cudart: &mut Loaded) -> Result<(), Stop> {
    let mut version = 0;
    let get = cudart.get::<Get>("cudaRuntimeGetVersion")?;
    // SAFETY: the place outlives the call.
    let code = unsafe { get(&raw mut version) };
    cudart.check("cudaRuntimeGetVersion", code)?;
    cudart.answer.version = format!("{}.{}", version / 1000, version % 1000 / 10);
    let mut count = 0;
    let get = cudart.get::<Get>("cudaGetDeviceCount")?;
    // SAFETY: as above.
    let code = unsafe { get(&raw mut count) };
    cudart.check("cudaGetDeviceCount", code)?;
    for ordinal in 0..count {
        device(cudart, ordinal)?;
    }
    Ok(())
}

fn device(cudart: &mut Loaded, ordinal: c_int) -> Result<(), Stop> {
    let mut bytes = [0_u8; 64];
    type Text = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
    let get = cudart.get::<Text>("cudaDeviceGetPCIBusId")?;
    // SAFETY: the buffer has 64 bytes, as the call is told.
    let code = unsafe { get(bytes.as_mut_ptr().cast(), 64, ordinal) };
    cudart.check("cudaDeviceGetPCIBusId", code)?;
    let set = cudart.get::<unsafe extern "C" fn(c_int) -> c_int>("cudaSetDevice")?;
    // SAFETY: any ordinal may be given.
    let code = unsafe { set(ordinal) };
    cudart.check("cudaSetDevice", code)?;
    let (mut free, mut total) = (0_usize, 0_usize);
    let info = cudart.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> c_int>("cudaMemGetInfo")?;
    // SAFETY: both places outlive the call.
    let code = unsafe { info(&raw mut free, &raw mut total) };
    cudart.check("cudaMemGetInfo", code)?;
    let pci = text(&bytes);
    cudart.answer.devices.push(Device { pci, free: free as u64, total: total as u64, ..Device::default() });
    Ok(())
}
