//! Modules.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::jit_options::JitOptions;
use super::{Out, name_at, put, put_array, put_if_wanted};
use crate::image::{self, ImageError};
use crate::model::graph::forbid_unsafe;
use crate::model::module::{Code, Module};
use crate::model::{CudaError, Result, current, state};

/// `CU_MODULE_LAZY_LOADING`.
const LAZY: u32 = 2;
/// `CU_MODULE_EAGER_LOADING`.
const EAGER: u32 = 1;

/// Reads the image at `address` and checks its PTX; what is wrong goes to the log.
///
/// # Safety
/// `address` must be 0 or that of an image.
pub(super) unsafe fn code_at(address: u64, options: &JitOptions<'_>) -> Result<Arc<Code>> {
    if address == 0 {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the caller answers for the image.
    code_of(unsafe { image::ptx_at(address) }, options)
}

/// Reads an image from a file; `FILE_NOT_FOUND` if there is none.
pub(super) fn code_in_file(path: &str, options: &JitOptions<'_>) -> Result<Arc<Code>> {
    let contents = std::fs::read(path).map_err(|_| CudaError::FileNotFound)?;
    code_of(image::ptx_in(contents), options)
}

fn code_of(source: std::result::Result<String, ImageError>, options: &JitOptions<'_>) -> Result<Arc<Code>> {
    let source = source.map_err(|error| {
        options.write_logs(&error.to_string());
        CudaError::from(&error)
    })?;
    let code = Code::parse(&source).map_err(|error| {
        options.write_logs(&error);
        CudaError::InvalidPtx
    })?;
    options.write_logs("");
    Ok(code)
}

/// # Safety
/// `image` must be NULL or point to an image, and its options must be as CUDA asks.
unsafe fn load(module: Out<'_, u64>, image: u64, options: &JitOptions<'_>) -> Result {
    let context = current::working_context()?;
    let out = module.ok_or(CudaError::InvalidValue)?;
    // SAFETY: the caller answers for the image.
    let code = unsafe { code_at(image, options) }?;
    out.write(Module::load(&code, &context, false)?.handle());
    Ok(())
}

/// A module, if its context has not failed.
pub(super) fn find(module: u64) -> Result<Arc<Module>> {
    let state = state()?;
    let module = state.modules.get(module)?;
    state.contexts.get(module.context()).map_err(|_| CudaError::ContextIsDestroyed)?.core().check()?;
    Ok(module)
}

driver_api! {
    /// Loads PTX text or a fatbin.
    fn cuModuleLoadData(module: Out<'_, u64>, image: u64) {
        // SAFETY: the caller answers for the image.
        unsafe { load(module, image, &JitOptions::none()) }
    }

    /// Loads PTX text or a fatbin. Of the options, the error log is filled.
    fn cuModuleLoadDataEx(
        module: Out<'_, u64>, image: u64, count: u32, options: *const u32, values: *mut *mut c_void
    ) {
        // SAFETY: the caller answers for the options and the image.
        unsafe { load(module, image, &JitOptions::new(options, values, count)?) }
    }

    /// Loads a fatbin.
    fn cuModuleLoadFatBinary(module: Out<'_, u64>, image: u64) {
        // SAFETY: the caller answers for the image.
        unsafe { load(module, image, &JitOptions::none()) }
    }

    /// Loads a file.
    fn cuModuleLoad(module: Out<'_, u64>, path: *const c_char) {
        let context = current::working_context()?;
        let out = module.ok_or(CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the string.
        let path = unsafe { name_at(path) }?;
        let code = code_in_file(path, &JitOptions::none())?;
        out.write(Module::load(&code, &context, false)?.handle());
        Ok(())
    }

    /// Unloads a module once nothing uses it. A library's goes with its library: `NOT_PERMITTED`.
    fn cuModuleUnload(module: u64) {
        forbid_unsafe()?;
        let module = find(module)?;
        if module.is_of_library() {
            return Err(CudaError::NotPermitted);
        }
        state()?.contexts.get(module.context())?.synchronize()?;
        module.unload()
    }

    /// A function by its name: `NOT_FOUND` if there is none.
    fn cuModuleGetFunction(function: Out<'_, u64>, module: u64, name: *const c_char) {
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        put(function, find(module)?.function(name).ok_or(CudaError::NotFound)?.handle())
    }

    /// A variable by its name: `NOT_FOUND` if there is none.
    fn cuModuleGetGlobal_v2(address: Out<'_, u64>, bytes: Out<'_, usize>, module: u64, name: *const c_char) {
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        let (start, size) = find(module)?.variable(name).ok_or(CudaError::NotFound)?;
        if address.is_none() && bytes.is_none() {
            return Err(CudaError::InvalidValue);
        }
        put_if_wanted(address, start);
        put_if_wanted(bytes, usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }

    /// `CUDA_MODULE_LOADING`, lazy unless it says EAGER.
    fn cuModuleGetLoadingMode(mode: Out<'_, u32>) {
        state()?;
        let is_eager = std::env::var("CUDA_MODULE_LOADING").is_ok_and(|mode| mode == "EAGER");
        put(mode, if is_eager { EAGER } else { LAZY })
    }

    /// How many functions a module has.
    fn cuModuleGetFunctionCount(count: Out<'_, u32>, module: u64) {
        put(count, u32::try_from(find(module)?.functions().len()).unwrap_or(u32::MAX))
    }

    /// The first `count` functions of a module.
    fn cuModuleEnumerateFunctions(functions: *mut u64, count: u32, module: u64) {
        let module = find(module)?;
        let count = usize::try_from(count).map_err(|_| CudaError::InvalidValue)?;
        // SAFETY: the caller answers for room for `count` handles.
        unsafe { put_array(functions, count, module.functions().iter().map(|function| function.handle())) }
    }
}
