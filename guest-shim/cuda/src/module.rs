//! Modules. A module's words in the handle table: library it is the module of (or 0), context.

use crate::{
    call,
    call::put,
    calls, context, error,
    function::{self, Info, LAYOUT_ROOM},
    handles,
    image::{self, Image},
    jit::Options,
    memory,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_void},
    sync::{Mutex, PoisonError},
};
use vgpu_spec::handle::Kind;

/// (module, name) → function: the driver gives the same one each time.
static FUNCTIONS: Mutex<Option<HashMap<(u64, CString), u64>>> = Mutex::new(None);

fn load(place: *mut u64, image: &Image<'_>, mut options: Options) -> error::Result {
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let module = handles::create_with(Kind::Module, 0, context::current())?;
    let sent = image.share(|address, len| {
        options.ask(|o| {
            calls::vgpuModuleLoad(
                o.status,
                o.told,
                module,
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
        handles::remove(module);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(place, module) }
}

pub unsafe fn cuModuleLoadData(module: *mut u64, image: *mut c_void) -> error::Result {
    // SAFETY: the program's image.
    let image = unsafe { image::find(image.cast::<u8>()) }?;
    load(module, &image, Options::default())
}

pub unsafe fn cuModuleLoadDataEx(
    module: *mut u64,
    image: *mut c_void,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    // SAFETY: the program's image and options.
    let (image, options) = unsafe {
        (image::find(image.cast::<u8>())?, Options::new(numOptions as usize, options, optionValues)?)
    };
    load(module, &image, options)
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut u64, fatCubin: *mut c_void) -> error::Result {
    // SAFETY: as there.
    unsafe { cuModuleLoadData(module, fatCubin) }
}

pub unsafe fn cuModuleLoad(module: *mut u64, fname: *const c_char) -> error::Result {
    // SAFETY: the program's text.
    let path = unsafe { call::text(fname) }.ok_or(error::INVALID_VALUE)?;
    load(module, &Image::whole(&image::read(path)?), Options::default())
}

/// CU_MODULE_LAZY_LOADING is 2 and the default; CUDA_MODULE_LOADING=EAGER makes it 1.
pub unsafe fn cuModuleGetLoadingMode(mode: *mut u32) -> error::Result {
    let eager = std::env::var("CUDA_MODULE_LOADING").is_ok_and(|v| v == "EAGER");
    // SAFETY: the program's pointer.
    unsafe { put(mode, if eager { 1 } else { 2 }) }
}

pub unsafe fn cuModuleGetFunction(hfunc: *mut u64, hmod: u64, name: *const c_char) -> error::Result {
    handles::check_module(hmod)?;
    // SAFETY: the program's text.
    let name = unsafe { call::text(name) }.ok_or(error::INVALID_VALUE)?;
    let function = find_function(hmod, name)?;
    // SAFETY: the program's pointer.
    unsafe { put(hfunc, function) }
}

fn find_function(module: u64, name: &CStr) -> error::Result<u64> {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let functions = functions.get_or_insert_with(HashMap::new);
    let key = (module, name.to_owned());
    if let Some(&function) = functions.get(&key) {
        return Ok(function);
    }
    let (mut layout, mut len) = (vec![0; LAYOUT_ROOM], 0);
    let function = function::number(module, |number, offered| {
        calls::vgpuModuleGetFunction(number, offered, module, name, &mut layout, &mut len)
    })?;
    layout.truncate(usize::try_from(len).unwrap_or(0));
    function::set_info(function, module, Info::new(name, &layout))?;
    functions.insert(key, function);
    Ok(function)
}

/// The functions of a module: each found by its name, so that it is the one that cuModuleGetFunction gives.
pub fn functions(module: u64, most: u32) -> error::Result<Vec<u64>> {
    let mut count = 0;
    calls::cuModuleGetFunctionCount(&mut count, module)?;
    let names = function::all_names(count.min(most), |first, place, len| {
        calls::vgpuModuleFunctionNames(module, first, place, len)
    })?;
    names.iter().map(|name| find_function(module, name)).collect()
}

pub unsafe fn cuModuleEnumerateFunctions(functions: *mut u64, numFunctions: u32, mod_: u64) -> error::Result {
    handles::check_module(mod_)?;
    // SAFETY: the program's array.
    let places = unsafe { call::slice_mut(functions, numFunctions as usize) };
    let places = places.ok_or(error::INVALID_VALUE)?;
    for (place, function) in places.iter_mut().zip(self::functions(mod_, numFunctions)?) {
        *place = function;
    }
    Ok(())
}

/// Ends the functions of a module that ends.
pub fn forget_functions(module: u64) {
    function::forget_attributes();
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(functions) = functions.as_mut() {
        let mut ended = Vec::new();
        functions.retain(|key, function| {
            let keep = key.0 != module;
            if !keep {
                handles::remove(*function);
                ended.push(*function);
            }
            keep
        });
        function::ended(&ended);
    }
}

pub unsafe fn cuModuleUnload(hmod: u64) -> error::Result {
    handles::check_module(hmod)?;
    let result = calls::cuModuleUnload(hmod);
    forget_functions(hmod);
    memory::forget_module(hmod);
    handles::remove(hmod);
    result
}

/// Writes address and size of a variable where the program wants them, and remembers it as device memory.
///
/// # Safety
/// The places are NULL or valid for a write.
pub unsafe fn put_variable(
    owner: u64,
    address: u64,
    len: usize,
    dptr: *mut u64,
    bytes: *mut usize,
) -> error::Result {
    memory::insert_variable(owner, address, len);
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(place) = dptr.as_mut() {
            *place = address;
        }
        if let Some(place) = bytes.as_mut() {
            *place = len;
        }
    }
    Ok(())
}

/// As [`call::only_in_old_contexts`], but the module is looked at first (measured).
pub unsafe fn cuModuleGetGlobal(
    _dptr: *mut u32,
    _bytes: *mut u32,
    hmod: u64,
    _name: *const c_char,
) -> error::Result {
    handles::check_module(hmod)?;
    Err(error::INVALID_CONTEXT)
}

pub unsafe fn cuModuleGetGlobal_v2(
    dptr: *mut u64,
    bytes: *mut usize,
    hmod: u64,
    name: *const c_char,
) -> error::Result {
    handles::check_module(hmod)?;
    if dptr.is_null() && bytes.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's text.
    let name = unsafe { call::text(name) }.ok_or(error::INVALID_VALUE)?;
    let (mut address, mut len) = (0, 0);
    calls::cuModuleGetGlobal_v2(Some(&mut address), Some(&mut len), hmod, name)?;
    // SAFETY: the program's pointers.
    unsafe { put_variable(hmod, address, len, dptr, bytes) }
}
