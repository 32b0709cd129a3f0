//! Virtual memory management: reserved addresses, device memory without an address, and its mappings.
//!
//! Device memory is a file in memory, so that it can be mapped where the program wants it, more than once.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::Device;
use super::handle::{Kind, new_handle};
use super::{CudaError, Result, shared_file, state};

/// What sizes are multiples of, as on an H100.
pub const GRANULARITY: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// In the file of device memory, behind the memory.
const MAGIC: u64 = u64::from_le_bytes(*b"softphys");
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
pub const POSIX_FILE_DESCRIPTOR: u32 = 1;

/// Device memory, from `cuMemCreate`.
#[derive(Debug)]
pub struct Physical {
    handle: u64,
    file: OwnedFd,
    size: u64,
    device: Arc<Device>,
    handle_types: u32,
    /// Whether it is taken off the device's memory.
    counted: bool,
    /// How often the program holds the handle.
    holds: AtomicU32,
}

impl Physical {
    /// New zeroed memory of `size` bytes.
    pub fn new(device: &Arc<Device>, size: u64, handle_types: u32) -> Result<Physical> {
        if size == 0 || !size.is_multiple_of(GRANULARITY) {
            return Err(CudaError::InvalidValue);
        }
        // What it is stands behind the memory, for processes that import it.
        let whole = size.checked_add(PAGE).ok_or(CudaError::OutOfMemory)?;
        let file = shared_file::memory_file(whole)?;
        shared_file::write(&file, size, &[MAGIC, u64::from(device.number())])?;
        device.take(size)?;
        Ok(Physical {
            handle: new_handle(Kind::Physical),
            file,
            size,
            device: Arc::clone(device),
            handle_types,
            counted: true,
            holds: AtomicU32::new(1),
        })
    }

    /// A new descriptor for other processes: `INVALID_VALUE` for memory that was not made for that.
    pub fn export(&self) -> Result<OwnedFd> {
        if self.handle_types & POSIX_FILE_DESCRIPTOR == 0 {
            return Err(CudaError::InvalidValue);
        }
        self.file.try_clone().map_err(|_| CudaError::OperatingSystem)
    }

    /// Memory of a process, by its descriptor: `UNKNOWN` for any other. It cannot be exported again.
    pub fn import(descriptor: i32) -> Result<Physical> {
        let unknown = |_| CudaError::Unknown;
        let file = shared_file::duplicate(descriptor).map_err(unknown)?;
        let whole = shared_file::size_and_inode(&file).map_err(unknown)?.0;
        let size = whole.checked_sub(PAGE).ok_or(CudaError::Unknown)?;
        let [magic, number] = shared_file::read::<2>(&file, size).map_err(unknown)?;
        if magic != MAGIC {
            return Err(CudaError::Unknown);
        }
        let device = Arc::clone(state()?.device_of_number(number)?);
        let (handle, holds) = (new_handle(Kind::Physical), AtomicU32::new(1));
        Ok(Physical { handle, file, size, device, handle_types: 0, counted: false, holds })
    }

    /// The `CUmemGenericAllocationHandle`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Where it is.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The handle types that it was made with.
    pub fn handle_types(&self) -> u32 {
        self.handle_types
    }
}

impl Drop for Physical {
    fn drop(&mut self) {
        if self.counted {
            self.device.give_back(self.size);
        }
    }
}

/// Lets go of a handle; the memory lives while it is mapped.
pub fn release(handle: u64) -> Result {
    let table = &state()?.physical;
    let physical = table.get(handle).map_err(|_| CudaError::InvalidValue)?;
    if physical.holds.fetch_sub(1, Ordering::Relaxed) == 1 {
        table.remove(handle)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Mapping {
    size: u64,
    memory: Arc<Physical>,
    accessible: bool,
}

#[derive(Debug, Default)]
struct Maps {
    /// Bytes by first address.
    reservations: BTreeMap<u64, u64>,
    mappings: BTreeMap<u64, Mapping>,
}

/// All reservations and mappings.
#[derive(Debug, Default)]
pub struct VirtualMemory(Mutex<Maps>);

impl VirtualMemory {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves addresses; `hint` is not heeded, as the real driver need not.
    pub fn reserve(&self, size: u64, alignment: u64) -> Result<u64> {
        if size == 0 || !size.is_multiple_of(PAGE) || (alignment != 0 && !alignment.is_power_of_two()) {
            return Err(CudaError::InvalidValue);
        }
        let alignment = alignment.max(GRANULARITY);
        let whole = size.checked_add(alignment).ok_or(CudaError::OutOfMemory)?;
        let start = pages(0, whole, None)?;
        let base = start.next_multiple_of(alignment);
        unmap_pages(start, base - start);
        unmap_pages(base + size, start + whole - base - size);
        self.maps().reservations.insert(base, size);
        Ok(base)
    }

    /// Gives a whole reservation back, in which nothing may be mapped.
    pub fn free(&self, base: u64, size: u64) -> Result {
        let mut maps = self.maps();
        let is_mapped = maps.mappings.range(..base.saturating_add(size)).next_back();
        let is_mapped = is_mapped.is_some_and(|(at, mapping)| at + mapping.size > base);
        if maps.reservations.get(&base) != Some(&size) || is_mapped {
            return Err(CudaError::InvalidValue);
        }
        maps.reservations.remove(&base);
        unmap_pages(base, size);
        Ok(())
    }

    /// Maps the front of `memory` into a reservation, without access.
    pub fn map(&self, base: u64, size: u64, memory: Arc<Physical>) -> Result {
        let end = base.checked_add(size).ok_or(CudaError::InvalidValue)?;
        if size == 0 || size > memory.size || !size.is_multiple_of(GRANULARITY) || !base.is_multiple_of(PAGE)
        {
            return Err(CudaError::InvalidValue);
        }
        let mut maps = self.maps();
        let reserved = maps.reservations.range(..=base).next_back();
        let overlaps =
            maps.mappings.range(..end).next_back().is_some_and(|(at, other)| at + other.size > base);
        if overlaps || reserved.is_none_or(|(at, length)| end > at + length) {
            return Err(CudaError::InvalidValue);
        }
        pages(base, size, Some(&memory.file))?;
        maps.mappings.insert(base, Mapping { size, memory, accessible: false });
        Ok(())
    }

    /// The whole mappings that `[base, base + size)` is made of.
    fn whole(maps: &Maps, base: u64, size: u64) -> Result<Vec<u64>> {
        let end = base.checked_add(size).ok_or(CudaError::InvalidValue)?;
        let mut at = base;
        let mut found = Vec::new();
        while at < end {
            let mapping = maps.mappings.get(&at).ok_or(CudaError::InvalidValue)?;
            found.push(at);
            at += mapping.size;
        }
        if at == end && !found.is_empty() { Ok(found) } else { Err(CudaError::InvalidValue) }
    }

    /// Gives or takes the access of the memory's own device.
    pub fn set_access(&self, base: u64, size: u64, device: u32, accessible: bool) -> Result {
        let mut maps = self.maps();
        let memory = &state()?.memory;
        let all = Self::whole(&maps, base, size)?;
        if all.iter().any(|at| maps.mappings[at].memory.device.ordinal() != device) {
            return Err(CudaError::InvalidDevice);
        }
        for at in all {
            let Some(mapping) = maps.mappings.get_mut(&at) else { continue };
            if mapping.accessible == accessible {
                continue;
            }
            protect(at, mapping.size, accessible)?;
            mapping.accessible = accessible;
            if accessible {
                memory.insert_virtual(at, mapping.size, &mapping.memory.device);
            } else {
                memory.remove(at);
            }
        }
        Ok(())
    }

    /// The mappings in a part of a reservation, of which none may stick out. There may be none: so does the 580 driver.
    fn within(maps: &Maps, base: u64, size: u64) -> Result<Vec<u64>> {
        let end = base.checked_add(size).filter(|_| size > 0).ok_or(CudaError::InvalidValue)?;
        let reserved = maps.reservations.range(..=base).next_back();
        if reserved.is_none_or(|(at, length)| end > at + length) {
            return Err(CudaError::InvalidValue);
        }
        let overlapping = maps.mappings.range(..end).filter(|(at, mapping)| *at + mapping.size > base);
        let found: Vec<(u64, u64)> = overlapping.map(|(at, mapping)| (*at, mapping.size)).collect();
        let whole = found.iter().all(|(at, length)| *at >= base && at + length <= end);
        if whole { Ok(found.into_iter().map(|(at, _)| at).collect()) } else { Err(CudaError::InvalidValue) }
    }

    /// Takes mappings away. What runs is waited for, since it may use them.
    pub fn unmap(&self, base: u64, size: u64) -> Result {
        for context in state()?.contexts.all() {
            // What failed does not run.
            let _ = context.synchronize();
        }
        let mut maps = self.maps();
        let memory = &state()?.memory;
        for at in Self::within(&maps, base, size)? {
            let Some(mapping) = maps.mappings.remove(&at) else { continue };
            if mapping.accessible {
                memory.remove(at);
            }
            pages(at, mapping.size, None)?;
        }
        Ok(())
    }

    /// What is mapped at `address`, and whether its device has access.
    pub fn find(&self, address: u64) -> Option<(Arc<Physical>, bool)> {
        let maps = self.maps();
        let (at, mapping) = maps.mappings.range(..=address).next_back()?;
        (address - at < mapping.size).then(|| (Arc::clone(&mapping.memory), mapping.accessible))
    }

    /// The handle of what is mapped at `address`, to be released once more.
    pub fn retain(&self, address: u64) -> Result<u64> {
        let (memory, _) = self.find(address).ok_or(CudaError::InvalidValue)?;
        let table = &state()?.physical;
        memory.holds.fetch_add(1, Ordering::Relaxed);
        table.insert(memory.handle, Arc::clone(&memory));
        Ok(memory.handle)
    }
}

/// Inaccessible pages at `base` (0: anywhere), of a file or of nothing.
fn pages(base: u64, length: u64, file: Option<&OwnedFd>) -> Result<u64> {
    let length = usize::try_from(length).map_err(|_| CudaError::OutOfMemory)?;
    let base = usize::try_from(base).map_err(|_| CudaError::InvalidValue)?;
    let fixed = if base == 0 { 0 } else { libc::MAP_FIXED };
    let flags = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    };
    let descriptor = file.map_or(-1, AsRawFd::as_raw_fd);
    let at = std::ptr::with_exposed_provenance_mut(base);
    // SAFETY: anywhere, or over a part of a reservation, which is this module's own.
    let start = unsafe { libc::mmap(at, length, libc::PROT_NONE, flags | fixed, descriptor, 0) };
    if start == libc::MAP_FAILED {
        return Err(CudaError::OutOfMemory);
    }
    u64::try_from(start.expose_provenance()).map_err(|_| CudaError::OutOfMemory)
}

fn unmap_pages(base: u64, length: u64) {
    if let (Ok(base), Ok(length)) = (usize::try_from(base), usize::try_from(length))
        && length > 0
    {
        // SAFETY: a part of a reservation, which is this module's own and which nothing uses.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(base), length) };
    }
}

fn protect(base: u64, length: u64, accessible: bool) -> Result {
    let length = usize::try_from(length).map_err(|_| CudaError::InvalidValue)?;
    let base = usize::try_from(base).map_err(|_| CudaError::InvalidValue)?;
    let mode = if accessible { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: a mapping of this module's own.
    match unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(base), length, mode) } {
        0 => Ok(()),
        _ => Err(CudaError::OutOfMemory),
    }
}
