//! Functions.

use std::ffi::c_char;
use std::sync::Arc;

use super::{Out, put, put_if_wanted};
use crate::model::function::{Entry, Function};
use crate::model::{CudaError, Result, state};

/// `CU_FUNCTION_LOADING_STATE_LOADED`.
const LOADED: u32 = 1;

/// A function (not a kernel), if its context has not failed.
fn find(function: u64) -> Result<Arc<Function>> {
    let state = state()?;
    let function = state.functions.get(function)?;
    state.contexts.get(function.context()).map_err(|_| CudaError::ContextIsDestroyed)?.core().check()?;
    Ok(function)
}

/// Writes a parameter's place. The offset must be wanted, the size may be.
pub(super) fn put_param(entry: &Entry, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) -> Result {
    let param = entry.param(index)?;
    let number = |number: u32| usize::try_from(number).map_err(|_| CudaError::InvalidValue);
    put(offset, number(param.offset)?)?;
    put_if_wanted(size, number(param.size)?);
    Ok(())
}

driver_api! {
    /// An attribute.
    fn cuFuncGetAttribute(value: Out<'_, i32>, attribute: u32, function: u64) {
        put(value, find(function)?.entry.attribute(attribute)?)
    }

    /// Sets an attribute that can be set.
    fn cuFuncSetAttribute(function: u64, attribute: u32, value: i32) {
        find(function)?.entry.set_attribute(attribute, value)
    }

    /// Checked, without effect.
    fn cuFuncSetCacheConfig(function: u64, config: u32) {
        find(function)?;
        if config > 3 { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// Checked, without effect.
    fn cuFuncSetSharedMemConfig(function: u64, config: u32) {
        find(function)?;
        if config > 2 { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// The function's mangled name, which lives as long as its module.
    fn cuFuncGetName(name: Out<'_, *const c_char>, function: u64) {
        put(name, find(function)?.entry.name().as_ptr())
    }

    /// The function's module.
    fn cuFuncGetModule(module: Out<'_, u64>, function: u64) {
        put(module, find(function)?.module())
    }

    /// Offset and size of a parameter: `INVALID_VALUE` behind the last, `INVALID_HANDLE` for a kernel.
    fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<'_, usize>, size: Out<'_, usize>) {
        put_param(&find(function)?.entry, index, offset, size)
    }

    /// Everything is loaded with its module.
    fn cuFuncIsLoaded(loading: Out<'_, u32>, function: u64) {
        find(function)?;
        put(loading, LOADED)
    }

    /// Everything is loaded with its module.
    fn cuFuncLoad(function: u64) {
        find(function).map(drop)
    }
}
