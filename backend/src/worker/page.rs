//! A lane's page: the memory that a worker's lane shares with a guest's process, and the only place that touches it.
//!
//! SECURITY: the guest's process can write the page at any time. Every access is to a place within the page, whatever an offset says;
//! numbers are read once, by atomics, and bytes are copied out before they are looked at.

use std::ffi::c_void;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use vgpu_spec::wire::HUGE_PAGE;

const LEN: usize = HUGE_PAGE as usize;

/// A page that is mapped as long as this value lives.
#[derive(Debug)]
pub struct Page(NonNull<u8>);

// SAFETY: the mapping belongs to the value.
unsafe impl Send for Page {}

impl Page {
    /// Maps the page at `offset` of `file`.
    pub fn map(file: impl AsFd, offset: u64) -> Result<Self, rustix::io::Errno> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel picks a free range: no existing mapping is touched.
        let base =
            unsafe { mmap(ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }?;
        NonNull::new(base.cast()).map(Page).ok_or(rustix::io::Errno::NOMEM)
    }

    /// The address of `N` bytes at `offset`, rounded down to a multiple of `N` and taken modulo the page's size.
    #[inline]
    fn at<const N: usize>(&self, offset: u64) -> *mut u8 {
        const { assert!(N.is_power_of_two() && N <= LEN) };
        let offset = (offset as usize % LEN) & !(N - 1);
        // SAFETY: within the mapping.
        unsafe { self.0.as_ptr().add(offset) }
    }

    pub fn u16(&self, offset: u64) -> &AtomicU16 {
        // SAFETY: two aligned bytes within the mapping, which lives as long as self; others only access them as this type does.
        unsafe { AtomicU16::from_ptr(self.at::<2>(offset).cast()) }
    }

    pub fn u32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: as above, of four.
        unsafe { AtomicU32::from_ptr(self.at::<4>(offset).cast()) }
    }

    pub fn u64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: as above, of eight.
        unsafe { AtomicU64::from_ptr(self.at::<8>(offset).cast()) }
    }

    pub fn four(&self, offset: u64) -> &[AtomicU32; 4] {
        // SAFETY: as above, of four times four.
        unsafe { &*self.at::<16>(offset).cast::<[AtomicU32; 4]>() }
    }

    /// Replaces `bytes` by the `len` bytes at `offset`; `false` and no change if they do not lie in the page.
    pub fn read(&self, offset: u64, len: usize, bytes: &mut Vec<u8>) -> bool {
        let Some(from) = self.range(offset, len) else { return false };
        bytes.clear();
        bytes.reserve(len);
        // SAFETY: both are `len` bytes, in the mapping and in the vector's reserved space; what the guest writes meanwhile may be torn,
        // and any bytes are valid.
        unsafe {
            ptr::copy_nonoverlapping(from.cast_const(), bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        true
    }

    /// Writes `bytes` at `offset`; `false` and no change if they do not lie in the page.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.range(offset, bytes.len()) else { return false };
        // SAFETY: as many bytes, in the mapping, to which no reference exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }

    #[inline]
    fn range(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(len)?;
        // SAFETY: within the mapping, or just behind it with length 0.
        (end <= LEN).then(|| unsafe { self.0.as_ptr().add(offset) })
    }

    /// Has the processor fetch the cache line at `offset`.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        let address = self.at::<1>(offset).cast_const();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction gives the program nothing and cannot fault.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// As [`Page::prefetch`], of a line that is going to be written: no other processor keeps it.
    #[inline]
    pub fn prefetch_to_write(&self, offset: u64) {
        let address = self.at::<1>(offset).cast_const();
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `prefetch`.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_ET0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        let _ = unsafe { munmap(self.0.as_ptr().cast::<c_void>(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::sync::atomic::Ordering;

    fn page() -> Page {
        let file = memfd_create("page", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 2 * HUGE_PAGE).unwrap();
        Page::map(&file, HUGE_PAGE).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let page = page();
        assert!(page.write(HUGE_PAGE - 3, b"end"));
        let mut bytes = vec![9; 8];
        assert!(page.read(HUGE_PAGE - 3, 3, &mut bytes));
        assert_eq!(bytes, b"end");
        page.u32(64).store(0x1234_5678, Ordering::Relaxed);
        assert_eq!(page.u16(66).load(Ordering::Relaxed), 0x1234);
        assert!(page.read(64, 0, &mut bytes) && bytes.is_empty());
    }

    #[test]
    fn nothing_beyond_the_page_is_touched() {
        let page = page();
        let mut bytes = vec![7];
        for (offset, len) in
            [(HUGE_PAGE - 2, 3), (HUGE_PAGE + 1, 0), (u64::MAX, 1), (0, LEN + 1), (u64::MAX - 1, 2)]
        {
            assert!(!page.read(offset, len, &mut bytes), "{offset:#x} {len}");
        }
        assert_eq!(bytes, [7]);
        assert!(!page.write(HUGE_PAGE - 1, b"ab"));
        // Offsets of numbers wrap and are aligned.
        page.u16(HUGE_PAGE + 3).store(5, Ordering::Relaxed);
        assert_eq!(page.u16(2).load(Ordering::Relaxed), 5);
        page.prefetch(u64::MAX);
    }
}
