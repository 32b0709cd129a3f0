//! Kernel launches. Parameters come as one buffer, laid out as the driver said; it goes on as `extra`.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::{
    ffi::c_void,
    ptr::{null, null_mut},
};
use vgpu_spec::{
    plain::{self, Blob8},
    structure::{LaunchConfig, launch_attribute},
};

/// CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE and CU_LAUNCH_PARAM_END.
pub const BUFFER_POINTER: usize = 1;
pub const BUFFER_SIZE: usize = 2;
pub const END: usize = 0;

/// The `extra` array for a parameter buffer.
struct Extra {
    size: usize,
    list: [*mut c_void; 5],
}

impl Extra {
    /// Fills the list; `self` must not move while the driver uses it.
    fn point(&mut self, parameters: &[u8]) -> *mut *mut c_void {
        self.size = parameters.len();
        self.list = [
            BUFFER_POINTER as *mut c_void,
            parameters.as_ptr().cast_mut().cast(),
            BUFFER_SIZE as *mut c_void,
            (&raw mut self.size).cast(),
            END as *mut c_void,
        ];
        self.list.as_mut_ptr()
    }

    fn new() -> Self {
        Extra { size: 0, list: [null_mut(); 5] }
    }
}

/// Launches a kernel.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLaunch(
    t: &mut Thread,
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: u64,
    parameters: Option<&[u8]>,
    n: usize,
) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchKernel.ok_or(NOT_SUPPORTED)?;
    let parameters = parameters.unwrap_or_default();
    if parameters.len() != n {
        return Err(INVALID_VALUE);
    }
    let mut extra = Extra::new();
    // SAFETY: a live function and stream of this client; parameters are a private copy that outlives the call, and the driver
    // checks their size against the kernel's.
    check(unsafe {
        launch(
            function,
            grid_x,
            grid_y,
            grid_z,
            block_x,
            block_y,
            block_z,
            shared,
            stream,
            null_mut(),
            extra.point(parameters),
        )
    })
}

/// Launches a kernel with attributes. The shim sends only attributes without pointers or handles in them.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLaunchEx(
    t: &mut Thread,
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: u64,
    attributes: Option<&[u8]>,
    _a: usize,
    parameters: Option<&[u8]>,
    n: usize,
) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchKernelEx.ok_or(NOT_SUPPORTED)?;
    let parameters = parameters.unwrap_or_default();
    if parameters.len() != n {
        return Err(INVALID_VALUE);
    }
    let list = attribute_list(attributes.unwrap_or_default())?;
    let config = LaunchConfig {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared,
        stream,
        attributes: if list.is_empty() { null() } else { list.as_ptr().cast() },
        count: u32::try_from(list.len()).map_err(|_| INVALID_VALUE)?,
    };
    let mut extra = Extra::new();
    // SAFETY: as in `vgpuLaunch`; the configuration and its attributes are private copies that outlive the call.
    check(unsafe { launch((&raw const config).cast(), function, null_mut(), extra.point(parameters)) })
}

/// The attributes of a launch, aligned, of which each is plain numbers.
pub fn attribute_list(bytes: &[u8]) -> Result<Vec<Blob8<{ launch_attribute::SIZE }>>, CudaError> {
    let list = plain::values::<Blob8<{ launch_attribute::SIZE }>>(bytes).ok_or(INVALID_VALUE)?;
    launch_attribute::check(bytes).map_err(|_| NOT_SUPPORTED)?;
    Ok(list)
}
