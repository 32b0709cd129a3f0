//! Memory and semaphores of other APIs, of which there are none: what is wrong is refused in the order of NVIDIA's driver.

use std::ffi::c_void;

use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result, current, state};

/// What a stream would do, if its context can do anything.
fn none_in(default: DefaultStream, stream: u64) -> Result {
    let (context, _) = special_stream::find(stream, default)?;
    context.core().check()?;
    Err(CudaError::InvalidValue)
}

driver_api! {
    /// Imports memory: none.
    fn cuImportExternalMemory(_out: *mut u64, _description: *const c_void) {
        current::working_context()?;
        Err(CudaError::InvalidValue)
    }

    /// Imports a semaphore: none.
    fn cuImportExternalSemaphore(_out: *mut u64, _description: *const c_void) {
        current::working_context()?;
        Err(CudaError::InvalidValue)
    }

    /// Ends imported memory, which nothing is.
    fn cuDestroyExternalMemory(_memory: u64) {
        state()?;
        Err(CudaError::InvalidValue)
    }

    /// Ends an imported semaphore, which nothing is.
    fn cuDestroyExternalSemaphore(_semaphore: u64) {
        state()?;
        Err(CudaError::InvalidValue)
    }
}

stream_api! {
    /// Signals semaphores: none.
    fn cuSignalExternalSemaphoresAsync | cuSignalExternalSemaphoresAsync_ptsz(
        default; _semaphores: *const u64, _params: *const c_void, _count: u32, stream: u64
    ) {
        none_in(default, stream)
    }

    /// Waits for semaphores: none.
    fn cuWaitExternalSemaphoresAsync | cuWaitExternalSemaphoresAsync_ptsz(
        default; _semaphores: *const u64, _params: *const c_void, _count: u32, stream: u64
    ) {
        none_in(default, stream)
    }
}
