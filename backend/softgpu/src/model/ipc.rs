//! Memory and events of other processes on this machine.
//!
//! A process's device memory is one file, of which no part is used twice. Memory that is exported has a ticket, a file that tells which part
//! it is; freeing the memory closes the ticket, and a handle that names it leads nowhere from then on.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::allocation::{Allocation, RangeKind};
use super::pool::Pool;
use super::shared_file::{self, HANDLE, Name};
use super::{CudaError, Result, state};

/// In handles of memory.
const MEMORY: u64 = u64::from_le_bytes(*b"softmem\0");
/// In handles of events.
const EVENT: u64 = u64::from_le_bytes(*b"softevt\0");
/// Bytes of the file of device memory: more than a process ever allocates, and none of it is taken before it is used.
const ARENA: u64 = 1 << 60;
const PAGE: u64 = 4096;

/// The file of device memory.
struct Arena {
    file: OwnedFd,
    next: AtomicU64,
}

static ARENA_FILE: LazyLock<Option<Arena>> =
    LazyLock::new(|| Some(Arena { file: shared_file::memory_file(ARENA).ok()?, next: AtomicU64::new(0) }));

/// A part of the file of device memory.
#[derive(Debug)]
pub struct Part {
    offset: u64,
    length: u64,
    ticket: OnceLock<OwnedFd>,
}

impl Part {
    /// New zeroed memory of `length` bytes, whole pages; gives its address, too.
    pub fn new(length: u64) -> Result<(Part, u64)> {
        let arena = ARENA_FILE.as_ref().ok_or(CudaError::OutOfMemory)?;
        let offset = arena.next.fetch_add(length, Ordering::Relaxed);
        if offset.checked_add(length).is_none_or(|end| end > ARENA) {
            return Err(CudaError::OutOfMemory);
        }
        let base = shared_file::map(&arena.file, offset, length)?;
        Ok((Part { offset, length, ticket: OnceLock::new() }, base))
    }

    /// Its handle for other processes.
    fn export(&self, size: u64, device: u32) -> Result<[u8; HANDLE]> {
        if let Some(ticket) = self.ticket.get() {
            return Ok(Name::of(MEMORY, ticket)?.to_handle());
        }
        let arena = ARENA_FILE.as_ref().ok_or(CudaError::InvalidValue)?;
        let descriptor = u64::try_from(arena.file.as_raw_fd()).map_err(|_| CudaError::InvalidValue)?;
        let ticket = shared_file::memory_file(PAGE)?;
        let words = [MEMORY, descriptor, self.offset, self.length, size, u64::from(device)];
        shared_file::write(&ticket, 0, &words)?;
        Ok(Name::of(MEMORY, self.ticket.get_or_init(|| ticket))?.to_handle())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Others may still use what was exported.
        if self.ticket.get().is_none()
            && let Some(arena) = ARENA_FILE.as_ref()
        {
            shared_file::punch(&arena.file, self.offset, self.length);
        }
    }
}

/// The handle of device memory in which `address` lies, if it comes from `cuMemAlloc` (`pool`: from a shared pool).
pub fn export_memory(address: u64, pool: bool) -> Result<[u8; HANDLE]> {
    let allocation = state()?.memory.find(address, 1).ok_or(CudaError::InvalidValue)?;
    let is_shared = match allocation.shared_pool() {
        Some(shared) => pool && shared,
        None => !pool,
    };
    let part = allocation.part().filter(|_| is_shared && allocation.kind() == RangeKind::Device);
    part.ok_or(CudaError::InvalidValue)?.export(allocation.size(), allocation.device().number())
}

/// What is mapped of another process's memory.
struct Found {
    base: u64,
    mapped: u64,
    size: u64,
    device: u64,
}

fn find_memory(name: &Name) -> Result<Found> {
    let ticket = name.open().ok_or_else(|| {
        // Freed, or gone with its process.
        if name.is_process_gone() { CudaError::InvalidHandle } else { CudaError::NotPermitted }
    })?;
    let [magic, descriptor, offset, mapped, size, device] = shared_file::read::<6>(&ticket, 0)?;
    if magic != MEMORY || size == 0 || size > mapped {
        return Err(CudaError::InvalidValue);
    }
    let arena = shared_file::open_descriptor(name.pid, descriptor).ok_or(CudaError::InvalidValue)?;
    Ok(Found { base: shared_file::map(&arena, offset, mapped)?, mapped, size, device })
}

/// What this process has open of others', by name: address and how often; and what it has of their pools.
#[derive(Debug, Default)]
pub struct Opened(Mutex<HashMap<Name, (u64, u32)>>, Mutex<HashMap<Name, u64>>);

impl Opened {
    /// Opens another process's memory, or counts what is open already.
    pub fn open(&self, handle: &[u8; HANDLE], context: u64) -> Result<u64> {
        let name = Name::from_handle(handle, MEMORY).ok_or(CudaError::InvalidValue)?;
        if name.is_own() {
            return Err(CudaError::InvalidContext);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((base, count)) = all.get_mut(&name) {
            *count += 1;
            return Ok(*base);
        }
        let found = find_memory(&name)?;
        let device = state()?.device_of_number(found.device);
        let device = device.inspect_err(|_| shared_file::unmap(found.base, found.mapped))?;
        let allocation = Allocation::of_another(found.base, found.size, found.mapped, context, device, None);
        state()?.memory.insert(allocation);
        all.insert(name, (found.base, 1));
        Ok(found.base)
    }

    /// Closes memory of another process once; its mapping goes with the last time.
    pub fn close(&self, address: u64) -> Result {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = all.iter().find(|(_, (base, _))| *base == address).map(|(name, _)| *name);
        let name = name.ok_or(CudaError::InvalidValue)?;
        if let Some((_, count)) = all.get_mut(&name) {
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
        }
        all.remove(&name);
        for context in state()?.contexts.all() {
            // What failed does not run.
            let _ = context.synchronize();
        }
        state()?.memory.remove(address);
        Ok(())
    }
}

/// Maps memory of another process's pool as memory of `pool`, which is that pool here.
pub fn import_pool_memory(handle: &[u8; HANDLE], pool: &Arc<Pool>, context: u64) -> Result<u64> {
    let name = Name::from_handle(handle, MEMORY).ok_or(CudaError::InvalidValue)?;
    if name.is_own() || !pool.is_imported() {
        return Err(CudaError::InvalidValue);
    }
    let mut known = state()?.opened.1.lock().unwrap_or_else(PoisonError::into_inner);
    // Memory that is imported already has the same address, until it is freed.
    let same = known.get(&name).and_then(|&base| state().ok()?.memory.at(base));
    if let Some(same) = same.filter(|same| same.pool() == pool.handle()) {
        return Ok(same.base());
    }
    let found = find_memory(&name)?;
    if found.device != u64::from(pool.device().number()) {
        shared_file::unmap(found.base, found.mapped);
        return Err(CudaError::InvalidValue);
    }
    let (device, pool) = (pool.device(), Some(Arc::clone(pool)));
    let allocation = Allocation::of_another(found.base, found.size, found.mapped, context, device, pool);
    state()?.memory.insert(allocation);
    known.insert(name, found.base);
    Ok(found.base)
}

/// What processes that share an event see of it: how many records there were, the last one that was reached, and who recorded last.
#[repr(C)]
#[derive(Debug, Default)]
struct Page {
    recorded: AtomicU64,
    reached: AtomicU64,
    recorder: AtomicU64,
}

/// An event of several processes.
#[derive(Debug)]
pub struct SharedEvent {
    file: OwnedFd,
    page: u64,
}

impl SharedEvent {
    /// A new one.
    pub fn new() -> Result<SharedEvent> {
        SharedEvent::map(shared_file::memory_file(PAGE)?)
    }

    fn map(file: OwnedFd) -> Result<SharedEvent> {
        let page = shared_file::map(&file, 0, PAGE)?;
        Ok(SharedEvent { file, page })
    }

    /// Another process's: `MAP_FAILED` for what is none.
    pub fn open(handle: &[u8; HANDLE]) -> Result<SharedEvent> {
        let name = Name::from_handle(handle, EVENT).ok_or(CudaError::MapFailed)?;
        if name.is_own() {
            return Err(CudaError::InvalidContext);
        }
        let file = name.open().ok_or(CudaError::MapFailed)?;
        if shared_file::size_and_inode(&file)?.0 != PAGE {
            return Err(CudaError::MapFailed);
        }
        SharedEvent::map(file)
    }

    /// Its handle for other processes.
    pub fn export(&self) -> Result<[u8; HANDLE]> {
        Ok(Name::of(EVENT, &self.file)?.to_handle())
    }

    fn page(&self) -> &Page {
        let place = std::ptr::with_exposed_provenance(usize::try_from(self.page).unwrap_or(0));
        // SAFETY: a page that is mapped as long as this lives, of atomic numbers, which other processes may change.
        unsafe { &*place }
    }

    /// Counts a record; gives its number.
    pub fn record(&self) -> u64 {
        self.page().recorder.store(u64::from(std::process::id()), Ordering::Relaxed);
        self.page().recorded.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The last record.
    pub fn last(&self) -> u64 {
        self.page().recorded.load(Ordering::Acquire)
    }

    /// A record is reached.
    pub fn reach(&self, record: u64) {
        self.page().reached.fetch_max(record, Ordering::AcqRel);
    }

    /// Whether a record is reached, or never will be since its process is gone.
    pub fn is_reached(&self, record: u64) -> bool {
        if self.page().reached.load(Ordering::Acquire) >= record {
            return true;
        }
        let recorder = self.page().recorder.load(Ordering::Relaxed);
        // Not by a signal: a process that is confined may send none.
        recorder == 0 || !std::path::Path::new(&format!("/proc/{recorder}")).exists()
    }

    /// Waits for a record.
    pub fn wait(&self, record: u64) {
        while !self.is_reached(record) {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for SharedEvent {
    fn drop(&mut self) {
        shared_file::unmap(self.page, PAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_event_is_reached_when_its_last_record_is() {
        let event = SharedEvent::new().unwrap();
        assert!(event.is_reached(event.last()), "never recorded");
        let (first, second) = (event.record(), event.record());
        assert_eq!(event.last(), second);
        assert!(!event.is_reached(first));
        event.reach(second);
        event.reach(first);
        assert!(event.is_reached(first) && event.is_reached(second));
        assert_eq!(SharedEvent::open(&event.export().unwrap()).err(), Some(CudaError::InvalidContext));
        assert_eq!(SharedEvent::open(&[0; HANDLE]).err(), Some(CudaError::MapFailed));
    }
}
