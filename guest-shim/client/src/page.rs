//! A lane's page, mapped: the split virtqueue's rings, the status record and the command area.
//!
//! The only place that touches the page's memory. Field offsets: virtio 1.2, 2.7 (split virtqueues).

use rustix::fd::AsFd;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32};
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Layout, Status};

/// Bytes of a lane's page.
const PAGE_LEN: usize = HUGE_PAGE as usize;

/// `Descriptor::flags`: another descriptor of the chain follows.
pub(crate) const NEXT: u16 = 1;
/// `Descriptor::flags`: the device writes.
pub(crate) const WRITE: u16 = 2;
/// Flag of the available and of the used ring, without EVENT_IDX: no notifications wanted.
pub(crate) const NO_NOTIFICATION: u16 = 1;

/// A virtqueue descriptor.
#[repr(C)]
pub(crate) struct Descriptor {
    /// Offset in the page.
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

const _: () = assert!(cfg!(target_endian = "little"), "rings are little-endian");

/// A mapped page; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Page {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to the value; shared fields are atomics, and the rest is written by the one user of the lane.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Maps the page at offset 0 of `file`.
    pub fn map(file: impl AsFd, layout: Layout) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a free range: no existing mapping is touched.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), PAGE_LEN, protection, MapFlags::SHARED, file, 0) }?;
        // A forked child must not drive its parent's lane.
        // SAFETY: the range was mapped just now, and the advice only concerns children.
        if let Err(error) = unsafe { rustix::mm::madvise(base, PAGE_LEN, Advice::LinuxDontFork) } {
            crate::debug!("keeping a lane's page from forked children: {error}");
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Page { base, layout })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < HUGE_PAGE);
        // SAFETY: callers pass offsets of the layout plus ring indices below its size, which all lie in the page (Layout::new).
        unsafe { self.base.as_ptr().add(offset as usize) }
    }

    fn u16_at(&self, offset: u64) -> &AtomicU16 {
        // SAFETY: within the page (see `at`), 2-byte aligned by the rings' layout, alive as long as self.
        unsafe { AtomicU16::from_ptr(self.at(offset).cast()) }
    }

    fn u32_at(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: within the page (see `at`), 4-byte aligned by the layout, alive as long as self.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    /// Ring slot or descriptor of a free-running index.
    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.layout.size - 1))
    }

    pub fn avail_flags(&self) -> &AtomicU16 {
        self.u16_at(self.layout.avail)
    }

    pub fn avail_idx(&self) -> &AtomicU16 {
        self.u16_at(self.layout.avail + 2)
    }

    pub fn avail_entry(&self, index: u16) -> &AtomicU16 {
        self.u16_at(self.layout.avail + 4 + 2 * self.slot(index))
    }

    /// Where the driver says which used entry it wants to hear of.
    pub fn used_event(&self) -> &AtomicU16 {
        self.u16_at(self.layout.avail + 4 + 2 * u64::from(self.layout.size))
    }

    pub fn used_flags(&self) -> &AtomicU16 {
        self.u16_at(self.layout.used)
    }

    pub fn used_idx(&self) -> &AtomicU16 {
        self.u16_at(self.layout.used + 2)
    }

    /// Bytes that the device wrote for the used entry of free-running `index`.
    pub fn used_len(&self, index: u16) -> &AtomicU32 {
        self.u32_at(self.layout.used + 4 + 8 * self.slot(index) + 4)
    }

    /// Where the device says which available entry it wants to hear of.
    pub fn avail_event(&self) -> &AtomicU16 {
        self.u16_at(self.layout.used + 4 + 8 * u64::from(self.layout.size))
    }

    pub fn state(&self) -> &AtomicU32 {
        self.u32_at(self.layout.status + std::mem::offset_of!(Status, state) as u64)
    }

    pub fn error_count(&self) -> &AtomicU32 {
        self.u32_at(self.layout.status + std::mem::offset_of!(Status, error_count) as u64)
    }

    pub fn error(&self) -> &AtomicU32 {
        self.u32_at(self.layout.status + std::mem::offset_of!(Status, error) as u64)
    }

    pub fn error_function(&self) -> &AtomicU32 {
        self.u32_at(self.layout.status + std::mem::offset_of!(Status, error_function) as u64)
    }

    /// A word of the command area, at a multiple of four.
    pub fn command_word(&self, offset: u64) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset < self.layout.commands_len());
        self.u32_at(self.layout.commands + offset)
    }

    /// Writes the descriptor of free-running `index`, which the device must not hold.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        let place = self.at(self.layout.desc + 16 * self.slot(index)).cast::<Descriptor>();
        // SAFETY: in the page, aligned to 16; the device reads it after it is made available (Release store of the index).
        unsafe { place.write_volatile(descriptor) }
    }

    /// Descriptor number (not free-running) of free-running `index`.
    pub fn descriptor_number(&self, index: u16) -> u16 {
        index & (self.layout.size - 1)
    }

    /// Bytes `[offset, offset + len)` of the command area.
    ///
    /// # Safety
    /// The range lies in the area, and until the slice's end neither the device nor another slice writes to it.
    pub unsafe fn commands<'a>(&self, offset: u64, len: usize) -> &'a mut [u8] {
        debug_assert!(offset + len as u64 <= self.layout.commands_len());
        // SAFETY: in the page by the caller's promise, mapped while self lives, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(self.layout.commands + offset), len) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // In a forked child nothing is mapped there, or something else is.
        if !crate::fork::forked() {
            // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), PAGE_LEN) };
        }
    }
}
