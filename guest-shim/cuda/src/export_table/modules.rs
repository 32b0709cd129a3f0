//! Modules: the functions of a module, which cuFFT takes from a callback.

use std::ffi::c_void;

use super::slot::{Slot, Table, Uuid};
use super::{host, log, resolve_context};

pub const ID: Uuid = Uuid::new("6e163fbe-b958-444d-835c-e182aff1991e");

pub static TABLE: Table<99> = Table::sized::<{ ID.prefix() }>(&[(7, for_each_function as Slot)]);

/// cuFFT's returns nothing, so what it leaves in the result register must not be looked at.
type Visit = unsafe extern "C" fn(user: *mut c_void, function: u64);

/// Calls `visit` for each function of a module and returns their number. There is no error to return: 0 means
/// that nothing was visited. cuFFT's modules have one function each, and it accepts no other number.
///
/// # Safety
/// `visit` must be a function that may be called with `user`.
unsafe extern "C" fn for_each_function(
    context: u64,
    module: u64,
    visit: Option<Visit>,
    user: *mut c_void,
) -> u32 {
    let Some(visit) = visit else { return 0 };
    let functions = match functions(context, module) {
        Ok(functions) => functions,
        Err(error) => {
            log(&format!("listing the functions of module {module:#x} for a library: error {error}"));
            return 0;
        }
    };
    for &function in &functions {
        // SAFETY: as the caller promises.
        unsafe { visit(user, function) };
    }
    u32::try_from(functions.len()).unwrap_or(u32::MAX)
}

fn functions(context: u64, module: u64) -> Result<Vec<u64>, u32> {
    host()?.module_functions(resolve_context(context)?, module)
}
