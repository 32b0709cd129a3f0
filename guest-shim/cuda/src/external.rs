//! Memory and semaphores of other APIs. None can be had in a guest, so a program has no handle of one: what it passes is wrong, and the
//! driver says in which way. The worker asks it with arguments that cannot be right.

use crate::{calls, error, handles};
use vgpu_spec::plain::Blob8;

/// As the messages have it.
const MEMORY: u32 = 0;
const SEMAPHORE: u32 = 1;
pub const SIGNAL: u32 = 0;
pub const WAIT: u32 = 1;
/// The last of CUexternalMemoryHandleType, _DMABUF_FD, and of CUexternalSemaphoreHandleType, _TIMELINE_SEMAPHORE_WIN32; the first are 1.
const LAST_MEMORY: u32 = 9;
const LAST_SEMAPHORE: u32 = 10;

/// Refuses an import: what the driver would refuse as the driver does, and otherwise since there is nothing to import.
fn import(what: u32, kind: Option<u32>, last: u32) -> error::Result {
    match calls::vgpuImportNoExternal(what) {
        Ok(()) | Err(error::INVALID_VALUE) => {}
        refused => return refused,
    }
    match kind {
        Some(kind) if (1..=last).contains(&kind) => Err(error::NOT_SUPPORTED),
        _ => Err(error::INVALID_VALUE),
    }
}

/// The type in a description of what is to be imported; `None` without a description or without a place for the handle.
///
/// # Safety
/// The description is NULL or valid.
unsafe fn kind<const N: usize>(place: *mut u64, description: *const Blob8<N>) -> Option<u32> {
    if place.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; the type is the first member.
    unsafe { description.cast::<u32>().as_ref() }.copied()
}

pub unsafe fn cuImportExternalMemory(
    extMem_out: *mut u64,
    memHandleDesc: *const Blob8<104>,
) -> error::Result {
    // SAFETY: the program's pointers.
    import(MEMORY, unsafe { kind(extMem_out, memHandleDesc) }, LAST_MEMORY)
}

pub unsafe fn cuImportExternalSemaphore(
    extSem_out: *mut u64,
    semHandleDesc: *const Blob8<96>,
) -> error::Result {
    // SAFETY: the program's pointers.
    import(SEMAPHORE, unsafe { kind(extSem_out, semHandleDesc) }, LAST_SEMAPHORE)
}

pub unsafe fn cuDestroyExternalMemory(_: u64) -> error::Result {
    calls::vgpuDestroyNoExternal(MEMORY)
}

pub unsafe fn cuDestroyExternalSemaphore(_: u64) -> error::Result {
    calls::vgpuDestroyNoExternal(SEMAPHORE)
}

pub unsafe fn cuExternalMemoryGetMappedBuffer(
    _: *mut u64,
    extMem: u64,
    _: *const Blob8<88>,
) -> error::Result {
    handles::check_externalmemory(extMem)?;
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuExternalMemoryGetMappedMipmappedArray(
    _: *mut u64,
    extMem: u64,
    _: *const Blob8<120>,
) -> error::Result {
    handles::check_externalmemory(extMem)?;
    Err(error::NOT_SUPPORTED)
}

/// Whatever is in the arrays is no semaphore; before that the driver looks at the stream.
fn semaphores(stream: u64, wait: u32) -> error::Result {
    handles::check_stream(stream)?;
    calls::vgpuNoExternalSemaphoresAsync(stream, wait)
}

pub unsafe fn cuSignalExternalSemaphoresAsync(
    _: *const u64,
    _: *const Blob8<144>,
    _: u32,
    stream: u64,
) -> error::Result {
    semaphores(stream, SIGNAL)
}

pub unsafe fn cuWaitExternalSemaphoresAsync(
    _: *const u64,
    _: *const Blob8<144>,
    _: u32,
    stream: u64,
) -> error::Result {
    semaphores(stream, WAIT)
}
