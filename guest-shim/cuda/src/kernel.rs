//! Kernels of libraries.

use crate::{call::put, calls, context, device, error, function, handles};
use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};
use vgpu_spec::handle::Kind;

/// (kernel, context) → function: the driver gives the same one each time.
static FUNCTIONS: Mutex<Option<HashMap<(u64, u64), u64>>> = Mutex::new(None);

/// The function of a kernel in the current context.
pub fn function_of(kernel: u64) -> error::Result<u64> {
    let info = function::info(kernel)?;
    let key = (kernel, context::current());
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let functions = functions.get_or_insert_with(HashMap::new);
    if let Some(&function) = functions.get(&key).filter(|&&f| handles::check_callable(f).is_ok()) {
        return Ok(function);
    }
    let function =
        function::number(kernel, |number, offered| calls::vgpuKernelGetFunction(number, offered, kernel))?;
    function::set_info(function, kernel, info)?;
    functions.insert(key, function);
    Ok(function)
}

/// Ends the functions of a context that ends.
pub fn forget_context(context: u64) {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(functions) = functions.as_mut() else { return };
    let mut ended = Vec::new();
    functions.retain(|key, function| {
        let keep = key.1 != context;
        if !keep {
            handles::remove(*function);
            ended.push(*function);
        }
        keep
    });
    function::ended(&ended);
}

/// Ends the functions of kernels that end, and adds them to these.
pub fn forget_functions(kernels: &mut Vec<u64>) {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(functions) = functions.as_mut() else { return };
    let ended: Vec<u64> = kernels.clone();
    functions.retain(|key, function| {
        let keep = !ended.contains(&key.0);
        if !keep {
            handles::remove(*function);
            kernels.push(*function);
        }
        keep
    });
}

pub unsafe fn cuKernelGetFunction(pFunc: *mut u64, kernel: u64) -> error::Result {
    handles::check_kernel(kernel)?;
    let function = function_of(kernel)?;
    // SAFETY: the program's pointer.
    unsafe { put(pFunc, function) }
}

pub unsafe fn cuKernelGetName(name: *mut *mut c_void, hfunc: u64) -> error::Result {
    function::not_null(hfunc)?;
    handles::check_kernel(hfunc)?;
    // SAFETY: the program's pointer.
    unsafe { function::put_name(name, hfunc) }
}

pub unsafe fn cuKernelGetParamInfo(
    kernel: u64,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> error::Result {
    function::not_null(kernel)?;
    handles::check_kernel(kernel)?;
    // Unlike a function's, these are of the current context (measured).
    context::require()?;
    // SAFETY: the program's pointers.
    unsafe { function::parameter(function::info(kernel)?, paramIndex, paramOffset, paramSize) }
}

pub unsafe fn cuKernelGetLibrary(pLib: *mut u64, kernel: u64) -> error::Result {
    let (_, library) = handles::words(Kind::Kernel, kernel)?;
    // SAFETY: the program's pointer.
    unsafe { put(pLib, library) }
}

pub unsafe fn cuKernelSetAttribute(attrib: u32, val: i32, kernel: u64, dev: i32) -> error::Result {
    handles::check_kernel(kernel)?;
    calls::cuKernelSetAttribute(attrib, val, kernel, device::host_ordinal(dev)?)?;
    function::info(kernel)?.attribute_set(attrib, val);
    Ok(())
}
