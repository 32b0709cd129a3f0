//! Error names and texts.

use std::ffi::c_char;

use super::{Out, put};
use crate::model::CudaError;
use crate::model::error::describe;

driver_api! {
    /// The name of a `CUresult`. Unknown: NULL and `INVALID_VALUE`.
    fn cuGetErrorName(error: u32, text: Out<'_, *const c_char>) {
        let described = describe(error);
        put(text, described.map_or(std::ptr::null(), |(name, _)| name.as_ptr()))?;
        described.map(drop).ok_or(CudaError::InvalidValue)
    }

    /// What a `CUresult` means. Unknown: NULL and `INVALID_VALUE`.
    fn cuGetErrorString(error: u32, text: Out<'_, *const c_char>) {
        let described = describe(error);
        put(text, described.map_or(std::ptr::null(), |(_, text)| text.as_ptr()))?;
        described.map(drop).ok_or(CudaError::InvalidValue)
    }
}
