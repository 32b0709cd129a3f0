//! Modules: images come through a window and are copied once before anything looks at them.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_IMAGE, INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, check, complain},
    image::{Image, Wrapper},
    jit::{Options, Told},
    kernel::{layout, names},
    thread::Thread,
};
use crate::worker::quota::Thing;
use std::ffi::CStr;

impl Thread {
    /// A private, checked copy of the image at `address` in a window.
    pub fn image(&self, address: u64, len: usize) -> Result<Image, CudaError> {
        if !self.client.windows.contains(address, len as u64) {
            return Err(INVALID_VALUE);
        }
        Image::copy(address, len).map_err(|e| {
            complain(&e);
            INVALID_IMAGE
        })
    }
}

/// Loads an image into the current context. The driver's code is a result of its own, so that its logs come back with it.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuModuleLoad(
    t: &mut Thread,
    _: usize,
    module: u64,
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
    let load = t.driver.cuModuleLoadDataEx.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    let count = options.count()?;
    let wrapper = Wrapper::around(&image).filter(|_| image.is_linked());
    let code = wrapper.as_ref().map_or(image.as_ptr().cast_mut().cast(), Wrapper::as_ptr);
    // SAFETY: the image is private and its own lengths were checked against it; options and their buffers outlive the call.
    let load = || unsafe { load(&raw mut real, code, count, options.names(), options.values()) };
    let (status, bytes) = t.measured(len, load);
    if status == 0 {
        if !t.hold(Thing::Module, real, bytes) {
            unload(t, real);
            return Ok(options.told(OUT_OF_MEMORY.0));
        }
        t.insert_module(module, real)?;
        t.set_silent(real, image.is_silent());
    } else {
        log_failure("loading a module", status, options.error_text());
    }
    Ok(options.told(status))
}

pub fn log_failure(what: &str, status: u32, log: &[u8]) {
    let text = vgpu_spec::wire::snapshot::text(log);
    complain(&format_args!("{what}: error {status} {text}"));
}

/// Undoes the loading of a module that the VM may not have.
fn unload(t: &Thread, module: u64) {
    if let Some(unload) = t.driver.cuModuleUnload {
        // SAFETY: just loaded, and nobody has been told of it.
        unsafe { unload(module) };
    }
}

/// Text up to its NUL, which stays.
pub fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&b| b == 0).map_or(bytes.len(), |p| p + 1);
    bytes.truncate(end);
    bytes
}

/// Finds a function and its parameters' layout, so that launches need not ask.
pub fn vgpuModuleGetFunction(
    t: &mut Thread,
    function: u64,
    module: u64,
    name: &CStr,
    room: usize,
) -> Result<(u64, Vec<u8>, u64), CudaError> {
    let get = t.driver.cuModuleGetFunction.ok_or(NOT_SUPPORTED)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call, a live module, a NUL-terminated name.
    check(unsafe { get(&raw mut real, module, name.as_ptr()) })?;
    let number = t.function_number(real, function)?;
    t.session.functions.table.set_marked(number, t.is_silent(module));
    let Some(ask) = t.driver.cuFuncGetParamInfo else {
        return Err(NOT_SUPPORTED);
    };
    // SAFETY: a live function, and places that outlive the call.
    let (layout, len) = layout(room, |i, offset, size| unsafe { ask(real, i, offset, size) })?;
    Ok((number, layout, len))
}

/// The names of a module's functions from number `first` on, each with its NUL, as many as fit in `room` bytes.
pub fn vgpuModuleFunctionNames(
    t: &mut Thread,
    module: u64,
    first: u32,
    room: usize,
) -> Result<(Vec<u8>, u64), CudaError> {
    let count = t.driver.cuModuleGetFunctionCount.ok_or(NOT_SUPPORTED)?;
    let list = t.driver.cuModuleEnumerateFunctions.ok_or(NOT_SUPPORTED)?;
    let name = t.driver.cuFuncGetName.ok_or(NOT_SUPPORTED)?;
    let mut n = 0;
    // SAFETY: a live module, and a place for the number that outlives the call.
    check(unsafe { count(&raw mut n, module) })?;
    let mut functions = vec![0_u64; n as usize];
    if n > 0 {
        // SAFETY: a live module, and as many places as the driver is told of.
        check(unsafe { list(functions.as_mut_ptr(), n, module) })?;
    }
    // SAFETY: a function that the driver just gave, and a place for the name's address.
    names(&functions, first, room, |function, place| unsafe { name(place, function) })
}
