//! The launch functions of CUDA 3 and before: block, shared memory and parameters are set in the function, one by one, and stay.

use crate::{
    calls, capture, client, context,
    device::attribute,
    error, function, handles,
    launch::{Arguments, BUFFER_POINTER, BUFFER_SIZE, Shape, launch},
};
use std::{
    ffi::c_void,
    ptr::{null_mut, without_provenance_mut},
    sync::{MutexGuard, PoisonError},
};
use vgpu_spec::handle::Kind;

/// The room for parameters.
const MAX_PARAMETERS: usize = 32764;

/// What was set in a function.
pub struct Legacy {
    block: [u32; 3],
    shared: u32,
    parameters: Vec<u8>,
}

impl Default for Legacy {
    fn default() -> Self {
        Legacy { block: [1; 3], shared: 0, parameters: Vec::new() }
    }
}

impl Legacy {
    /// Puts a parameter, or a part of one, at `offset`.
    fn set(&mut self, offset: i32, bytes: &[u8]) -> error::Result {
        let start = usize::try_from(offset).map_err(|_| error::INVALID_VALUE)?;
        let end = start.checked_add(bytes.len()).filter(|&e| e <= MAX_PARAMETERS);
        let end = end.ok_or(error::INVALID_VALUE)?;
        if self.parameters.len() < end {
            self.parameters.resize(end, 0);
        }
        self.parameters[start..end].copy_from_slice(bytes);
        Ok(())
    }
}

fn legacy(function: u64) -> error::Result<MutexGuard<'static, Legacy>> {
    // These are older than kernels, and do not take them.
    if handles::is(Kind::Kernel, function) {
        return Err(error::INVALID_HANDLE);
    }
    let info = function::info(function)?;
    Ok(info.legacy.lock().unwrap_or_else(PoisonError::into_inner))
}

pub unsafe fn cuFuncSetBlockShape(hfunc: u64, x: i32, y: i32, z: i32) -> error::Result {
    let mut legacy = legacy(hfunc)?;
    let devices = &client::get()?.devices;
    let limit = |id| devices.attribute(context::device()?, id);
    let mut threads = 1_u64;
    for (id, n) in (attribute::MAX_BLOCK_DIM_X..).zip([x, y, z]) {
        if n < 1 || n > limit(id)? {
            return Err(error::INVALID_VALUE);
        }
        threads *= u64::from(n.cast_unsigned());
    }
    if threads > u64::from(limit(attribute::MAX_THREADS_PER_BLOCK)?.cast_unsigned()) {
        return Err(error::INVALID_VALUE);
    }
    legacy.block = [x, y, z].map(i32::cast_unsigned);
    Ok(())
}

pub unsafe fn cuFuncSetSharedSize(hfunc: u64, bytes: u32) -> error::Result {
    let mut legacy = legacy(hfunc)?;
    let limit =
        client::get()?.devices.attribute(context::device()?, attribute::MAX_SHARED_MEMORY_PER_BLOCK)?;
    if bytes > limit.cast_unsigned() {
        return Err(error::INVALID_VALUE);
    }
    legacy.shared = bytes;
    Ok(())
}

/// A launch takes what the kernel has, whatever is set here. The driver rounds up to words first (measured).
pub unsafe fn cuParamSetSize(hfunc: u64, numbytes: u32) -> error::Result {
    drop(legacy(hfunc)?);
    let words = numbytes.wrapping_add(3) & !3;
    if words as usize > MAX_PARAMETERS { Err(error::INVALID_VALUE) } else { Ok(()) }
}

pub unsafe fn cuParamSeti(hfunc: u64, offset: i32, value: u32) -> error::Result {
    legacy(hfunc)?.set(offset, &value.to_ne_bytes())
}

pub unsafe fn cuParamSetf(hfunc: u64, offset: i32, value: f32) -> error::Result {
    legacy(hfunc)?.set(offset, &value.to_ne_bytes())
}

pub unsafe fn cuParamSetv(hfunc: u64, offset: i32, ptr: *mut c_void, numbytes: u32) -> error::Result {
    let mut legacy = legacy(hfunc)?;
    if ptr.is_null() || numbytes as usize > MAX_PARAMETERS {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's bytes. What lies outside of the room is left out without an error, unlike a single value.
    let _ = legacy.set(offset, unsafe { std::slice::from_raw_parts(ptr.cast::<u8>(), numbytes as usize) });
    Ok(())
}

/// Whatever is no function or no texture reference is an invalid handle here (measured).
pub unsafe fn cuParamSetTexRef(hfunc: u64, texunit: i32, hTexRef: u64) -> error::Result {
    handles::words(Kind::Function, hfunc)?;
    handles::check_texturereference(hTexRef).map_err(|_| error::INVALID_HANDLE)?;
    calls::cuParamSetTexRef(hfunc, texunit, hTexRef)
}

fn launch_grid(f: u64, width: i32, height: i32, stream: u64) -> error::Result {
    if handles::check_stream(stream).is_err() {
        return Err(error::INVALID_HANDLE);
    }
    let positive = |n| u32::try_from(n).ok().filter(|&n| n > 0).ok_or(error::INVALID_VALUE);
    let (shape, mut parameters) = {
        let legacy = legacy(f)?;
        let mut parameters = legacy.parameters.clone();
        // The driver takes what the kernel has, set or not.
        parameters.resize(function::info(f)?.parameters()?.size, 0);
        let grid = [positive(width)?, positive(height)?, 1];
        (Shape { grid, block: legacy.block, shared: legacy.shared }, parameters)
    };
    // Unlike other work in the default stream, these do not end a capture (measured): the per-thread stream has the same order.
    let aside =
        handles::is_default_stream(stream) && capture::any() && !context::is_green(context::current());
    let stream = if aside { handles::PER_THREAD } else { stream };
    let mut size = parameters.len();
    let mut extra = [
        without_provenance_mut(BUFFER_POINTER),
        parameters.as_mut_ptr().cast::<c_void>(),
        without_provenance_mut(BUFFER_SIZE),
        (&raw mut size).cast(),
        null_mut(),
    ];
    let arguments = Arguments { list: null_mut(), extra: extra.as_mut_ptr() };
    // SAFETY: a well-formed list, and a buffer of the size that it says.
    unsafe { launch(f, shape, stream, &arguments, &[], None) }
}

pub unsafe fn cuLaunch(f: u64) -> error::Result {
    launch_grid(f, 1, 1, 0)
}

pub unsafe fn cuLaunchGrid(f: u64, grid_width: i32, grid_height: i32) -> error::Result {
    launch_grid(f, grid_width, grid_height, 0)
}

pub unsafe fn cuLaunchGridAsync(f: u64, grid_width: i32, grid_height: i32, hStream: u64) -> error::Result {
    launch_grid(f, grid_width, grid_height, hStream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_lie_where_they_are_put_and_never_beyond_the_room() {
        let mut legacy = Legacy::default();
        assert_eq!(legacy.set(8, &[1, 2]), Ok(()));
        assert_eq!(legacy.set(0, &[9]), Ok(()));
        assert_eq!(legacy.parameters, [9, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(legacy.set(-1, &[1]), Err(error::INVALID_VALUE));
        assert_eq!(legacy.set(32763, &[1]), Ok(()));
        assert_eq!(legacy.set(32763, &[1, 2]), Err(error::INVALID_VALUE));
        assert_eq!(legacy.set(i32::MAX, &[1, 2]), Err(error::INVALID_VALUE));
    }
}
