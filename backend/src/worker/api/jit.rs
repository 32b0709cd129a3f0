//! Options of the JIT compiler (CUjit_option).

use super::{
    dispatch::cut,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED},
    module::until_nul,
};
use std::ffi::c_void;

/// CU_JIT_* options that have buffers or results, or that are refused.
mod option {
    pub const THREADS_PER_BLOCK: u32 = 1;
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
    /// Lists of names and addresses: GLOBAL_SYMBOL_* and REFERENCED_*.
    pub const LISTS: &[u32] = &[17, 18, 19, 25, 26, 27, 28];
    /// SPLIT_COMPILE: the last option that is known. The value of a later one could be an address.
    pub const LAST: u32 = 34;
}

/// The largest log that a reply takes.
const MAX_LOG: usize = 128 << 10;

/// What a reply tells of options: the driver's code, the values of those with results, and both logs.
pub type Told = (u32, Vec<u32>, Vec<u8>, Vec<u8>);

/// Options as the driver wants them, with log buffers of this worker's own.
pub struct Options {
    names: Vec<u32>,
    values: Vec<u64>,
    info: Vec<u8>,
    errors: Vec<u8>,
}

impl Options {
    /// The guest's options; log buffers of `info` and `errors` bytes, none for 0.
    pub fn new(
        names: Option<Vec<u32>>,
        values: Option<Vec<u64>>,
        info: usize,
        errors: usize,
    ) -> Result<Self, CudaError> {
        let (names, values) = (names.unwrap_or_default(), values.unwrap_or_default());
        if names.len() != values.len() || info > MAX_LOG || errors > MAX_LOG {
            return Err(INVALID_VALUE);
        }
        let mut options =
            Options { names: Vec::new(), values: Vec::new(), info: vec![0; info], errors: vec![0; errors] };
        for (&name, &value) in names.iter().zip(&values) {
            match name {
                option::INFO_LOG_BUFFER
                | option::INFO_LOG_BUFFER_SIZE_BYTES
                | option::ERROR_LOG_BUFFER
                | option::ERROR_LOG_BUFFER_SIZE_BYTES => {}
                _ if option::LISTS.contains(&name) => return Err(NOT_SUPPORTED),
                _ if name > option::LAST => return Err(INVALID_VALUE),
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

    /// The 32 bits of an option's value that the driver may have changed; 0 if it was not given.
    fn result(&self, option: u32) -> u32 {
        let place = self.names.iter().position(|&name| name == option);
        place.and_then(|place| self.values.get(place)).map_or(0, |&value| value as u32)
    }

    /// What to tell after a call that gave `status`.
    pub fn told(&self, status: u32) -> Told {
        let results = [
            option::THREADS_PER_BLOCK,
            option::WALL_TIME,
            option::INFO_LOG_BUFFER_SIZE_BYTES,
            option::ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let log = |text: &Vec<u8>| cut(until_nul(text.clone()), text.len());
        (status, results.map(|o| self.result(o)).to_vec(), log(&self.info), log(&self.errors))
    }

    /// The error log, for this worker's own.
    pub fn error_text(&self) -> &[u8] {
        &self.errors
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
