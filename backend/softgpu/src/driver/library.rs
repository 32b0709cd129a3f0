//! Libraries.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::jit_options::JitOptions;
use super::module::{code_at, code_in_file};
use super::{Out, name_at, put, put_array, put_if_wanted};
use crate::model::graph::forbid_unsafe;
use crate::model::library::Library;
use crate::model::{CudaError, current, state};

driver_api! {
    /// Reads PTX text, a fatbin or nvcc's wrapper of one. Library options are not needed: the image is copied.
    fn cuLibraryLoadData(
        library: Out<'_, u64>, code: u64,
        options: *const u32, values: *mut *mut c_void, count: u32,
        _library_options: *const u32, _library_values: *const *mut c_void, _library_count: u32
    ) {
        state()?;
        let out = library.ok_or(CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the options and the image.
        let code = unsafe { code_at(code, &JitOptions::new(options, values, count)?) }?;
        out.write(Library::load(code)?.handle());
        Ok(())
    }

    /// Reads a file.
    fn cuLibraryLoadFromFile(
        library: Out<'_, u64>, path: *const c_char,
        options: *const u32, values: *mut *mut c_void, count: u32,
        _library_options: *const u32, _library_values: *const *mut c_void, _library_count: u32
    ) {
        state()?;
        let out = library.ok_or(CudaError::InvalidValue)?;
        // SAFETY: the caller answers for the string and the options.
        let (path, options) = unsafe { (name_at(path)?, JitOptions::new(options, values, count)?) };
        out.write(Library::load(code_in_file(path, &options)?)?.handle());
        Ok(())
    }

    /// Unloads a library from all contexts, once nothing uses it.
    fn cuLibraryUnload(library: u64) {
        forbid_unsafe()?;
        let library: Arc<Library> = state()?.libraries.get(library)?;
        // With a context, its work may still use the library; without one, there is none.
        if let Ok(context) = current::context() {
            let _ = context.synchronize();
        }
        library.unload()
    }

    /// A kernel by its name: `NOT_FOUND` if there is none.
    fn cuLibraryGetKernel(kernel: Out<'_, u64>, library: u64, name: *const c_char) {
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        let library = state()?.libraries.get(library)?;
        put(kernel, library.kernel(name).ok_or(CudaError::NotFound)?.handle())
    }

    /// How many kernels a library has.
    fn cuLibraryGetKernelCount(count: Out<'_, u32>, library: u64) {
        put(count, u32::try_from(state()?.libraries.get(library)?.kernels().len()).unwrap_or(u32::MAX))
    }

    /// The first `count` kernels of a library.
    fn cuLibraryEnumerateKernels(kernels: *mut u64, count: u32, library: u64) {
        let library = state()?.libraries.get(library)?;
        let count = usize::try_from(count).map_err(|_| CudaError::InvalidValue)?;
        // SAFETY: the caller answers for room for `count` handles.
        unsafe { put_array(kernels, count, library.kernels().iter().map(|kernel| kernel.handle())) }
    }

    /// The library's module in the current context.
    fn cuLibraryGetModule(module: Out<'_, u64>, library: u64) {
        let context = current::working_context()?;
        put(module, state()?.libraries.get(library)?.module_in(&context)?.handle())
    }

    /// A managed variable by its name: there is none, as loading one is refused.
    fn cuLibraryGetManaged(_address: Out<'_, u64>, _bytes: Out<'_, usize>, library: u64, name: *const c_char) {
        // SAFETY: the caller answers for the string.
        unsafe { name_at(name) }?;
        state()?.libraries.get(library)?;
        Err(CudaError::NotFound)
    }

    /// A variable by its name, in the current context.
    fn cuLibraryGetGlobal(address: Out<'_, u64>, bytes: Out<'_, usize>, library: u64, name: *const c_char) {
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        let context = current::working_context()?;
        let module = state()?.libraries.get(library)?.module_in(&context)?;
        let (start, size) = module.variable(name).ok_or(CudaError::NotFound)?;
        if address.is_none() && bytes.is_none() {
            return Err(CudaError::InvalidValue);
        }
        put_if_wanted(address, start);
        put_if_wanted(bytes, usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }
}
