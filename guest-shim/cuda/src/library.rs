//! Libraries.

use crate::{
    call,
    call::put,
    calls, context, error,
    function::{self, Info, LAYOUT_ROOM},
    handles,
    image::{self, Image},
    jit::Options,
    memory, module,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_void},
    sync::{Mutex, PoisonError},
};
use vgpu_spec::handle::Kind;

#[derive(Default)]
struct Known {
    /// (library, name) → kernel.
    kernels: HashMap<(u64, CString), u64>,
    /// (library, context) → module.
    modules: HashMap<(u64, u64), u64>,
}

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

fn load(place: *mut u64, image: &Image<'_>, mut options: Options) -> error::Result {
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let library = handles::create(Kind::Library)?;
    let sent = image.share(|address, len| {
        options.ask(|o| {
            calls::vgpuLibraryLoad(
                o.status,
                o.told,
                library,
                address,
                len,
                o.names,
                o.values,
                o.count,
                o.info,
                o.info_room,
                o.errors,
                o.error_room,
            )
        })
    });
    if let Err(status) = sent {
        handles::remove(library);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(place, library) }
}

/// Library options only say how the caller keeps the image (CU_LIBRARY_BINARY_IS_PRESERVED, CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE):
/// the image is copied, so they change nothing. Their values may be NULL.
#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLibraryLoadData(
    library: *mut u64,
    code: *mut c_void,
    jitOptions: *mut u32,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: u32,
    _libraryOptions: *mut u32,
    _libraryOptionValues: *mut *mut c_void,
    _numLibraryOptions: u32,
) -> error::Result {
    // SAFETY: the program's image and options.
    let (image, options) = unsafe {
        (image::find(code.cast::<u8>())?, Options::new(numJitOptions as usize, jitOptions, jitOptionsValues)?)
    };
    load(library, &image, options)
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLibraryLoadFromFile(
    library: *mut u64,
    fileName: *const c_char,
    jitOptions: *mut u32,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: u32,
    _libraryOptions: *mut u32,
    _libraryOptionValues: *mut *mut c_void,
    _numLibraryOptions: u32,
) -> error::Result {
    // SAFETY: the program's text and options.
    let (path, options) = unsafe {
        let path = call::text(fileName).ok_or(error::INVALID_VALUE)?;
        (path, Options::new(numJitOptions as usize, jitOptions, jitOptionsValues)?)
    };
    load(library, &Image::whole(&image::read(path)?), options)
}

pub unsafe fn cuLibraryUnload(library: u64) -> error::Result {
    handles::check_library(library)?;
    let result = calls::cuLibraryUnload(library);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = known.as_mut() {
        let mut ended = Vec::new();
        known.kernels.retain(|key, kernel| {
            let keep = key.0 != library;
            if !keep {
                handles::remove(*kernel);
                ended.push(*kernel);
            }
            keep
        });
        crate::kernel::forget_functions(&mut ended);
        function::ended(&ended);
        known.modules.retain(|key, module| {
            let keep = key.0 != library;
            if !keep {
                module::forget_functions(*module);
                handles::remove(*module);
            }
            keep
        });
    }
    memory::forget_module(library);
    handles::remove(library);
    result
}

fn find_kernel(library: u64, name: &CStr) -> error::Result<u64> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let kernels = &mut known.get_or_insert_with(Known::default).kernels;
    let key = (library, name.to_owned());
    if let Some(&kernel) = kernels.get(&key) {
        return Ok(kernel);
    }
    let kernel = handles::create_with(Kind::Kernel, 0, library)?;
    let (mut layout, mut len) = (vec![0; LAYOUT_ROOM], 0);
    if let Err(status) = calls::vgpuLibraryGetKernel(kernel, library, name, &mut layout, &mut len) {
        handles::remove(kernel);
        return Err(status);
    }
    let info = match usize::try_from(len) {
        Ok(len) if len <= LAYOUT_ROOM => Info::new(name, &layout[..len]),
        _ => Info::without_parameters(name, kernel),
    };
    handles::set_word(kernel, 0, info.word());
    kernels.insert(key, kernel);
    Ok(kernel)
}

pub unsafe fn cuLibraryGetKernel(pKernel: *mut u64, library: u64, name: *const c_char) -> error::Result {
    // SAFETY: the program's text.
    let name = unsafe { call::text(name) }.ok_or(error::INVALID_VALUE)?;
    handles::check_library(library)?;
    let kernel = find_kernel(library, name)?;
    // SAFETY: the program's pointer.
    unsafe { put(pKernel, kernel) }
}

/// Each kernel is found by its name, so that it is the one that cuLibraryGetKernel gives.
pub unsafe fn cuLibraryEnumerateKernels(kernels: *mut u64, numKernels: u32, lib: u64) -> error::Result {
    handles::check_library(lib)?;
    // SAFETY: the program's array.
    let places = unsafe { call::slice_mut(kernels, numKernels as usize) };
    let places = places.ok_or(error::INVALID_VALUE)?;
    let mut count = 0;
    calls::cuLibraryGetKernelCount(&mut count, lib)?;
    let names = function::all_names(count.min(numKernels), |first, place, len| {
        calls::vgpuLibraryKernelNames(lib, first, place, len)
    })?;
    for (place, name) in places.iter_mut().zip(&names) {
        *place = find_kernel(lib, name)?;
    }
    Ok(())
}

/// No device has unified function pointers (its attribute says so), and then the driver takes no name.
pub unsafe fn cuLibraryGetUnifiedFunction(
    fptr: *mut *mut c_void,
    library: u64,
    symbol: *const c_char,
) -> error::Result {
    if library == 0 {
        return Err(error::INVALID_HANDLE);
    }
    // Measured: a device without unified functions refuses whatever is asked.
    let _ = (fptr, symbol);
    Err(error::INVALID_VALUE)
}

/// The module of a library in the current context.
pub fn module(library: u64) -> error::Result<u64> {
    handles::check_library(library)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let modules = &mut known.get_or_insert_with(Known::default).modules;
    let key = (library, context::current());
    if let Some(&module) = modules.get(&key).filter(|&&m| handles::check_module(m).is_ok()) {
        return Ok(module);
    }
    let module = handles::create_with(Kind::Module, library, key.1)?;
    if let Err(status) = calls::vgpuLibraryGetModule(module, library) {
        handles::remove(module);
        return Err(status);
    }
    modules.insert(key, module);
    Ok(module)
}

pub unsafe fn cuLibraryGetModule(pMod: *mut u64, library: u64) -> error::Result {
    handles::check_library(library)?;
    context::require()?;
    let module = module(library)?;
    // SAFETY: the program's pointer.
    unsafe { put(pMod, module) }
}

/// Where a `__managed__` variable would be: the driver puts those where no program of another process can reach them, so that one which
/// exists is refused. The other answers are the driver's; which places are wanted does not matter to it (measured).
pub unsafe fn cuLibraryGetManaged(
    _dptr: *mut u64,
    _bytes: *mut usize,
    library: u64,
    name: *const c_char,
) -> error::Result {
    handles::check_library(library)?;
    // SAFETY: the program's text.
    let name = unsafe { call::text(name) }.filter(|name| !name.is_empty()).ok_or(error::INVALID_VALUE)?;
    calls::vgpuLibraryFindManaged(library, name)?;
    vgpu_client::warn!("the managed variable {} is out of reach of this program", name.to_string_lossy());
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuLibraryGetGlobal(
    dptr: *mut u64,
    bytes: *mut usize,
    library: u64,
    name: *const c_char,
) -> error::Result {
    handles::check_library(library)?;
    if dptr.is_null() && bytes.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's text.
    let name = unsafe { call::text(name) }.ok_or(error::INVALID_VALUE)?;
    let (mut address, mut len) = (0, 0);
    calls::cuLibraryGetGlobal(Some(&mut address), Some(&mut len), library, name)?;
    // SAFETY: the program's pointers.
    unsafe { module::put_variable(library, address, len, dptr, bytes) }
}
