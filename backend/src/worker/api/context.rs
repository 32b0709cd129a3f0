//! Contexts other than primary ones.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, NOT_SUPPORTED, check},
    thread::Thread,
};

/// CU_CTX_COREDUMP_ENABLE and CU_CTX_USER_COREDUMP_ENABLE: the driver would write files for the guest.
pub const COREDUMP: u32 = 0x20 | 0x40;

/// Creates a context; the driver makes it current to this thread, as the shim does in the guest.
pub fn vgpuContextCreate(t: &mut Thread, context: u64, flags: u32, device: i32) -> Result<(), CudaError> {
    let create = t.driver.cuCtxCreate_v2.ok_or(NOT_SUPPORTED)?;
    let flags = flags & !COREDUMP;
    let mut real = 0_u64;
    // SAFETY: a place for the handle that outlives the call.
    check(unsafe { create(&raw mut real, flags, device) })?;
    t.forget_context();
    t.insert_context(context, real)
}

/// Destroys a context.
pub fn vgpuContextDestroy(t: &mut Thread, context: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuCtxDestroy_v2.ok_or(NOT_SUPPORTED)?;
    t.forget_context();
    t.session.turns.forget_context(context);
    // SAFETY: a live context of this client, just taken out of the table.
    check(unsafe { destroy(context) })?;
    t.forget_objects(context);
    Ok(())
}

impl Thread {
    /// The driver's context that is current; 0 for none.
    pub fn current_context(&self) -> u64 {
        self.session.context_at(self.context_index()).unwrap_or(0)
    }

    /// Ends the numbers of what ended with the driver's context, so that the driver is not asked about it any more.
    pub fn forget_objects(&self, context: u64) {
        self.forget_memory(context);
        self.forget_arrays(context);
        self.forget_context_references(context);
        self.session.textures.forget_context(context);
        self.session.surfaces.forget_context(context);
    }
}
