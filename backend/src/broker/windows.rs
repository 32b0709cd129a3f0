//! Windows: checks of what the guest asks to be mapped, and the translation of guest-physical extents to files.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use vgpu_spec::wire::{Range, SMALL_PAGE, is_window_place};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::link::MAX_FDS;
use crate::link::message::Extent;

/// The most windows of one client.
pub const MAX_WINDOWS: usize = 4096;
/// The most bytes of all windows of one client.
pub const MAX_CLIENT_BYTES: u64 = 1 << 40;

/// Why a window was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WindowError {
    #[error("the window {base:#x}+{len:#x} is not in units of 2 MiB in the window area or of 4 KiB outside")]
    Place { base: u64, len: u64 },
    #[error("window {0} exists already")]
    Number(u32),
    #[error("the window {base:#x}+{len:#x} overlaps another")]
    Overlap { base: u64, len: u64 },
    #[error("the client has {MAX_WINDOWS} windows or {MAX_CLIENT_BYTES} bytes of them already")]
    Limit,
    #[error(
        "the extent {base:#x}+{len:#x} is empty, not in units of 4 KiB, or not in the VM's shared memory"
    )]
    Extent { base: u64, len: u64 },
    #[error("the extents are {sum:#x} bytes, the window is {len:#x}")]
    Sum { sum: u64, len: u64 },
    #[error("the extents lie in more than {MAX_FDS} files")]
    Files,
    #[error("there is no window {0}")]
    Unknown(u32),
}

/// The windows of a client, by the agent's number.
#[derive(Debug, Default)]
pub struct Windows {
    by_number: HashMap<u32, Range>,
    bytes: u64,
}

impl Windows {
    /// Checks a new window and takes note of it.
    pub fn insert(&mut self, number: u32, window: Range) -> Result<(), WindowError> {
        let Range { base, len } = window;
        // SECURITY: the address is the guest's choice. Within the area nothing else of the worker lies; outside the worker replaces
        // nothing that it has.
        if !is_window_place(base, len) {
            return Err(WindowError::Place { base, len });
        }
        if self.by_number.contains_key(&number) {
            return Err(WindowError::Number(number));
        }
        if self.by_number.len() >= MAX_WINDOWS || self.bytes.saturating_add(len) > MAX_CLIENT_BYTES {
            return Err(WindowError::Limit);
        }
        // No overflow: all end below 2^47.
        if self.by_number.values().any(|w| base < w.base + w.len && w.base < base + len) {
            return Err(WindowError::Overlap { base, len });
        }
        self.by_number.insert(number, window);
        self.bytes += len;
        Ok(())
    }

    pub fn get(&self, number: u32) -> Result<Range, WindowError> {
        self.by_number.get(&number).copied().ok_or(WindowError::Unknown(number))
    }

    pub fn remove(&mut self, number: u32) {
        if let Some(window) = self.by_number.remove(&number) {
            self.bytes -= window.len;
        }
    }

    /// Of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

/// Extents as file ranges, neighbours merged, and the files that they name.
#[derive(Debug, Default)]
pub struct Translation {
    pub extents: Vec<Extent>,
    pub files: Vec<RawFd>,
}

impl Translation {
    /// Translates `extents`, which together must be `len` bytes of `memory`.
    ///
    /// The descriptors in `files` belong to `memory` and live as long as it.
    pub fn new(
        memory: &GuestMemoryMmap,
        extents: impl Iterator<Item = Range>,
        len: u64,
    ) -> Result<Self, WindowError> {
        let mut result = Translation::default();
        let mut sum = 0_u64;
        for Range { base, len: bytes } in extents {
            let error = WindowError::Extent { base, len: bytes };
            if bytes == 0 || base % 4096 != 0 || bytes % 4096 != 0 {
                return Err(error);
            }
            // SECURITY: wholly within one region of the memory that the VM's front end shared.
            let Some(region) = memory.find_region(GuestAddress(base)) else { return Err(error) };
            let inside = base - region.start_addr().0;
            // A region may end within the last page of its file, of which the whole is mapped.
            let room = region.len().saturating_add(SMALL_PAGE - 1) / SMALL_PAGE * SMALL_PAGE - inside;
            let Some(file) = region.file_offset().filter(|_| bytes <= room) else {
                return Err(error);
            };
            let offset = file.start().checked_add(inside).ok_or(error)?;
            result.push(file.file().as_raw_fd(), offset, bytes)?;
            // No overflow: each is at most a region's length, and there are at most MAX_EXTENTS.
            sum = sum.saturating_add(bytes);
        }
        if sum != len {
            return Err(WindowError::Sum { sum, len });
        }
        Ok(result)
    }

    fn push(&mut self, fd: RawFd, offset: u64, len: u64) -> Result<(), WindowError> {
        let file = match self.files.iter().position(|&f| f == fd) {
            Some(index) => index,
            None if self.files.len() < MAX_FDS => {
                self.files.push(fd);
                self.files.len() - 1
            }
            None => return Err(WindowError::Files),
        };
        let file = u32::try_from(file).map_err(|_| WindowError::Files)?;
        match self.extents.last_mut() {
            Some(last) if last.file == file && last.offset + last.len == offset => last.len += len,
            _ => self.extents.push(Extent { file, reserved: 0, offset, len }),
        }
        Ok(())
    }

    /// The files, borrowed for as long as `memory` is held.
    pub fn borrowed<'a>(&self, _memory: &'a GuestMemoryMmap) -> Vec<BorrowedFd<'a>> {
        // SAFETY: the descriptors are those of `memory`'s regions, which it keeps open.
        self.files.iter().map(|&fd| unsafe { BorrowedFd::borrow_raw(fd) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA, WINDOW_AREA_LEN};
    use vm_memory::FileOffset;

    fn memory() -> GuestMemoryMmap {
        let region = |base: u64| {
            let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let file = File::from(fd);
            file.set_len(8 << 20).unwrap();
            (GuestAddress(base), 4_usize << 20, Some(FileOffset::new(file, 1 << 20)))
        };
        GuestMemoryMmap::from_ranges_with_files([region(0), region(16 << 20)]).unwrap()
    }

    #[test]
    fn a_page_in_which_a_region_ends_is_whole() {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(8000).unwrap();
        let region = (GuestAddress(0), 8000, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([region]).unwrap();
        let translate = |base, len| Translation::new(&memory, [Range { base, len }].into_iter(), len);
        assert!(translate(0, 8192).is_ok() && translate(4096, 4096).is_ok());
        assert!(
            translate(0, 12288).is_err() && translate(4096, 8192).is_err() && translate(8192, 4096).is_err()
        );
    }

    fn translate(extents: &[(u64, u64)], len: u64) -> Result<Translation, WindowError> {
        let extents = extents.iter().map(|&(base, len)| Range { base, len });
        Translation::new(&memory(), extents, len)
    }

    #[test]
    fn neighbouring_extents_are_merged_and_files_named_once() {
        let t =
            translate(&[(0, 1 << 20), (1 << 20, 1 << 20), (17 << 20, 1 << 20), (3 << 20, 1 << 20)], 4 << 20)
                .unwrap();
        assert_eq!(t.files.len(), 2);
        let flat: Vec<_> = t.extents.iter().map(|e| (e.file, e.offset, e.len)).collect();
        assert_eq!(flat, [(0, 1 << 20, 2 << 20), (1, 2 << 20, 1 << 20), (0, 4 << 20, 1 << 20)]);
    }

    #[test]
    fn extents_outside_memory_are_refused() {
        for bad in
            [(4_u64 << 20, 4096), (3 << 20, 2 << 20), (0, 0), (1, 4096), (0, 5000), (u64::MAX - 4095, 4096)]
        {
            assert!(matches!(translate(&[bad], bad.1), Err(WindowError::Extent { .. })), "accepted {bad:?}");
        }
        assert!(matches!(translate(&[(0, 4096)], 8192), Err(WindowError::Sum { .. })));
        assert!(matches!(translate(&[(0, !4095)], 4096), Err(WindowError::Extent { .. })));
    }

    #[test]
    fn windows_must_lie_in_the_area_and_apart() {
        let mut windows = Windows::default();
        let range = |base, len| Range { base, len };
        windows.insert(1, range(WINDOW_AREA, 2 * HUGE_PAGE)).unwrap();
        for bad in [
            range(WINDOW_AREA - HUGE_PAGE, 2 * HUGE_PAGE),
            range(WINDOW_AREA + WINDOW_AREA_LEN, 4095),
            range(WINDOW_AREA + WINDOW_AREA_LEN - HUGE_PAGE, 2 * HUGE_PAGE),
            range(WINDOW_AREA + 4096, HUGE_PAGE),
            range(WINDOW_AREA, 0),
            range(u64::MAX - HUGE_PAGE + 1, HUGE_PAGE),
        ] {
            assert!(matches!(windows.insert(2, bad), Err(WindowError::Place { .. })), "accepted {bad:?}");
        }
        let inside = range(WINDOW_AREA + HUGE_PAGE, HUGE_PAGE);
        assert!(matches!(windows.insert(2, inside), Err(WindowError::Overlap { .. })));
        assert_eq!(
            windows.insert(1, range(WINDOW_AREA + 4 * HUGE_PAGE, HUGE_PAGE)),
            Err(WindowError::Number(1))
        );
        windows.remove(1);
        windows.insert(2, inside).unwrap();
    }
}
