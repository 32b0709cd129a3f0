//! Pinned host memory: blocks of windows, so that the device reaches it at the same address and at full speed. Memory that the program
//! registered ([`crate::host_register`]) is known here too.

use crate::{call::put, capture, client, context, error, memory};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};

/// CU_MEMHOSTALLOC_PORTABLE | _DEVICEMAP | _WRITECOMBINED. All memory of windows is portable and mapped; write-combining is a hint.
const FLAGS: u32 = 0x1 | 0x2 | 0x4;
const DEVICEMAP: u32 = 0x2;
const PAGE: u64 = 4096;
/// A block that the program was given, or registered.
#[derive(Debug, Clone, Copy)]
pub struct Pinned {
    pub base: u64,
    pub len: u64,
    pub flags: u32,
    pub context: u64,
    pub registered: bool,
    /// Registered for reading only.
    pub read_only: bool,
    /// As that of device memory.
    pub id: u64,
}

static BLOCKS: Mutex<BTreeMap<u64, Pinned>> = Mutex::new(BTreeMap::new());

/// The block in which `address` lies.
pub fn find(address: u64) -> Option<Pinned> {
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, block) = blocks.range(..=address).next_back()?;
    (address - block.base < block.len).then_some(*block)
}

/// Remembers registered memory.
pub fn insert_registered(base: u64, len: u64, flags: u32, read_only: bool) {
    let block = Pinned {
        base,
        len,
        flags,
        context: context::current(),
        registered: true,
        read_only,
        id: memory::new_id(),
    };
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).insert(base, block);
}

/// Forgets registered memory.
pub fn remove_registered(base: u64) {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).remove(&base);
}

/// A block that `[start, end)` meets.
pub fn meeting(start: u64, end: u64) -> Option<Pinned> {
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, block) = blocks.range(..end).next_back()?;
    (block.base + block.len > start).then_some(*block)
}

/// Whether `[address, address + len)` is pinned or managed memory, which is in windows.
pub fn holds(address: u64, len: u64) -> bool {
    find(address).is_some_and(|b| len <= b.len - (address - b.base))
        || memory::managed(address, len).is_some()
}

fn allocate(pp: *mut *mut c_void, len: usize, flags: u32) -> error::Result {
    if pp.is_null() || flags & !FLAGS != 0 {
        return Err(error::INVALID_VALUE);
    }
    // Measured: nothing is a block at NULL, and what is too much is too much memory.
    if len == 0 {
        // SAFETY: checked above; the program's pointer.
        return unsafe { put(pp, std::ptr::null_mut()) };
    }
    if isize::try_from(len).is_err() || len as u64 > client::HEAP_LIMIT {
        return Err(error::OUT_OF_MEMORY);
    }
    let heap = &client::get()?.heap;
    let len = len as u64;
    let base = heap.alloc(len, PAGE).map_err(|e| error::heap(&e))?;
    let block = Pinned {
        base,
        len,
        flags,
        context: context::current(),
        registered: false,
        read_only: false,
        id: memory::new_id(),
    };
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).insert(base, block);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pp, std::ptr::with_exposed_provenance_mut(base as usize)) }
}

pub unsafe fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: u32) -> error::Result {
    allocate(pp, bytesize, Flags)
}

pub unsafe fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) -> error::Result {
    // The driver reports such memory as mapped.
    allocate(pp, bytesize, DEVICEMAP)
}

/// Waits for the device first, as the driver does: copies that use the block may be under way.
pub unsafe fn cuMemFreeHost(p: *mut c_void) -> error::Result {
    let base = p.addr() as u64;
    if base == 0 {
        return Ok(());
    }
    {
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.get(&base).is_none_or(|block| block.registered) {
            return Err(error::INVALID_VALUE);
        }
        blocks.remove(&base);
    }
    let _ = capture::wait_for_device();
    client::get()?.heap.free(base);
    Ok(())
}

pub unsafe fn cuMemHostGetDevicePointer_v2(pdptr: *mut u64, p: *mut c_void, Flags: u32) -> error::Result {
    let address = p.addr() as u64;
    if Flags != 0 || find(address).is_none() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer.
    unsafe { put(pdptr, address) }
}

pub unsafe fn cuMemHostGetFlags(pFlags: *mut u32, p: *mut c_void) -> error::Result {
    let address = p.addr() as u64;
    let flags = match find(address) {
        Some(block) => block.flags,
        None if memory::managed(address, 1).is_some() => DEVICEMAP,
        None => return Err(error::INVALID_VALUE),
    };
    // SAFETY: the program's pointer.
    unsafe { put(pFlags, flags) }
}
