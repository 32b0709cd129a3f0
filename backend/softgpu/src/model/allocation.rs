//! Ranges of memory that kernels and copies may use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::device::Device;
use super::ipc::Part;
use super::pool::Pool;
use super::{CudaError, Result};

const PAGE: u64 = 4096;
/// Device allocations are multiples of this, so a kernel may touch what is left of the last one.
const GRANULE: u64 = 512;

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Device memory.
    Device,
    /// From `cuMemAllocManaged`: here just device memory.
    Managed,
    /// Pinned host memory that the driver allocated, with its `CU_MEMHOSTALLOC` flags.
    Host(u32),
    /// The program's own memory, registered with these `CU_MEMHOSTREGISTER` flags.
    Registered(u32),
    /// Another process's device memory.
    Opened,
    /// A mapping of virtual memory management, whose pages are not the allocation's.
    Virtual,
}

/// One range. Its memory, where it is the driver's, lives as long as this.
#[derive(Debug)]
pub struct Allocation {
    base: u64,
    size: u64,
    mapped: u64,
    kind: RangeKind,
    context: u64,
    device: Arc<Device>,
    id: u64,
    /// The pool that it was taken from.
    pool: Option<Arc<Pool>>,
    /// Its part of the file of device memory.
    part: Option<Part>,
    /// Whether it is taken off the device's memory and the pool's.
    counted: bool,
}

impl Allocation {
    /// New zeroed memory of `size` bytes: `INVALID_VALUE` for none, `OUT_OF_MEMORY` if the device or the machine has
    /// no more.
    pub fn map(kind: RangeKind, size: u64, context: u64, device: &Arc<Device>) -> Result<Allocation> {
        if size == 0 {
            return Err(CudaError::InvalidValue);
        }
        let mapped = size.checked_next_multiple_of(PAGE).ok_or(CudaError::OutOfMemory)?;
        let counted = counts_against_device(kind);
        if counted {
            device.take(mapped)?;
        }
        let pages = match kind {
            RangeKind::Device => Part::new(mapped).map(|(part, base)| (Some(part), base)),
            _ => map_pages(mapped).map(|base| (None, base)),
        };
        match pages {
            Ok((part, base)) => Ok(Allocation {
                base,
                size,
                mapped,
                kind,
                context,
                device: Arc::clone(device),
                id: next_id(),
                pool: None,
                part,
                counted,
            }),
            Err(error) => {
                if counted {
                    device.give_back(mapped);
                }
                Err(error)
            }
        }
    }

    /// The program's memory at `base`: `INVALID_VALUE` if it is empty, ends beyond the address space or is not mapped.
    pub fn register(
        base: u64,
        size: u64,
        flags: u32,
        context: u64,
        device: &Arc<Device>,
    ) -> Result<Allocation> {
        base.checked_add(size).ok_or(CudaError::InvalidValue)?;
        if size == 0 || !is_mapped(base, size) {
            return Err(CudaError::InvalidValue);
        }
        let kind = RangeKind::Registered(flags);
        let device = Arc::clone(device);
        let (id, pool, part) = (next_id(), None, None);
        Ok(Allocation { base, size, mapped: 0, kind, context, device, id, pool, part, counted: false })
    }

    /// Device memory of a pool.
    pub fn map_from(pool: &Arc<Pool>, size: u64, context: u64) -> Result<Allocation> {
        pool.take(size)?;
        match Allocation::map(RangeKind::Device, size, context, pool.device()) {
            Ok(mut allocation) => {
                allocation.pool = Some(Arc::clone(pool));
                Ok(allocation)
            }
            Err(error) => {
                pool.give_back(size);
                Err(error)
            }
        }
    }

    /// Device memory that is mapped at `base` already; it belongs to no context.
    pub fn of_mapping(base: u64, size: u64, device: &Arc<Device>) -> Allocation {
        let (kind, device) = (RangeKind::Virtual, Arc::clone(device));
        let (id, pool, part) = (next_id(), None, None);
        Allocation { base, size, mapped: 0, kind, context: 0, device, id, pool, part, counted: false }
    }

    /// Another process's memory that is mapped at `base`: opened, or of a pool that is that process's, too.
    pub fn of_another(
        base: u64,
        size: u64,
        mapped: u64,
        context: u64,
        device: &Arc<Device>,
        pool: Option<Arc<Pool>>,
    ) -> Allocation {
        let kind = if pool.is_some() { RangeKind::Device } else { RangeKind::Opened };
        let (device, id) = (Arc::clone(device), next_id());
        Allocation { base, size, mapped, kind, context, device, id, pool, part: None, counted: false }
    }

    /// Its part of the file of device memory, for other processes.
    pub fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// Whether its pool is for other processes, too; none without a pool.
    pub fn shared_pool(&self) -> Option<bool> {
        self.pool.as_ref().map(|pool| pool.is_shared())
    }

    /// Whether `cuMemFree` may end it.
    pub fn can_be_freed(&self) -> bool {
        counts_against_device(self.kind)
    }

    /// The handle of its pool, or 0.
    pub fn pool(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.handle())
    }

    /// The first address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes, as asked.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it is.
    pub fn kind(&self) -> RangeKind {
        self.kind
    }

    /// Whether it is device memory.
    pub fn is_device(&self) -> bool {
        counts_against_device(self.kind) || matches!(self.kind, RangeKind::Virtual | RangeKind::Opened)
    }

    /// The handle of the context that it was made in.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// The device of that context.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// A number that no other range has or had.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether `length` bytes at `address` lie in it.
    pub fn contains(&self, address: u64, length: u64) -> bool {
        let end = self.base + self.size;
        address >= self.base && address.checked_add(length).is_some_and(|last| last <= end) && address < end
    }

    /// One past the last address that a kernel may touch.
    pub fn kernel_end(&self) -> u64 {
        let size = if self.mapped == 0 { self.size } else { self.size.next_multiple_of(GRANULE) };
        self.base + size
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.mapped == 0 {
            return;
        }
        if let (Ok(base), Ok(length)) = (usize::try_from(self.base), usize::try_from(self.mapped)) {
            // SAFETY: the pages are this allocation's own mapping, and nothing that could use them holds it any more.
            unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(base), length) };
        }
        if !self.counted {
            return;
        }
        self.device.give_back(self.mapped);
        if let Some(pool) = &self.pool {
            pool.give_back(self.size);
        }
    }
}

fn counts_against_device(kind: RangeKind) -> bool {
    matches!(kind, RangeKind::Device | RangeKind::Managed)
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn map_pages(length: u64) -> Result<u64> {
    let length = usize::try_from(length).map_err(|_| CudaError::OutOfMemory)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(CudaError::OutOfMemory);
    }
    u64::try_from(start.expose_provenance()).map_err(|_| CudaError::OutOfMemory)
}

/// Whether the process has something mapped at all pages of `length` bytes at `address`.
pub fn is_mapped(address: u64, length: u64) -> bool {
    let first = address & !(PAGE - 1);
    let Some(end) = address.checked_add(length).and_then(|end| end.checked_next_multiple_of(PAGE)) else {
        return false;
    };
    let Ok(bytes) = usize::try_from(end - first) else { return false };
    let Ok(first) = usize::try_from(first) else { return false };
    // In pieces, so that a lie about the length costs nothing: mincore wants a byte of answer per page.
    const PIECE: usize = 1024 * 4096;
    let mut residency = [0u8; 1024];
    let mut done = 0;
    while done < bytes {
        let piece = PIECE.min(bytes - done);
        let start = std::ptr::without_provenance_mut(first + done);
        // SAFETY: mincore only looks the range up, and the answer has a byte for each of the piece's pages.
        if unsafe { libc::mincore(start, piece, residency.as_mut_ptr()) } != 0 {
            return false;
        }
        done += piece;
    }
    true
}
