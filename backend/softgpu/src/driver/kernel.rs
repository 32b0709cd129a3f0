//! Kernels of libraries.

use std::ffi::c_char;
use std::sync::Arc;

use super::function::put_param;
use super::{Out, put};
use crate::model::function::Kernel;
use crate::model::{CudaError, Result, current, state};

fn find(kernel: u64) -> Result<Arc<Kernel>> {
    state()?.kernels.get(kernel)
}

driver_api! {
    /// The kernel's function in the current context.
    fn cuKernelGetFunction(function: Out<'_, u64>, kernel: u64) {
        let context = current::working_context()?;
        put(function, find(kernel)?.function_in(&context)?.handle())
    }

    /// The kernel's library.
    fn cuKernelGetLibrary(library: Out<'_, u64>, kernel: u64) {
        put(library, find(kernel)?.library()?.handle())
    }

    /// An attribute, the same on every device.
    fn cuKernelGetAttribute(value: Out<'_, i32>, attribute: u32, kernel: u64, device: i32) {
        state()?.device(device)?;
        put(value, find(kernel)?.entry.attribute(attribute)?)
    }

    /// Sets an attribute, for every device.
    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: u64, device: i32) {
        state()?.device(device)?;
        find(kernel)?.entry.set_attribute(attribute, value)
    }

    /// Checked, without effect.
    fn cuKernelSetCacheConfig(kernel: u64, config: u32, device: i32) {
        state()?.device(device)?;
        find(kernel)?;
        if config > 3 { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// The kernel's mangled name, which lives as long as its library.
    fn cuKernelGetName(name: Out<'_, *const c_char>, kernel: u64) {
        put(name, find(kernel)?.entry.name().as_ptr())
    }

    /// Offset and size of a parameter: `INVALID_VALUE` behind the last.
    fn cuKernelGetParamInfo(kernel: u64, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) {
        put_param(&find(kernel)?.entry, index, offset, size)
    }
}
