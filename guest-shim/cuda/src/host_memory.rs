//! Pinned host memory: blocks of windows, so that the device reaches it at the same address and at full speed.
//!
//! Registering memory that the program has already is not supported (and its attribute says so). The host reaches only windows, so the
//! program's pages would have to be replaced by a window's: what another thread writes between the copy and the replacement would be
//! lost (also on the first and last page, which hold others' data), memory that is shared with other processes would stop being
//! shared, and private memory would become shared with children of a fork.

use crate::{call::put, calls, client, context, error};
use std::{
    collections::BTreeMap,
    ffi::c_void,
    sync::{Mutex, PoisonError},
};

/// CU_MEMHOSTALLOC_PORTABLE | _DEVICEMAP | _WRITECOMBINED. All memory of windows is portable and mapped; write-combining is a hint.
const FLAGS: u32 = 0x1 | 0x2 | 0x4;
const DEVICEMAP: u32 = 0x2;
const PAGE: u64 = 4096;

/// A block that the program was given.
#[derive(Debug, Clone, Copy)]
pub struct Pinned {
    pub base: u64,
    pub len: u64,
    pub flags: u32,
    pub context: u64,
}

static BLOCKS: Mutex<BTreeMap<u64, Pinned>> = Mutex::new(BTreeMap::new());

/// The block in which `address` lies.
pub fn find(address: u64) -> Option<Pinned> {
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, block) = blocks.range(..=address).next_back()?;
    (address - block.base < block.len).then_some(*block)
}

/// Whether `[address, address + len)` is pinned memory.
pub fn holds(address: u64, len: u64) -> bool {
    find(address).is_some_and(|b| len <= b.len - (address - b.base))
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
    let block = Pinned { base, len, flags, context: context::current() };
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
    let known = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).remove(&base).is_some();
    if !known {
        return Err(error::INVALID_VALUE);
    }
    let _ = calls::cuCtxSynchronize();
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
    let block = find(p.addr() as u64).ok_or(error::INVALID_VALUE)?;
    // SAFETY: the program's pointer.
    unsafe { put(pFlags, block.flags) }
}
