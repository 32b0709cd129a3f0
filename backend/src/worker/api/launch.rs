//! Kernel launches. Parameters come as one buffer, laid out as the driver said; it goes on as `extra`.
#![allow(non_snake_case)]

use super::{
    dispatch::cut,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    kernel::layout,
    thread::Thread,
};
use std::{
    ffi::c_void,
    ptr::{null, null_mut},
};
use vgpu_spec::{
    plain::{self, Blob8},
    structure::{
        LaunchConfig,
        launch_attribute::{self, Content},
    },
};

/// CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE and CU_LAUNCH_PARAM_END.
pub const BUFFER_POINTER: usize = 1;
pub const BUFFER_SIZE: usize = 2;
pub const END: usize = 0;

/// The most bytes of a layout, as in the messages.
const LAYOUT_ROOM: usize = 32768;

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

/// Launches a kernel with attributes.
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
    let mut list = attribute_list(t, attributes.unwrap_or_default())?;
    let shape = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
    launch_with(t, function, shape, stream, &mut list, parameters, n)
}

/// Grid, block, dynamic shared memory.
type Shape = ([u32; 3], [u32; 3], u32);

/// Whether the launch is a cooperative one. A capture refused these from cuLaunchKernelEx with `extra` (measured, driver 580), so that they
/// get a list of parameters.
fn is_cooperative(list: &[Attribute]) -> bool {
    list.iter().any(|attribute| {
        launch_attribute::id(&attribute.0) == launch_attribute::COOPERATIVE
            && attribute.0[launch_attribute::VALUE..launch_attribute::VALUE + 4] != [0; 4]
    })
}

/// A pointer to each parameter of `parameters`, laid out as the driver says.
fn parameter_list(t: &Thread, function: u64, parameters: &[u8]) -> Result<Vec<*mut c_void>, CudaError> {
    let of_function = t.driver.cuFuncGetParamInfo.ok_or(NOT_SUPPORTED)?;
    let of_kernel = t.driver.cuKernelGetParamInfo.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live function or kernel, and places that outlive the call; each refuses the other.
    let (layout, _) = layout(LAYOUT_ROOM, |i, at, size| unsafe { of_function(function, i, at, size) })
        .or_else(|_| layout(LAYOUT_ROOM, |i, at, size| unsafe { of_kernel(function, i, at, size) }))?;
    let number = |b: &[u8]| b.iter().rev().fold(0_usize, |n, &byte| n << 8 | usize::from(byte));
    let mut list = Vec::with_capacity(layout.len() / 8);
    for parameter in layout.chunks_exact(8) {
        let (at, size) = (number(&parameter[..4]), number(&parameter[4..]));
        let value = parameters.get(at..at + size).ok_or(INVALID_VALUE)?;
        list.push(value.as_ptr().cast_mut().cast());
    }
    Ok(list)
}

fn launch_with(
    t: &Thread,
    function: u64,
    (grid, block, shared): Shape,
    stream: u64,
    list: &mut [Attribute],
    parameters: Option<&[u8]>,
    n: usize,
) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchKernelEx.ok_or(NOT_SUPPORTED)?;
    let parameters = parameters.unwrap_or_default();
    if parameters.len() != n {
        return Err(INVALID_VALUE);
    }
    let config = LaunchConfig {
        grid,
        block,
        shared,
        stream,
        attributes: if list.is_empty() { null() } else { list.as_mut_ptr().cast() },
        count: u32::try_from(list.len()).map_err(|_| INVALID_VALUE)?,
    };
    if is_cooperative(list) {
        let mut pointers = parameter_list(t, function, parameters)?;
        let pointers = pointers.as_mut_ptr();
        let [_] = list else {
            // SAFETY: as below; there is a pointer into the copy for each parameter.
            return check(unsafe { launch((&raw const config).cast(), function, pointers, null_mut()) });
        };
        let launch = t.driver.cuLaunchCooperativeKernel.ok_or(NOT_SUPPORTED)?;
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        // SAFETY: as above, without attributes.
        return check(unsafe { launch(function, gx, gy, gz, bx, by, bz, shared, stream, pointers) });
    }
    let mut extra = Extra::new();
    // SAFETY: as in `vgpuLaunch`; the configuration and its attributes are private copies that outlive the call, and their handles are
    // live events of this client.
    check(unsafe { launch((&raw const config).cast(), function, null_mut(), extra.point(parameters)) })
}

/// As [`vgpuLaunchEx`], for attributes in which the driver writes: gives them back.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLaunchUpdatable(
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
    room: usize,
) -> Result<Vec<u8>, CudaError> {
    let given = attributes.unwrap_or_default();
    let mut list = attribute_list(t, given)?;
    let shape = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
    launch_with(t, function, shape, stream, &mut list, parameters, n)?;
    // The program's own numbers of events stay; what the driver has written is the device's handle of the node.
    let mut written = given.to_vec();
    for (place, attribute) in written.chunks_exact_mut(launch_attribute::SIZE).zip(&list) {
        if launch_attribute::content(launch_attribute::id(&attribute.0)) == Some(Content::DeviceNode) {
            place.copy_from_slice(&attribute.0);
        }
    }
    Ok(cut(written, room))
}

/// One attribute.
pub type Attribute = Blob8<{ launch_attribute::SIZE }>;

/// The attributes of a launch, aligned, with the driver's events.
pub fn attribute_list(t: &Thread, bytes: &[u8]) -> Result<Vec<Attribute>, CudaError> {
    let mut list = plain::values::<Attribute>(bytes).ok_or(INVALID_VALUE)?;
    for attribute in &mut list {
        match launch_attribute::content(launch_attribute::id(&attribute.0)) {
            Some(Content::Plain | Content::DeviceNode) => {}
            Some(Content::Event) => {
                let place = launch_attribute::VALUE..launch_attribute::VALUE + 8;
                let mut number = [0; 8];
                number.copy_from_slice(&attribute.0[place.clone()]);
                let event = t.event(u64::from_le_bytes(number))?;
                attribute.0[place].copy_from_slice(&event.to_le_bytes());
            }
            None => return Err(INVALID_VALUE),
        }
    }
    Ok(list)
}
