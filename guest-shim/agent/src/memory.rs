//! Memory shared with the device or with clients: mappings, lane pages, eventfds.

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use vgpu_spec::wire::{HUGE_PAGE, lane::Layout};

/// Bytes of a huge page, as a length of a mapping.
pub const HUGE_PAGE_LEN: usize = HUGE_PAGE as usize;

/// A shared mapping of a file or of device registers. Others write to it at any time: nothing hands out a plain reference.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value until drop, and every access is atomic, volatile or a raw copy.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method hands out a non-atomic reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`, readable and writable. With `populate`, pages are there when it returns.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize, populate: bool) -> io::Result<Self> {
        let mut flags = MapFlags::SHARED;
        flags.set(MapFlags::POPULATE, populate);
        // SAFETY: the kernel chooses the address, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                offset,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    /// Bytes of the mapping.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes (never, the kernel refuses those).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mapping's address in this process.
    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Offsets are computed by this crate from checked layouts; a wrong one is a defect here, so it ends the thread.
    fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "offset {offset:#x} outside a mapping of {:#x}",
            self.len
        );
        assert!(offset.is_multiple_of(align_of::<T>()), "offset {offset:#x} is not aligned");
        // SAFETY: in bounds, as just checked.
        unsafe { self.base.as_ptr().add(offset).cast() }
    }

    pub fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: in bounds and aligned by `at`; lives as long as the mapping; atomics allow shared writes.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `u16`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u16`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// One device register, read with exactly one access of its width.
    pub fn read_register<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: in bounds and aligned by `at`; registers are plain integers.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// One device register, written with exactly one access of its width.
    pub fn write_register<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: as in `read_register`.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds; the source is a slice of this process, which no mapping of ours overlaps.
        unsafe { self.base.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// Copies `len` bytes from `offset` out, once.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        self.check(offset, len);
        let mut bytes = vec![0; len];
        // SAFETY: as in `write`.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.base.as_ptr().add(offset), len) }
        bytes
    }

    /// Zeroes `[start, end)`.
    pub fn zero(&self, start: usize, end: usize) {
        let len = end.saturating_sub(start);
        self.check(start, len);
        // SAFETY: in bounds.
        unsafe { self.base.as_ptr().add(start).write_bytes(0, len) }
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{offset:#x}+{len:#x} outside a mapping of {:#x}",
            self.len
        );
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and references from `u16` and the like cannot outlive `self`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::warn!("unmapping {:#x} bytes: {error}", self.len);
        }
    }
}

/// A huge page's worth of memory with a descriptor to hand to a client and an address for the device.
#[derive(Debug)]
pub struct Page {
    pub mapping: Mapping,
    pub file: OwnedFd,
    /// Guest-physical address.
    pub gpa: u64,
    /// Whether parts of it can be given back to the kernel, which makes them read as zero.
    punchable: bool,
}

impl Page {
    /// A page of ordinary memory at the made-up guest-physical address `gpa`; it takes up only what is touched.
    pub fn sparse(name: &str, gpa: u64) -> io::Result<Self> {
        let file = sparse_file(name, HUGE_PAGE)?;
        let mapping = Mapping::new(file.as_fd(), 0, HUGE_PAGE_LEN, false)?;
        Ok(Self { mapping, file, gpa, punchable: true })
    }

    /// A page that is one huge page at the real guest-physical address `gpa`.
    pub fn huge(mapping: Mapping, file: OwnedFd, gpa: u64) -> Self {
        Self { mapping, file, gpa, punchable: false }
    }

    /// Makes `[start, HUGE_PAGE)` read as zero; `start` is a multiple of 4096.
    pub fn clear_from(&self, start: usize) {
        let len = HUGE_PAGE.saturating_sub(start as u64);
        if self.punchable && punch(self.file.as_fd(), start as u64, len).is_ok() {
            return;
        }
        self.mapping.zero(start, HUGE_PAGE_LEN);
    }
}

/// The page of a queue's rings, and where in it they lie.
#[derive(Debug, Clone)]
pub struct Rings {
    pub page: std::sync::Arc<Page>,
    /// Offset of the layout in the page.
    pub base: u64,
    pub layout: Layout,
}

impl Rings {
    /// Guest-physical addresses of the descriptor table, the available and the used ring.
    pub fn addresses(&self) -> [u64; 3] {
        let start = self.page.gpa + self.base;
        [start + self.layout.desc, start + self.layout.avail, start + self.layout.used]
    }

    /// The driver's available index, as in memory.
    pub fn avail_index(&self) -> &AtomicU16 {
        self.page.mapping.u16((self.base + self.layout.avail) as usize + 2)
    }

    /// The device's used index, as in memory.
    pub fn used_index(&self) -> &AtomicU16 {
        self.page.mapping.u16((self.base + self.layout.used) as usize + 2)
    }
}

/// An anonymous file of `len` bytes which takes up only what is touched.
pub fn sparse_file(name: &str, len: u64) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, len)?;
    // A client that could shrink the file would make the worker's accesses fault.
    use rustix::fs::SealFlags;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Gives `[offset, offset + len)` of `file` back to the kernel; it reads as zero afterwards.
pub fn punch(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn cleared_part_reads_as_zero_and_the_rest_stays() {
        let page = Page::sparse("test", 0).unwrap();
        page.mapping.write(8, b"keep");
        page.mapping.write(8192, b"gone");
        page.clear_from(4096);
        assert_eq!(page.mapping.read(8, 4), b"keep");
        assert_eq!(page.mapping.read(8192, 4), [0; 4]);
    }

    #[test]
    fn a_client_cannot_shrink_a_sparse_file() {
        let file = sparse_file("test", 8192).unwrap();
        assert!(rustix::fs::ftruncate(&file, 4096).is_err());
        let mapping = Mapping::new(file.as_fd(), 0, 8192, false).unwrap();
        mapping.u16(4096).store(7, Relaxed);
        assert_eq!(mapping.read(4096, 2), [7, 0]);
    }
}
