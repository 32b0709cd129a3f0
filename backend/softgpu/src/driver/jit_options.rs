//! The options of loading: only the logs matter here.

use std::ffi::{c_char, c_void};

use super::array_at;
use crate::model::{CudaError, Result};

/// `CU_JIT_INFO_LOG_BUFFER`.
const INFO_LOG: u32 = 3;
/// `CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES`.
const INFO_LOG_SIZE: u32 = 4;
/// `CU_JIT_ERROR_LOG_BUFFER`.
const ERROR_LOG: u32 = 5;
/// `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
const ERROR_LOG_SIZE: u32 = 6;

/// `CU_JIT_SPLIT_COMPILE`, the last one of CUDA 13.0.
const LAST: u32 = 34;

/// Where the program wants the logs.
pub struct JitOptions<'a> {
    options: &'a [u32],
    values: *mut *mut c_void,
}

impl JitOptions<'_> {
    /// No options.
    pub fn none() -> JitOptions<'static> {
        JitOptions { options: &[], values: std::ptr::null_mut() }
    }

    /// The program's arrays of `count` options and values.
    ///
    /// # Safety
    /// Both must be NULL or have `count` elements and live as long as the result; log buffers must be as large as their
    /// size options say.
    pub unsafe fn new<'a>(
        options: *const u32,
        values: *mut *mut c_void,
        count: u32,
    ) -> Result<JitOptions<'a>> {
        let count = usize::try_from(count).map_err(|_| CudaError::InvalidValue)?;
        if count > 0 && values.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for the array.
        let options = unsafe { array_at(options, count) }?;
        if options.iter().any(|&option| option > LAST) {
            return Err(CudaError::InvalidValue);
        }
        Ok(JitOptions { options, values })
    }

    /// The log buffers' lengths, as the size options say before anything is written.
    pub fn capacities(&self) -> [u32; 2] {
        [INFO_LOG_SIZE, ERROR_LOG_SIZE].map(|size| {
            // SAFETY: a value for each option, for which the caller of `new` answers.
            self.place(size).map_or(0, |index| unsafe { self.values.add(index).cast::<u32>().read() })
        })
    }

    /// Says the log buffers' lengths again, which writing logs has replaced.
    pub fn set_capacities(&self, capacities: [u32; 2]) {
        for (size, capacity) in [INFO_LOG_SIZE, ERROR_LOG_SIZE].into_iter().zip(capacities) {
            if let Some(index) = self.place(size) {
                // SAFETY: as in `capacities`.
                unsafe { self.values.add(index).cast::<u32>().write(capacity) };
            }
        }
    }

    fn place(&self, wanted: u32) -> Option<usize> {
        self.options.iter().position(|option| *option == wanted)
    }

    /// Writes what went wrong, or nothing, to the logs, and how much into the size options.
    pub fn write_logs(&self, error: &str) {
        self.write_log(INFO_LOG, INFO_LOG_SIZE, "");
        self.write_log(ERROR_LOG, ERROR_LOG_SIZE, error);
    }

    fn write_log(&self, buffer: u32, size: u32, text: &str) {
        let (Some(buffer), Some(size)) = (self.place(buffer), self.place(size)) else { return };
        // SAFETY: both indices are of options, and there is a value for each; a buffer has as many bytes as the size
        // option says, for which the caller of `new` answers. The size is 32 bits of the value.
        unsafe {
            let start = self.values.add(buffer).read().cast::<c_char>();
            let size_place = self.values.add(size);
            let capacity = size_place.cast::<u32>().read();
            let room = usize::try_from(capacity).unwrap_or(0).saturating_sub(1);
            if start.is_null() || capacity == 0 {
                return;
            }
            let length = text.len().min(room);
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), start, length);
            start.add(length).write(0);
            size_place.cast::<u32>().write(u32::try_from(length).unwrap_or(0));
        }
    }
}
