//! Kernel launches. Parameters come as one buffer, laid out as the driver said; it goes on as `extra`.
#![allow(non_snake_case)]

use super::{
    capture::{self, vgpuStreamIsCapturing},
    dispatch::cut,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, Outcome, check},
    graph_kernel::ParameterList,
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

/// The `extra` array for a parameter buffer.
pub struct Extra {
    size: usize,
    list: [*mut c_void; 5],
}

impl Extra {
    /// Fills the list; `self` must not move while the driver uses it.
    pub fn point(&mut self, parameters: &[u8]) -> *mut *mut c_void {
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

    pub fn new() -> Self {
        Extra { size: 0, list: [null_mut(); 5] }
    }
}

/// The parameters, which must be `n` bytes.
fn whole(parameters: Option<&[u8]>, n: usize) -> Result<&[u8], CudaError> {
    let parameters = parameters.unwrap_or_default();
    if parameters.len() == n { Ok(parameters) } else { Err(INVALID_VALUE) }
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
    let parameters = whole(parameters, n)?;
    let shape = [grid_x, grid_y, grid_z, block_x, block_y, block_z, shared];
    let callable = t.function_or_kernel(function);
    if t.batch.holds() {
        return t.batch.take(callable, shape, stream, parameters);
    }
    t.launch(callable, shape, stream, parameters)
}

impl Thread {
    /// Launches a function or kernel, the other 0.
    #[inline]
    pub fn launch(
        &self,
        (function, kernel): (u64, u64),
        [grid_x, grid_y, grid_z, block_x, block_y, block_z, shared]: [u32; 7],
        stream: u64,
        parameters: &[u8],
    ) -> Outcome {
        let launch = self.driver.cuLaunchKernel.ok_or(NOT_SUPPORTED)?;
        let mut extra = Extra::new();
        // SAFETY: a live function and stream of this client; parameters are a private copy that outlives the call, and the driver
        // checks their size against the kernel's.
        check(unsafe {
            launch(
                function | kernel,
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
    let parameters = whole(parameters, n)?;
    let shape = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared);
    if let ([only], Some(launch)) = (list.as_slice(), t.driver.cuLaunchCooperativeKernel)
        && is_cooperative(&only.0)
        && vgpuStreamIsCapturing(t, stream) != Ok(capture::NONE)
        && let Some(mut pointers) = cooperative_parameters(t, function, parameters)?
    {
        // SAFETY: as in `vgpuLaunch`; the list has a pointer for each of the kernel's parameters.
        return check(unsafe {
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
                pointers.as_mut_ptr(),
            )
        });
    }
    launch_with(t, function, shape, stream, &mut list, parameters)
}

/// As [`vgpuLaunchEx`]; other order across threads.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLaunchWithEvent(
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
    a: usize,
    parameters: Option<&[u8]>,
    n: usize,
) -> Result<(), CudaError> {
    vgpuLaunchEx(
        t, function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, attributes, a,
        parameters, n,
    )
}

fn is_cooperative(attribute: &[u8; launch_attribute::SIZE]) -> bool {
    launch_attribute::id(attribute) == launch_attribute::COOPERATIVE
        && attribute[launch_attribute::VALUE..launch_attribute::VALUE + 4] != [0; 4]
}

/// The parameters for a cooperative launch into a capture: the driver does not capture one whose parameters come as a buffer. `None` if
/// it does not tell where they lie, which drivers before CUDA 12.4 do not.
fn cooperative_parameters(
    t: &Thread,
    function: u64,
    parameters: &[u8],
) -> Result<Option<ParameterList>, CudaError> {
    if t.driver.cuFuncGetParamInfo.is_none() || t.driver.cuKernelGetParamInfo.is_none() {
        return Ok(None);
    }
    ParameterList::new(t, t.function_or_kernel(function), parameters).map(Some)
}

/// Grid, block, dynamic shared memory.
type Shape = ([u32; 3], [u32; 3], u32);

fn launch_with(
    t: &Thread,
    function: u64,
    (grid, block, shared): Shape,
    stream: u64,
    list: &mut [Attribute],
    parameters: &[u8],
) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchKernelEx.ok_or(NOT_SUPPORTED)?;
    let config = LaunchConfig {
        grid,
        block,
        shared,
        stream,
        attributes: if list.is_empty() { null() } else { list.as_mut_ptr().cast() },
        count: u32::try_from(list.len()).map_err(|_| INVALID_VALUE)?,
    };
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
    launch_with(t, function, shape, stream, &mut list, whole(parameters, n)?)?;
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
