//! Memory and events of other processes of the VM. A handle that programs pass on is a token (PROTOCOL.md 18): the driver's own stays on
//! the host.

use crate::{
    call::put,
    calls, context, error, event, handles,
    memory::{self, Origin},
    sharing::{self, Thing},
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::{handle::Kind, plain::Blob1, wire::share::Token};

/// How often memory of another process is open here, by the address that was given.
static OPEN: Mutex<Option<HashMap<u64, u32>>> = Mutex::new(None);

fn open() -> MutexGuard<'static, Option<HashMap<u64, u32>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub unsafe fn cuIpcGetMemHandle(pHandle: *mut Blob1<64>, dptr: u64) -> error::Result {
    if pHandle.is_null() || dptr == 0 {
        return Err(error::INVALID_VALUE);
    }
    let token = sharing::token(|low, high| calls::vgpuShareMemory(low, high, dptr))?;
    let base = memory::find(dptr).map_or(dptr, |block| block.base);
    sharing::remember(Thing::Memory(base), token);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pHandle, Blob1(token.to_handle())) }
}

pub unsafe fn cuIpcOpenMemHandle(pdptr: *mut u64, handle: Blob1<64>, Flags: u32) -> error::Result {
    // SAFETY: as there.
    unsafe { cuIpcOpenMemHandle_v2(pdptr, handle, Flags) }
}

/// Memory that is open already is counted, and has the same address.
pub unsafe fn cuIpcOpenMemHandle_v2(pdptr: *mut u64, handle: Blob1<64>, Flags: u32) -> error::Result {
    if pdptr.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let token = Token::from_handle(&handle.0).ok_or(error::INVALID_VALUE)?;
    // As the driver, which looks at the handle first.
    context::require()?;
    let mut open = open();
    let (mut address, mut base, mut size) = (0, 0, 0);
    calls::vgpuOpenMemory(&mut address, &mut base, &mut size, token.low, token.high, Flags)?;
    let count = open.get_or_insert_with(HashMap::new).entry(address).or_insert(0);
    // A context that ended closed what was open in it.
    if memory::find(base).is_none_or(|block| block.origin != Origin::Opened) {
        *count = 0;
        if !memory::claim(base, size) {
            vgpu_client::warn!(
                "memory of another process is at {base:#x}, where this process has memory of the host"
            );
            let _ = calls::cuIpcCloseMemHandle(address);
            open.as_mut().and_then(|all| all.remove(&address));
            return Err(error::MAP_FAILED);
        }
        memory::insert(base, size, Origin::Opened);
    }
    *count += 1;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pdptr, address) }
}

pub unsafe fn cuIpcCloseMemHandle(dptr: u64) -> error::Result {
    let mut open = open();
    calls::cuIpcCloseMemHandle(dptr)?;
    let Some(all) = open.as_mut() else { return Ok(()) };
    if let Some(count) = all.get_mut(&dptr) {
        *count -= 1;
        if *count == 0 {
            all.remove(&dptr);
            memory::remove_opened(dptr);
        }
    }
    Ok(())
}

pub unsafe fn cuIpcGetEventHandle(pHandle: *mut Blob1<64>, event: u64) -> error::Result {
    if pHandle.is_null() || event == 0 {
        return Err(error::INVALID_VALUE);
    }
    handles::check_event(event).map_err(|_| error::INVALID_HANDLE)?;
    let token = sharing::token(|low, high| calls::vgpuShareEvent(low, high, event))?;
    sharing::remember(Thing::Event(event), token);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pHandle, Blob1(token.to_handle())) }
}

pub unsafe fn cuIpcOpenEventHandle(phEvent: *mut u64, handle: Blob1<64>) -> error::Result {
    if phEvent.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let Some(token) = Token::from_handle(&handle.0) else {
        context::sticky_error()?;
        return Err(error::MAP_FAILED);
    };
    let opened = handles::create_with(Kind::Event, event::OF_ANOTHER_PROCESS, context::current())?;
    if let Err(status) = calls::vgpuOpenEvent(opened, token.low, token.high) {
        handles::remove(opened);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(phEvent, opened) }
}
