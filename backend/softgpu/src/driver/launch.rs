//! Kernel launches.

use std::ffi::c_void;

use super::{array_at, event};
use crate::model::function::{Entry, function_or_kernel};
use crate::model::launch::{Shape, submit};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result, state};

/// `CUlaunchAttribute`: what it is, and 64 bytes of value.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// `CUlaunchAttributeID`.
    pub id: u32,
    /// Nothing.
    pub pad: u32,
    /// The value; which words matter depends on the id.
    pub value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads.
    pub block: [u32; 3],
    /// Bytes.
    pub dynamic_shared: u32,
    /// Stream.
    pub stream: u64,
    /// Attributes.
    pub attributes: *const Attribute,
    /// How many.
    pub attribute_count: u32,
}

/// `CU_LAUNCH_PARAM_BUFFER_POINTER` in `extra`.
const BUFFER_POINTER: usize = 1;
/// `CU_LAUNCH_PARAM_BUFFER_SIZE` in `extra`.
const BUFFER_SIZE: usize = 2;

/// Where the program has the parameters.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// A list of pointers to parameters.
    pub params: *const *const c_void,
    /// A list of keys and values.
    pub extra: *const *const c_void,
}

impl Arguments {
    /// The parameter buffer.
    ///
    /// # Safety
    /// `params` must be NULL or point to as many pointers as the kernel has parameters, each to its parameter, or `extra`
    /// must be NULL or a list as CUDA describes it.
    pub unsafe fn collect(self, entry: &Entry) -> Result<Box<[u8]>> {
        let params = &entry.info().params;
        let length = params.iter().map(|param| param.offset.saturating_add(param.size)).max().unwrap_or(0);
        let mut buffer = vec![0u8; usize::try_from(length).unwrap_or(0)].into_boxed_slice();
        if params.is_empty() {
            return Ok(buffer);
        }
        if self.params.is_null() {
            // SAFETY: the caller answers for the list.
            let given = unsafe { self.extra_buffer() }?;
            // The real driver takes a shorter buffer and refuses a longer one.
            buffer.get_mut(..given.len()).ok_or(CudaError::LaunchOutOfResources)?.copy_from_slice(given);
            return Ok(buffer);
        }
        // SAFETY: the caller answers for a pointer per parameter.
        let pointers = unsafe { array_at(self.params, params.len()) }?;
        for (param, pointer) in params.iter().zip(pointers) {
            let start = usize::try_from(param.offset).map_err(|_| CudaError::InvalidValue)?;
            let length = usize::try_from(param.size).map_err(|_| CudaError::InvalidValue)?;
            let place = buffer.get_mut(start..start + length).ok_or(CudaError::InvalidValue)?;
            // SAFETY: the caller answers for the parameter's size at its pointer.
            place.copy_from_slice(unsafe { array_at(pointer.cast(), length) }?);
        }
        Ok(buffer)
    }

    /// # Safety
    /// As for `collect`.
    unsafe fn extra_buffer<'a>(self) -> Result<&'a [u8]> {
        if self.extra.is_null() {
            return Err(CudaError::InvalidValue);
        }
        let (mut start, mut length) = (std::ptr::null::<u8>(), 0);
        let mut place = self.extra;
        loop {
            // SAFETY: the caller answers for a list of keys and values that ends in CU_LAUNCH_PARAM_END, which is 0.
            let key = unsafe { place.read() }.addr();
            if key == 0 {
                break;
            }
            // SAFETY: as above: a value follows each key, and the size's points to a size_t.
            unsafe {
                let value = place.add(1).read();
                match key {
                    BUFFER_POINTER => start = value.cast(),
                    BUFFER_SIZE if !value.is_null() => length = value.cast::<usize>().read(),
                    _ => return Err(CudaError::InvalidValue),
                }
                place = place.add(2);
            }
        }
        // SAFETY: the caller answers for the buffer.
        unsafe { array_at(start, length) }
    }
}

/// # Safety
/// As for `Arguments::collect`.
unsafe fn launch(
    default: DefaultStream,
    function: u64,
    shape: Shape,
    stream: u64,
    arguments: Arguments,
) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    let named = function;
    let function = function_or_kernel(named, &context)?;
    shape.check(&function)?;
    // SAFETY: the caller answers for the parameters.
    let params = unsafe { arguments.collect(&function.entry) }?;
    submit(&context, &stream, named, function, shape, params)
}

/// Whether a launch can do without what the attribute asks. A hint can be ignored; what changes the result cannot.
fn check_attribute(attribute: &Attribute, grid: [u32; 3]) -> Result {
    let [x, y, z, ..] = attribute.value;
    match attribute.id {
        // Ignore, access policy, cluster scheduling, serialization (launches are in order
        // anyway), priority, memory synchronization domains, carve-out, NVLink scheduling.
        0 | 1 | 5 | 6 | 8 | 9 | 10 | 14 | 16 => Ok(()),
        // Not cooperative, or with nobody else.
        2 if x == 0 || grid == [1, 1, 1] => Ok(()),
        // No cluster, or one block.
        4 | 11 if [x, y, z].iter().all(|size| *size <= 1) => Ok(()),
        // An event that is recorded with the launch, with flags: one without a time.
        7 | 12 => {
            let event = state()?.events.get(u64::from(x) | u64::from(y) << 32)?;
            match z {
                _ if event.has_time() => Err(CudaError::NotSupported),
                0 => Ok(()),
                1 => Err(CudaError::IllegalState),
                _ => Err(CudaError::InvalidValue),
            }
        }
        // Updatable from the device: only in a capture, and nothing is updated here.
        2 | 4 | 11 | 13 => Err(CudaError::NotSupported),
        _ => Err(CudaError::InvalidValue),
    }
}

impl Config {
    /// The attributes, none of which a launch cannot do without.
    ///
    /// # Safety
    /// `attributes` must be NULL or point to as many as it says.
    pub unsafe fn attributes(&self) -> Result<&[Attribute]> {
        let count = usize::try_from(self.attribute_count).map_err(|_| CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the attributes.
        let attributes = unsafe { array_at(self.attributes, count) }?;
        attributes.iter().try_for_each(|a| check_attribute(a, self.grid))?;
        Ok(attributes)
    }
}

stream_api! {
    /// Launches a function, or a kernel's function in the current context.
    fn cuLaunchKernel | cuLaunchKernel_ptsz(
        default; function: u64,
        grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: u64, params: *const *const c_void, extra: *const *const c_void
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        // SAFETY: the caller answers for the parameters.
        unsafe { launch(default, function, shape, stream, Arguments { params, extra }) }
    }

    /// The same with attributes. Hints are ignored; clusters, cooperation and programmatic events are refused.
    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(
        default; config: Option<&Config>, function: u64, params: *const *const c_void, extra: *const *const c_void
    ) {
        let config = config.ok_or(CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the attributes.
        let attributes = unsafe { config.attributes() }?;
        let shape = Shape { grid: config.grid, block: config.block, dynamic_shared: config.dynamic_shared };
        // SAFETY: the caller answers for the parameters.
        unsafe { launch(default, function, shape, config.stream, Arguments { params, extra }) }?;
        // Kernels end before the next begins, so that an event of the launch is one after it.
        for attribute in attributes.iter().filter(|attribute| matches!(attribute.id, 7 | 12)) {
            let [low, high, ..] = attribute.value;
            event::record(default, u64::from(low) | u64::from(high) << 32, config.stream)?;
        }
        Ok(())
    }

    /// Blocks are not run side by side, so a grid cannot wait for itself: `NOT_SUPPORTED`, unless it has one block.
    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(
        default; function: u64,
        grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32, stream: u64, params: *const *const c_void
    ) {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        if shape.grid != [1, 1, 1] {
            return Err(CudaError::NotSupported);
        }
        // SAFETY: the caller answers for the parameters.
        unsafe { launch(default, function, shape, stream, Arguments { params, extra: std::ptr::null() }) }
    }
}
