//! Memory and events of other processes.

use std::sync::Arc;

use super::{Out, put};
use crate::model::event::Event;
use crate::model::shared_file::HANDLE;
use crate::model::{CudaError, Result, current, ipc, state};

/// `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`, without which nothing is opened.
const LAZY_ENABLE_PEER_ACCESS: u32 = 1;

/// `CUipcMemHandle` and `CUipcEventHandle`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Handle([u8; HANDLE]);

fn open(address: Out<'_, u64>, handle: &Handle, flags: u32) -> Result {
    let context = current::working_context()?;
    let out = address.ok_or(CudaError::InvalidValue)?;
    if flags & LAZY_ENABLE_PEER_ACCESS == 0 {
        return Err(CudaError::InvalidValue);
    }
    out.write(state()?.opened.open(&handle.0, context.handle())?);
    Ok(())
}

driver_api! {
    /// A handle of memory of cuMemAlloc, the same for all addresses in it.
    fn cuIpcGetMemHandle(handle: Out<'_, Handle>, address: u64) {
        current::working_context()?;
        let out = handle.ok_or(CudaError::InvalidValue)?;
        out.write(Handle(ipc::export_memory(address, false)?));
        Ok(())
    }

    /// Opens another process's memory; again, it is the same address.
    fn cuIpcOpenMemHandle_v2(address: Out<'_, u64>, handle: Handle, flags: u32) {
        open(address, &handle, flags)
    }

    /// Opens another process's memory; again, it is the same address.
    fn cuIpcOpenMemHandle(address: Out<'_, u64>, handle: Handle, flags: u32) {
        open(address, &handle, flags)
    }

    /// Closes another process's memory.
    fn cuIpcCloseMemHandle(address: u64) {
        current::working_context()?;
        state()?.opened.close(address)
    }

    /// A handle of an event that was made for other processes.
    fn cuIpcGetEventHandle(handle: Out<'_, Handle>, event: u64) {
        current::working_context()?;
        if event == 0 {
            return Err(CudaError::InvalidValue);
        }
        put(handle, Handle(state()?.events.get(event)?.export()?))
    }

    /// Opens another process's event.
    fn cuIpcOpenEventHandle(event: Out<'_, u64>, handle: Handle) {
        let context = current::working_context()?;
        let out = event.ok_or(CudaError::InvalidValue)?;
        let event = Arc::new(Event::open(context.handle(), &handle.0)?);
        out.write(event.handle());
        state()?.events.insert(event.handle(), event);
        Ok(())
    }
}
