//! Memory and semaphores of other APIs, of which a client has none: the driver is asked with arguments that cannot be right, for what it
//! refuses before it looks at them. Nothing that a client names reaches it but a stream.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};
use vgpu_spec::plain::Blob8;

/// A description without a type, which is none of any API's.
pub fn vgpuImportNoExternal(t: &mut Thread, semaphore: u32) -> Result<(), CudaError> {
    let mut made = 0_u64;
    let status = if semaphore == 0 {
        let import = t.driver.cuImportExternalMemory.ok_or(NOT_SUPPORTED)?;
        let description = Blob8::<104>::default();
        // SAFETY: a private description, which has no type and no handle, and a place; both outlive the call.
        unsafe { import(&raw mut made, &raw const description) }
    } else {
        let import = t.driver.cuImportExternalSemaphore.ok_or(NOT_SUPPORTED)?;
        let description = Blob8::<96>::default();
        // SAFETY: as above.
        unsafe { import(&raw mut made, &raw const description) }
    };
    check(status)
}

pub fn vgpuDestroyNoExternal(t: &mut Thread, semaphore: u32) -> Result<(), CudaError> {
    let destroy =
        if semaphore == 0 { t.driver.cuDestroyExternalMemory } else { t.driver.cuDestroyExternalSemaphore };
    let destroy = destroy.ok_or(NOT_SUPPORTED)?;
    // SAFETY: NULL, which the driver refuses.
    check(unsafe { destroy(0) })
}

/// The arrays are there, but have no elements.
pub fn vgpuNoExternalSemaphoresAsync(t: &mut Thread, stream: u64, wait: u32) -> Result<(), CudaError> {
    let semaphores = [0_u64];
    let parameters = Blob8::<144>::default();
    let (semaphores, parameters) = (semaphores.as_ptr(), &raw const parameters);
    let call = if wait == 0 {
        t.driver.cuSignalExternalSemaphoresAsync
    } else {
        t.driver.cuWaitExternalSemaphoresAsync
    };
    let call = call.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live stream of this client; private arrays, of which nothing is to be read.
    check(unsafe { call(semaphores, parameters, 0, stream) })
}
