//! Parameter layouts, and functions of kernels.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};

/// Layout of a kernel's parameters and its length: per parameter offset and size, u32 each, little-endian, in at most `room` bytes.
///
/// `ask(index, offset, size)` is cuFuncGetParamInfo or cuKernelGetParamInfo; the first refusal ends the list.
pub fn layout(room: usize, mut ask: impl FnMut(usize, &mut usize, &mut usize) -> u32) -> (Vec<u8>, u64) {
    let mut bytes = Vec::new();
    for index in 0..room / 8 {
        let (mut offset, mut size) = (0_usize, 0_usize);
        if ask(index, &mut offset, &mut size) != 0 {
            break;
        }
        bytes.extend_from_slice(&(offset as u32).to_le_bytes());
        bytes.extend_from_slice(&(size as u32).to_le_bytes());
    }
    let len = bytes.len() as u64;
    (bytes, len)
}

/// The function of a kernel for the current context.
pub fn vgpuKernelGetFunction(t: &mut Thread, function: u64, kernel: u64) -> Result<(), CudaError> {
    let get = t.driver.cuKernelGetFunction.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call, and a live kernel.
    check(unsafe { get(&raw mut real, kernel) })?;
    t.insert_function(function, real)
}
