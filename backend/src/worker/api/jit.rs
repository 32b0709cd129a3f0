//! Options of the JIT compiler (CUjit_option).

use super::error::{CudaError, INVALID_VALUE, NOT_SUPPORTED};
use std::ffi::c_void;

/// CU_JIT_* options that carry a plain number; the others have buffers and are handled apart or refused.
mod option {
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
    /// Lists of names and addresses: GLOBAL_SYMBOL_* and REFERENCED_*.
    pub const LISTS: &[u32] = &[17, 18, 19, 25, 26, 27, 28];
}

/// Options as the driver wants them, with log buffers of this worker's own.
pub struct Options {
    names: Vec<u32>,
    values: Vec<u64>,
    pub info: Vec<u8>,
    pub errors: Vec<u8>,
}

impl Options {
    /// The guest's options; log buffers of `info` and `errors` bytes, none for 0.
    pub fn new(names: &[u32], values: &[u64], info: usize, errors: usize) -> Result<Self, CudaError> {
        if names.len() != values.len() {
            return Err(INVALID_VALUE);
        }
        let mut options =
            Options { names: Vec::new(), values: Vec::new(), info: vec![0; info], errors: vec![0; errors] };
        for (&name, &value) in names.iter().zip(values) {
            match name {
                option::WALL_TIME
                | option::INFO_LOG_BUFFER
                | option::INFO_LOG_BUFFER_SIZE_BYTES
                | option::ERROR_LOG_BUFFER
                | option::ERROR_LOG_BUFFER_SIZE_BYTES => {}
                _ if option::LISTS.contains(&name) => return Err(NOT_SUPPORTED),
                _ => options.push(name, value),
            }
        }
        if info > 0 {
            let place = options.info.as_mut_ptr() as u64;
            options.push(option::INFO_LOG_BUFFER, place);
            options.push(option::INFO_LOG_BUFFER_SIZE_BYTES, info as u64);
        }
        if errors > 0 {
            let place = options.errors.as_mut_ptr() as u64;
            options.push(option::ERROR_LOG_BUFFER, place);
            options.push(option::ERROR_LOG_BUFFER_SIZE_BYTES, errors as u64);
        }
        Ok(options)
    }

    fn push(&mut self, name: u32, value: u64) {
        self.names.push(name);
        self.values.push(value);
    }

    pub fn count(&self) -> Result<u32, CudaError> {
        u32::try_from(self.names.len()).map_err(|_| INVALID_VALUE)
    }

    /// The names, as CUjit_option*.
    pub fn names(&mut self) -> *mut u32 {
        self.names.as_mut_ptr()
    }

    /// The values, as void**.
    pub fn values(&mut self) -> *mut *mut c_void {
        self.values.as_mut_ptr().cast()
    }
}
