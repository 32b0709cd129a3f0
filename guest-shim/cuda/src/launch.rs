//! Kernel launches: what the driver would refuse at once is refused here, the rest goes to the lane and is not waited for.

use crate::{
    call, calls, capture, client, context, error,
    function::{self, Info, Parameters},
    handles, stream,
};
use std::{ffi::c_void, mem::MaybeUninit, slice};
use vgpu_spec::{
    plain::Blob8,
    structure::{
        LaunchConfig,
        launch_attribute::{self, Content},
    },
};

pub use crate::legacy_launch::{
    cuLaunch, cuLaunchGrid, cuLaunchGridAsync, cuParamSetSize, cuParamSetTexRef, cuParamSetf, cuParamSeti,
    cuParamSetv,
};

/// CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE.
const END: usize = 0;
pub const BUFFER_POINTER: usize = 1;
pub const BUFFER_SIZE: usize = 2;
/// The largest parameter area of a kernel (CUDA 12.1 and later).
const MAX_PARAMETERS: usize = 32764;
/// Parameters up to this size are gathered on the stack; those of most kernels are far fewer, and only their place is cleared.
const FEW: usize = 1024;
/// Grid and block, three dimensions each, and dynamic shared memory in bytes.
#[derive(Clone, Copy)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Shape {
    /// Refuses what no device can run.
    fn check(&self, info: &Info, stream: u64) -> error::Result {
        if self.grid.contains(&0) || self.block.contains(&0) {
            return Err(error::INVALID_VALUE);
        }
        // A stream of its own has a context; the current one is quicker to ask.
        let current = context::device_of(context::current());
        let device = current.or_else(|_| context::device_of(stream::context_of(stream)?))?;
        let limits = client::get()?.devices.launch_limits(device)?;
        let within = |all: &[u32; 3], most: &[u32; 3]| all.iter().zip(most).all(|(n, most)| n <= most);
        let threads = self.block.iter().fold(1, |threads: u64, &n| threads.saturating_mul(n.into()));
        let fits = within(&self.grid, &limits.grid)
            && within(&self.block, &limits.block)
            && self.shared <= info.dynamic_shared_limit(limits.shared)
            && threads <= limits.threads.into();
        if fits { Ok(()) } else { Err(error::INVALID_VALUE) }
    }
}

/// The program's parameters, either as a list of pointers or as one buffer.
pub struct Arguments {
    pub list: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

impl Arguments {
    /// Calls `send` with the parameters as one buffer.
    ///
    /// # Safety
    /// The pointers are as cuLaunchKernel documents them for a kernel of this layout.
    #[inline]
    pub unsafe fn with<R>(
        &self,
        info: &Info,
        send: impl FnOnce(&[u8]) -> error::Result<R>,
    ) -> error::Result<R> {
        if !self.extra.is_null() {
            if !self.list.is_null() {
                return Err(error::INVALID_VALUE);
            }
            // SAFETY: the caller's promise.
            return send(unsafe { extra_buffer(self.extra) }?);
        }
        let parameters = info.parameters()?;
        let size = parameters.size;
        if size > MAX_PARAMETERS || (self.list.is_null() && size > 0) {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let gathered = |buffer: &mut [u8]| unsafe { gather(parameters, self.list, buffer) };
        if size <= FEW {
            let mut buffer = [const { MaybeUninit::uninit() }; FEW];
            let buffer = &mut buffer[..size];
            buffer.fill(MaybeUninit::new(0));
            // SAFETY: as many bytes, all of which were filled.
            let buffer = unsafe { slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), size) };
            gathered(buffer)?;
            return send(buffer);
        }
        let mut buffer = vec![0; size];
        gathered(&mut buffer)?;
        send(&buffer)
    }
}

/// Copies each parameter to its offset.
///
/// # Safety
/// `list` has a pointer for each parameter, to as many bytes as the layout says.
#[inline]
unsafe fn gather(parameters: &Parameters, list: *mut *mut c_void, buffer: &mut [u8]) -> error::Result {
    for (i, &(offset, size)) in parameters.layout.iter().enumerate() {
        let place = buffer
            .get_mut(offset as usize..)
            .and_then(|b| b.get_mut(..size as usize))
            .ok_or(error::INVALID_VALUE)?;
        // SAFETY: the caller's promise.
        let value = unsafe { list.add(i).read() }.cast::<u8>();
        if value.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise; `place` is as long as the parameter.
        unsafe { std::ptr::copy_nonoverlapping(value, place.as_mut_ptr(), place.len()) };
    }
    Ok(())
}

/// The buffer of an `extra` list.
///
/// # Safety
/// `extra` is a list of names and values that ends with CU_LAUNCH_PARAM_END, and its buffer is as long as it says.
unsafe fn extra_buffer<'a>(extra: *mut *mut c_void) -> error::Result<&'a [u8]> {
    let (mut data, mut size) = (std::ptr::null::<u8>(), 0_usize);
    // Both names and the end are five entries; more would be repetition.
    for i in 0..4 {
        // SAFETY: the caller's promise; the end was not reached yet.
        let name = unsafe { extra.add(2 * i).read() }.addr();
        if name == END {
            return match (data.is_null(), size) {
                (_, 0) => Ok(&[]),
                (false, n) if n <= MAX_PARAMETERS => {
                    // SAFETY: the caller's promise.
                    Ok(unsafe { slice::from_raw_parts(data, n) })
                }
                _ => Err(error::INVALID_VALUE),
            };
        }
        // SAFETY: the caller's promise: a name has a value.
        let value = unsafe { extra.add(2 * i + 1).read() };
        match name {
            BUFFER_POINTER => data = value.cast(),
            // SAFETY: the value points to the size, or is NULL.
            BUFFER_SIZE => size = *unsafe { value.cast::<usize>().as_ref() }.ok_or(error::INVALID_VALUE)?,
            _ => return Err(error::INVALID_VALUE),
        }
    }
    Err(error::INVALID_VALUE)
}

/// Launches. `written`: where the program has the attributes, if the driver writes in them.
///
/// # Safety
/// As [`Arguments::with`]; `written` has room for the attributes.
#[inline]
pub unsafe fn launch(
    f: u64,
    shape: Shape,
    stream: u64,
    arguments: &Arguments,
    attributes: &[u8],
    written: Option<*mut u8>,
) -> error::Result {
    let info = function::info(f)?;
    handles::check_stream(stream)?;
    shape.check(info, stream)?;
    let Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared } = shape;
    // SAFETY: the caller's promise.
    let launched = unsafe {
        arguments.with(info, |p| {
            if attributes.is_empty() {
                return calls::vgpuLaunch(f, gx, gy, gz, bx, by, bz, shared, stream, p, p.len());
            }
            let (a, n) = (attributes.len(), p.len());
            let Some(written) = written else {
                if sure(attributes) {
                    return calls::vgpuLaunchEx(
                        f, gx, gy, gz, bx, by, bz, shared, stream, attributes, a, p, n,
                    );
                }
                calls::vgpuLaunchWithEvent(f, gx, gy, gz, bx, by, bz, shared, stream, attributes, a, p, n)?;
                // Whether an event will do, and what else a launch may not have, is this call's to say.
                return call::settle();
            };
            let mut result = attributes.to_vec();
            calls::vgpuLaunchUpdatable(
                f,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                stream,
                attributes,
                a,
                p,
                n,
                &mut result,
            )?;
            // The program's array, in which the driver would have written too, although it is const.
            std::ptr::copy_nonoverlapping(result.as_ptr(), written, a);
            Ok(())
        })
    };
    launched.and_then(|()| finish(stream))
}

/// With CUDA_LAUNCH_BLOCKING=1 a launch returns when the kernel has ended, with its error.
#[inline]
pub fn finish(stream: u64) -> error::Result {
    // What a stream captures does not run, and there may be none that can be waited for.
    if client::get()?.blocking && !capture::any() { calls::cuStreamSynchronize(stream) } else { Ok(()) }
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLaunchKernel(
    f: u64,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: u64,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> error::Result {
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
    };
    // SAFETY: the program's pointers.
    unsafe { launch(f, shape, hStream, &Arguments { list: kernelParams, extra }, &[], None) }
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLaunchCooperativeKernel(
    f: u64,
    gridDimX: u32,
    gridDimY: u32,
    gridDimZ: u32,
    blockDimX: u32,
    blockDimY: u32,
    blockDimZ: u32,
    sharedMemBytes: u32,
    hStream: u64,
    kernelParams: *mut *mut c_void,
) -> error::Result {
    let shape = Shape {
        grid: [gridDimX, gridDimY, gridDimZ],
        block: [blockDimX, blockDimY, blockDimZ],
        shared: sharedMemBytes,
    };
    let mut attribute = [0; launch_attribute::SIZE];
    attribute[..4].copy_from_slice(&launch_attribute::COOPERATIVE.to_le_bytes());
    attribute[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let arguments = Arguments { list: kernelParams, extra: std::ptr::null_mut() };
    // SAFETY: the program's pointers.
    unsafe { launch(f, shape, hStream, &arguments, &attribute, None) }
}

/// CUDA_LAUNCH_PARAMS.
#[repr(C)]
#[derive(Clone, Copy)]
struct LaunchParams {
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    parameters: *mut *mut c_void,
}

/// CU_LAUNCH_COOPERATIVE_..._NO_PRE_LAUNCH_SYNC and ..._NO_POST_LAUNCH_SYNC: nothing to do on one device.
const MULTI_DEVICE_FLAGS: u32 = 3;

/// A cooperative launch on several devices.
pub unsafe fn cuLaunchCooperativeKernelMultiDevice(
    launchParamsList: *const Blob8<56>,
    numDevices: u32,
    flags: u32,
) -> error::Result {
    if numDevices == 0 || flags & !MULTI_DEVICE_FLAGS != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's array of as many elements; the structure has the size and alignment of the blob.
    let list = unsafe { call::slice(launchParamsList, numDevices as usize) }.ok_or(error::INVALID_VALUE)?;
    // A context has one device, and each launch is on another.
    let [one] = list else { return Err(error::INVALID_VALUE) };
    // SAFETY: as above.
    let wanted = unsafe { (&raw const *one).cast::<LaunchParams>().read() };
    if wanted.stream <= handles::SPECIAL_STREAMS {
        return Err(error::INVALID_HANDLE);
    }
    let [gx, gy, gz] = wanted.grid;
    let [bx, by, bz] = wanted.block;
    // SAFETY: the program's pointers.
    unsafe {
        cuLaunchCooperativeKernel(
            wanted.function,
            gx,
            gy,
            gz,
            bx,
            by,
            bz,
            wanted.shared,
            wanted.stream,
            wanted.parameters,
        )
    }
}

/// More than there are.
const MOST_ATTRIBUTES: usize = 256;

/// The attributes of a configuration; those that are not understood are refused.
///
/// # Safety
/// The configuration's pointer is NULL or has its count of attributes.
pub unsafe fn attributes<'a>(config: &LaunchConfig) -> error::Result<&'a [u8]> {
    let count = config.count as usize;
    if count > MOST_ATTRIBUTES {
        return Err(error::INVALID_HANDLE);
    }
    // SAFETY: the caller's promise.
    let attributes = unsafe { call::slice(config.attributes, count * launch_attribute::SIZE) };
    let attributes = match attributes {
        Some(bytes) => bytes,
        None if count == 0 => &[],
        None => return Err(error::INVALID_VALUE),
    };
    for attribute in attributes.chunks_exact(launch_attribute::SIZE) {
        match launch_attribute::content(launch_attribute::id(attribute)) {
            Some(Content::Plain | Content::DeviceNode) => {}
            Some(Content::Event) => {
                let mut event = [0; 8];
                event.copy_from_slice(&attribute[launch_attribute::VALUE..launch_attribute::VALUE + 8]);
                handles::check_event(u64::from_le_bytes(event))?;
            }
            None => return Err(error::INVALID_VALUE),
        }
    }
    Ok(attributes)
}

/// CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, which only streams have.
const SYNCHRONIZATION_POLICY: u32 = 3;

/// Whether any launch can have these attributes.
fn sure(attributes: &[u8]) -> bool {
    attributes.chunks_exact(launch_attribute::SIZE).all(|attribute| {
        let id = launch_attribute::id(attribute);
        id != SYNCHRONIZATION_POLICY && launch_attribute::content(id) == Some(Content::Plain)
    })
}

/// Whether the launch is to be a node that the device may update, whose handle the driver writes.
fn updatable(attributes: &[u8]) -> bool {
    attributes.chunks_exact(launch_attribute::SIZE).any(|attribute| {
        launch_attribute::content(launch_attribute::id(attribute)) == Some(Content::DeviceNode)
            && attribute[launch_attribute::VALUE..launch_attribute::VALUE + 4] != [0; 4]
    })
}

/// `per_thread`: the `_ptsz` form, in which stream 0 of the configuration is the per-thread stream.
pub unsafe fn cuLaunchKernelEx(
    config: *const Blob8<56>,
    f: u64,
    kernelParams: *mut *mut c_void,
    extra: *mut *mut c_void,
    per_thread: bool,
) -> error::Result {
    // SAFETY: the program's pointer; a LaunchConfig has the size and alignment of the blob.
    let config = unsafe { config.cast::<LaunchConfig>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    let shape = Shape { grid: config.grid, block: config.block, shared: config.shared };
    // SAFETY: the program's array of attributes.
    let attributes = unsafe { attributes(config) }?;
    let stream = if per_thread { call::per_thread(config.stream) } else { config.stream };
    if handles::is_special_stream(stream) {
        context::require()?;
    }
    // SAFETY: the program's pointers.
    unsafe {
        let written = updatable(attributes).then_some(config.attributes.cast_mut());
        launch(f, shape, stream, &Arguments { list: kernelParams, extra }, attributes, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_gathered_at_their_offsets() {
        let layout: Vec<u8> = [0_u32, 4, 8, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
        let info = Info::new(c"k", &layout);
        let (mut a, mut b) = (0x0102_0304_u32, u64::MAX);
        let mut list = [(&raw mut a).cast::<c_void>(), (&raw mut b).cast::<c_void>()];
        let arguments = Arguments { list: list.as_mut_ptr(), extra: std::ptr::null_mut() };
        // SAFETY: a list of two parameters of the sizes given.
        let bytes = unsafe { arguments.with(info, |p| Ok(p.to_vec())) }.unwrap();
        assert_eq!(bytes, [4, 3, 2, 1, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        let none = Arguments { list: std::ptr::null_mut(), extra: std::ptr::null_mut() };
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { none.with(info, |_| Ok(())) }, Err(error::INVALID_VALUE));
    }

    #[test]
    fn an_extra_buffer_is_found_and_a_malformed_list_refused() {
        let data = [7_u8; 12];
        let mut size = data.len();
        let name = |n: usize| std::ptr::without_provenance_mut::<c_void>(n);
        let mut list = [name(1), data.as_ptr().cast_mut().cast(), name(2), (&raw mut size).cast(), name(0)];
        // SAFETY: a well-formed list.
        assert_eq!(unsafe { extra_buffer(list.as_mut_ptr()) }, Ok(&data[..]));
        list[0] = name(9);
        // SAFETY: nothing is read beyond the unknown name.
        assert_eq!(unsafe { extra_buffer(list.as_mut_ptr()) }, Err(error::INVALID_VALUE));
    }
}
