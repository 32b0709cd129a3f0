//! Libraries: images that are loaded into contexts when first used.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, OUT_OF_MEMORY, check},
    image::{Image, Wrapper},
    jit::{Options, Told},
    kernel::{kernel_layout, names},
    module::log_failure,
    thread::Thread,
};
use crate::worker::quota::Thing;
use std::{ffi::CStr, ptr::null_mut, sync::PoisonError};

/// Loads an image as a library. The driver's code is a result of its own, so that its logs come back with it.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLibraryLoad(
    t: &mut Thread,
    _: usize,
    library: u64,
    address: u64,
    len: usize,
    names: Option<Vec<u32>>,
    values: Option<Vec<u64>>,
    _n: usize,
    info: usize,
    _: usize,
    errors: usize,
    _: usize,
) -> Result<Told, CudaError> {
    let image = t.image(address, len)?;
    let mut options = Options::new(names, values, info, errors)?;
    let count = options.count()?;
    let load = t.driver.cuLibraryLoadData.ok_or(NOT_SUPPORTED)?;
    let wrapper = Wrapper::around(&image);
    let code = wrapper.as_ref().map_or(image.as_ptr().cast_mut().cast(), Wrapper::as_ptr);
    let mut real = 0_u64;
    // SAFETY: the image is private and its own lengths were checked against it; it outlives the call, and the driver copies
    // what it needs later, since CU_LIBRARY_BINARY_IS_PRESERVED is not passed.
    let load = || unsafe {
        load(&raw mut real, code, options.names(), options.values(), count, null_mut(), null_mut(), 0)
    };
    let (status, bytes) = t.measured(len, load);
    if status == 0 {
        if !t.hold(Thing::Library, real, bytes) {
            unload(t, real);
            return Ok(options.told(OUT_OF_MEMORY.0));
        }
        t.insert_library(library, real)?;
        t.set_silent(real, image.is_silent());
        if let Some(wrapper) = wrapper.filter(|_| image.is_linked()) {
            t.keep_image(library, Linked { _wrapper: wrapper, _image: image });
        }
    } else {
        log_failure("loading a library", status, options.error_text());
    }
    Ok(options.told(status))
}

/// Undoes the loading of a library that the VM may not have.
fn unload(t: &Thread, library: u64) {
    if let Some(unload) = t.driver.cuLibraryUnload {
        // SAFETY: just loaded, and nobody has been told of it.
        unsafe { unload(library) };
    }
}

/// An image of several fat binaries and the wrapper that the driver was given.
pub struct Linked {
    _wrapper: Wrapper,
    _image: Image,
}

impl Thread {
    /// Keeps an image for the life of its library. The driver may link its parts when a kernel is first used, and that it has copied all
    /// of them by then is said nowhere. What is kept for libraries that have ended goes with the next that is kept.
    fn keep_image(&self, library: u64, image: Linked) {
        let mut images = self.session.linked_images.lock().unwrap_or_else(PoisonError::into_inner);
        images.retain(|&library, _| self.library(library).is_ok());
        images.insert(library, image);
    }
}

/// Finds a kernel and its parameters' layout.
pub fn vgpuLibraryGetKernel(
    t: &mut Thread,
    kernel: u64,
    library: u64,
    name: &CStr,
    room: usize,
) -> Result<(Vec<u8>, u64), CudaError> {
    let get = t.driver.cuLibraryGetKernel.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call, a live library, a NUL-terminated name.
    check(unsafe { get(&raw mut real, library, name.as_ptr()) })?;
    t.insert_kernel(kernel, real)?;
    t.session.kernels.table.set_marked(kernel, t.is_silent(library));
    // The kernel is there all the same: it is asked again when its parameters are needed.
    Ok(kernel_layout(t, real, room).unwrap_or((Vec::new(), u64::MAX)))
}

/// Whether there is a managed variable of this name; where it is would be of no use to a guest.
pub fn vgpuLibraryFindManaged(t: &mut Thread, library: u64, name: &CStr) -> Result<(), CudaError> {
    let get = t.driver.cuLibraryGetManaged.ok_or(NOT_SUPPORTED)?;
    let (mut address, mut len) = (0_u64, 0_usize);
    // SAFETY: places that outlive the call, a live library, a NUL-terminated name.
    check(unsafe { get(&raw mut address, &raw mut len, library, name.as_ptr()) })
}

/// The module of a library in the current context.
pub fn vgpuLibraryGetModule(t: &mut Thread, module: u64, library: u64) -> Result<(), CudaError> {
    let get = t.driver.cuLibraryGetModule.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call, and a live library.
    check(unsafe { get(&raw mut real, library) })?;
    t.insert_module(module, real)
}

/// The names of a library's kernels from number `first` on, each with its NUL, as many as fit in `room` bytes.
pub fn vgpuLibraryKernelNames(
    t: &mut Thread,
    library: u64,
    first: u32,
    room: usize,
) -> Result<(Vec<u8>, u64), CudaError> {
    let count = t.driver.cuLibraryGetKernelCount.ok_or(NOT_SUPPORTED)?;
    let list = t.driver.cuLibraryEnumerateKernels.ok_or(NOT_SUPPORTED)?;
    let name = t.driver.cuKernelGetName.ok_or(NOT_SUPPORTED)?;
    let mut n = 0;
    // SAFETY: a live library, and a place for the number that outlives the call.
    check(unsafe { count(&raw mut n, library) })?;
    let mut kernels = vec![0_u64; n as usize];
    if n > 0 {
        // SAFETY: a live library, and as many places as the driver is told of.
        check(unsafe { list(kernels.as_mut_ptr(), n, library) })?;
    }
    // SAFETY: a kernel that the driver just gave, and a place for the name's address.
    names(&kernels, first, room, |kernel, place| unsafe { name(place, kernel) })
}
