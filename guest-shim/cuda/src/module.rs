//! Modules. A module's words in the handle table: library it is the module of (or 0), context.

use crate::{
    call,
    call::put,
    calls, context, error,
    function::{self, Info},
    handles, image, memory,
};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_char, c_void},
    slice,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::handle::Kind;

/// The most bytes of a layout: the room that the message has.
pub const LAYOUT_ROOM: usize = 32768;
/// The most bytes of a log that fit in a reply.
const LOG_ROOM: usize = 96 << 10;

/// (module, name) → function: the driver gives the same one each time.
static FUNCTIONS: Mutex<Option<HashMap<(u64, CString), u64>>> = Mutex::new(None);

/// CUjit_option values that point to the program's buffers.
mod jit {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
}

/// The options of a load, taken apart.
#[derive(Default)]
pub struct Options {
    pub names: Vec<u32>,
    pub values: Vec<u64>,
    info: Log,
    errors: Log,
}

#[derive(Default)]
struct Log {
    place: u64,
    room: usize,
    text: Vec<u8>,
    /// Where the program's value is, which becomes the length written.
    size_value: Option<*mut *mut c_void>,
}

impl Log {
    fn prepare(&mut self) {
        let room = if self.place == 0 { 0 } else { self.room.min(LOG_ROOM) };
        self.text = vec![0; room];
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        (!self.text.is_empty()).then_some(&mut self.text[..])
    }

    /// Writes text and NUL to the program's buffer, and the text's length to its option's value.
    fn deliver(&self) {
        let len = self.text.iter().position(|&b| b == 0).unwrap_or(self.text.len().saturating_sub(1));
        if self.room > 0 && self.place != 0 {
            let place = std::ptr::with_exposed_provenance_mut::<u8>(self.place as usize);
            // SAFETY: the program's buffer of `room` bytes; `len` is below both.
            unsafe {
                std::ptr::copy_nonoverlapping(self.text.as_ptr(), place, len);
                place.add(len).write(0);
            }
        }
        if let Some(value) = self.size_value {
            // SAFETY: an element of the program's array of values.
            unsafe { value.write(std::ptr::without_provenance_mut(len)) };
        }
    }
}

impl Options {
    /// # Safety
    /// The arrays have `count` elements, and buffers are as their sizes say.
    pub unsafe fn new(count: usize, names: *mut u32, values: *mut *mut c_void) -> error::Result<Self> {
        let mut options = Options::default();
        if count == 0 {
            return Ok(options);
        }
        if names.is_null() || values.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let (names, list) =
            unsafe { (slice::from_raw_parts(names, count), slice::from_raw_parts(values, count)) };
        for (i, (&name, &value)) in names.iter().zip(list).enumerate() {
            let number = value.expose_provenance() as u64;
            // SAFETY: within the array.
            let place = unsafe { values.add(i) };
            match name {
                jit::WALL_TIME => {
                    // SAFETY: within the array. The value is a float in milliseconds; compiling is the host's.
                    unsafe { place.write(std::ptr::null_mut()) };
                }
                jit::INFO_LOG_BUFFER => options.info.place = number,
                jit::ERROR_LOG_BUFFER => options.errors.place = number,
                // The values are unsigned int, in pointers.
                jit::INFO_LOG_BUFFER_SIZE_BYTES => {
                    (options.info.room, options.info.size_value) = (number as u32 as usize, Some(place));
                }
                jit::ERROR_LOG_BUFFER_SIZE_BYTES => {
                    (options.errors.room, options.errors.size_value) = (number as u32 as usize, Some(place));
                }
                _ => {
                    options.names.push(name);
                    options.values.push(number);
                }
            }
        }
        options.info.prepare();
        options.errors.prepare();
        Ok(options)
    }
}

fn load(place: *mut u64, image: &[u8], mut options: Options) -> error::Result {
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let module = handles::create_with(Kind::Module, 0, context::current())?;
    let mut status = 0;
    let (info_room, error_room) = (options.info.text.len(), options.errors.text.len());
    let count = options.names.len();
    let sent = image::share(image, |address| {
        calls::vgpuModuleLoad(
            &mut status,
            module,
            address,
            image.len(),
            &options.names,
            &options.values,
            count,
            options.info.buffer(),
            info_room,
            options.errors.buffer(),
            error_room,
        )
    });
    options.info.deliver();
    options.errors.deliver();
    if let Err(status) = sent.and(if status == 0 { Ok(()) } else { Err(status) }) {
        handles::remove(module);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(place, module) }
}

pub unsafe fn cuModuleLoadData(module: *mut u64, image: *mut c_void) -> error::Result {
    // SAFETY: the program's image.
    let bytes = unsafe { image::find(image.cast::<u8>()) }?;
    load(module, bytes, Options::default())
}

pub unsafe fn cuModuleLoadDataEx(
    module: *mut u64,
    image: *mut c_void,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    // SAFETY: the program's image and options.
    let (bytes, options) = unsafe {
        (image::find(image.cast::<u8>())?, Options::new(numOptions as usize, options, optionValues)?)
    };
    load(module, bytes, options)
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut u64, fatCubin: *mut c_void) -> error::Result {
    // SAFETY: as there.
    unsafe { cuModuleLoadData(module, fatCubin) }
}

pub unsafe fn cuModuleLoad(module: *mut u64, fname: *const c_char) -> error::Result {
    // SAFETY: the program's text.
    let path = unsafe { call::text(fname) }.ok_or(error::INVALID_VALUE)?;
    load(module, &image::read(path)?, Options::default())
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
