//! Parameter layouts, and functions of kernels.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::ffi::{CStr, c_void};

/// Offset and size of each of a kernel's parameters, of `most` at most.
///
/// `ask(index, offset, size)` is cuFuncGetParamInfo or cuKernelGetParamInfo; CUDA_ERROR_INVALID_VALUE ends the list, and any other error is
/// one: a layout cut short would launch kernels without their parameters.
pub fn places(
    most: usize,
    mut ask: impl FnMut(usize, &mut usize, &mut usize) -> u32,
) -> Result<Vec<(usize, usize)>, CudaError> {
    let mut found = Vec::new();
    for index in 0..most {
        let (mut offset, mut size) = (0_usize, 0_usize);
        match check(ask(index, &mut offset, &mut size)) {
            Ok(()) => found.push((offset, size)),
            Err(INVALID_VALUE) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Layout of a kernel's parameters and its length: per parameter offset and size, u32 each, little-endian, in at most `room` bytes. `ask` is
/// as for [`places`].
pub fn layout(
    room: usize,
    ask: impl FnMut(usize, &mut usize, &mut usize) -> u32,
) -> Result<(Vec<u8>, u64), CudaError> {
    let mut bytes = Vec::new();
    for (offset, size) in places(room / 8, ask)? {
        bytes.extend_from_slice(&(offset as u32).to_le_bytes());
        bytes.extend_from_slice(&(size as u32).to_le_bytes());
    }
    let len = bytes.len() as u64;
    Ok((bytes, len))
}

/// A kernel's layout and its length, as [`layout`].
pub fn kernel_layout(t: &mut Thread, kernel: u64, room: usize) -> Result<(Vec<u8>, u64), CudaError> {
    let ask = t.driver.cuKernelGetParamInfo.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live kernel, and places that outlive the call.
    layout(room, |i, offset, size| unsafe { ask(kernel, i, offset, size) })
}

/// The names of `callables` from number `first` on, each with its NUL, as many as fit in `room` bytes, and their length.
///
/// `ask(callable, place)` is cuFuncGetName or cuKernelGetName.
pub fn names(
    callables: &[u64],
    first: u32,
    room: usize,
    mut ask: impl FnMut(u64, *mut *mut c_void) -> u32,
) -> Result<(Vec<u8>, u64), CudaError> {
    let mut bytes = Vec::new();
    for &callable in callables.get(first as usize..).unwrap_or_default() {
        let mut text = std::ptr::null_mut();
        check(ask(callable, &raw mut text))?;
        if text.is_null() {
            return Err(INVALID_HANDLE);
        }
        // SAFETY: the driver's own text, which ends with a NUL and lives as long as the function.
        let name = unsafe { CStr::from_ptr(text.cast()) }.to_bytes_with_nul();
        if bytes.len() + name.len() > room {
            break;
        }
        bytes.extend_from_slice(name);
    }
    let len = bytes.len() as u64;
    Ok((bytes, len))
}

/// The function of a kernel for the current context.
pub fn vgpuKernelGetFunction(t: &mut Thread, function: u64, kernel: u64) -> Result<u64, CudaError> {
    let get = t.driver.cuKernelGetFunction.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call, and a live kernel.
    check(unsafe { get(&raw mut real, kernel) })?;
    let number = t.function_number(real, function)?;
    // Whether it can print is known of its library only.
    t.session.functions.table.set_marked(number, false);
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_parameters_ends_with_an_invalid_value_and_no_other_error() {
        let ask = |after_two: u32| {
            move |index: usize, offset: &mut usize, size: &mut usize| {
                (*offset, *size) = (8 * index, 4);
                if index < 2 { 0 } else { after_two }
            }
        };
        assert_eq!(places(9, ask(1)), Ok(vec![(0, 4), (8, 4)]));
        assert_eq!(places(1, ask(1)), Ok(vec![(0, 4)]));
        assert_eq!(places(9, ask(400)), Err(INVALID_HANDLE));
        assert_eq!(layout(16, ask(400)), Ok((vec![0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0], 16)));
    }

    #[test]
    fn names_stop_at_the_room_and_go_on_from_any_number() {
        let texts = [c"one", c"three", c"x"];
        let mut ask = |callable: u64, place: *mut *mut c_void| {
            // SAFETY: the place that `names` gives.
            unsafe { place.write(texts[callable as usize].as_ptr().cast_mut().cast()) };
            0
        };
        assert_eq!(names(&[0, 1, 2], 0, 10, &mut ask), Ok((b"one\0three\0".to_vec(), 10)));
        assert_eq!(names(&[0, 1, 2], 0, 9, &mut ask), Ok((b"one\0".to_vec(), 4)));
        assert_eq!(names(&[0, 1, 2], 2, 9, &mut ask), Ok((b"x\0".to_vec(), 2)));
        assert_eq!(names(&[0, 1, 2], 7, 9, &mut ask), Ok((Vec::new(), 0)));
        assert_eq!(names(&[0], 0, 9, |_, _| 400), Err(INVALID_HANDLE));
    }
}
