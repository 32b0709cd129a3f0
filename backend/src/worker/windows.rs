//! Windows: guest memory, mapped at the addresses at which the guest process has it, and registered with the driver.

use std::os::fd::OwnedFd;
use std::sync::{PoisonError, RwLock};

use rustix::mm::{MapFlags, ProtFlags};
use vgpu_spec::wire::{Range, WINDOW_AREA, WINDOW_AREA_LEN, is_window_place};

use super::{address_space, api};
use crate::link::message::Extent;

/// Why a window could not be mapped or unmapped.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    #[error("{base:#x}+{len:#x} is not a place for a window")]
    Place { base: u64, len: u64 },
    #[error("{base:#x}+{len:#x} overlaps a window")]
    Overlap { base: u64, len: u64 },
    #[error("{base:#x}+{len:#x} meets something of the worker's own")]
    Taken { base: u64, len: u64, source: rustix::io::Errno },
    #[error("there is no window {base:#x}+{len:#x}")]
    Unknown { base: u64, len: u64 },
    #[error("the extents do not fit the window")]
    Extents,
    #[error("mapping {len:#x} bytes at {base:#x} (offset {offset:#x})")]
    Map { base: u64, len: u64, offset: u64, source: rustix::io::Errno },
    #[error("the driver refused the window {base:#x}+{len:#x} with CUresult {status}")]
    Register { base: u64, len: u64, status: u32 },
}

/// The mapped windows, sorted by address.
#[derive(Debug, Default)]
pub struct Windows {
    ranges: RwLock<Vec<Range>>,
}

impl Windows {
    /// Whether `[address, address + len)` lies in windows, of which several may adjoin.
    pub fn contains(&self, address: u64, len: u64) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let mut index = ranges.partition_point(|r| r.base <= address);
        if index == 0 {
            return false;
        }
        // No overflow: windows end below 2^47.
        let mut covered = ranges[index - 1].base + ranges[index - 1].len;
        if address >= covered {
            return false;
        }
        while covered < end {
            match ranges.get(index) {
                Some(next) if next.base == covered => covered += next.len,
                _ => return false,
            }
            index += 1;
        }
        true
    }

    /// Maps `extents` of `files` one after another over `window` and registers the window with the driver.
    ///
    /// Nothing stays mapped after an error.
    pub fn map(&self, window: Range, extents: &[Extent], files: &[OwnedFd]) -> Result<(), WindowError> {
        let Range { base, len } = window;
        if !is_window_place(base, len) {
            return Err(WindowError::Place { base, len });
        }
        let sum = extents.iter().try_fold(0_u64, |sum, e| sum.checked_add(e.len));
        if sum != Some(len) || extents.iter().any(|e| e.file as usize >= files.len()) {
            return Err(WindowError::Extents);
        }
        let overlaps = |r: &Range| base < r.base + r.len && r.base < base + len;
        if self.ranges.read().unwrap_or_else(PoisonError::into_inner).iter().any(overlaps) {
            return Err(WindowError::Overlap { base, len });
        }
        if !in_area(window) {
            // SECURITY: where the guest has memory this process may have something of its own, which must stay.
            address_space::reserve_new(base, len).map_err(|source| WindowError::Taken {
                base,
                len,
                source,
            })?;
        }
        let result = map_extents(base, extents, files).and_then(|()| {
            api::register_window(base, len).map_err(|status| WindowError::Register { base, len, status })
        });
        if let Err(error) = result {
            clear(window);
            return Err(error);
        }
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let index = ranges.partition_point(|r| r.base < base);
        ranges.insert(index, window);
        Ok(())
    }

    /// Takes a window out of the driver's registration and out of the address space.
    pub fn unmap(&self, window: Range) -> Result<(), WindowError> {
        let Range { base, len } = window;
        {
            let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
            let index = ranges.iter().position(|r| *r == window).ok_or(WindowError::Unknown { base, len })?;
            ranges.remove(index);
        }
        if let Err(status) = api::unregister_window(base) {
            // After a sticky error the driver refuses everything; the memory goes back to the guest all the same.
            tracing::debug!("unregistering the window {base:#x}: CUresult {status}");
        }
        clear(window);
        Ok(())
    }
}

fn map_extents(mut base: u64, extents: &[Extent], files: &[OwnedFd]) -> Result<(), WindowError> {
    for extent in extents {
        let Some(file) = files.get(extent.file as usize) else { return Err(WindowError::Extents) };
        let at = std::ptr::with_exposed_provenance_mut(base as usize);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range lies in the window area, where no window is and nothing else can be, or was reserved by the caller.
        let mapped = unsafe { rustix::mm::mmap(at, extent.len as usize, prot, flags, file, extent.offset) };
        mapped.map_err(|source| WindowError::Map { base, len: extent.len, offset: extent.offset, source })?;
        base += extent.len;
    }
    Ok(())
}

fn in_area(window: Range) -> bool {
    Range { base: WINDOW_AREA, len: WINDOW_AREA_LEN }.contains(window.base, window.len)
}

/// Takes a window's memory away: in the window area the reservation is there again, outside nothing is.
fn clear(window: Range) {
    let cleared = if in_area(window) {
        address_space::unreserve_to_none(window.base, window.len)
    } else {
        let at = std::ptr::with_exposed_provenance_mut(window.base as usize);
        // SAFETY: the range was reserved for this window, and nothing uses it any more.
        unsafe { rustix::mm::munmap(at, window.len as usize) }
    };
    if let Err(error) = cleared {
        // Then guest memory would stay mapped behind the broker's back: better no worker.
        tracing::error!("unmapping the window {:#x}+{:#x}: {error}", window.base, window.len);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(ranges: &[(u64, u64)]) -> Windows {
        Windows { ranges: RwLock::new(ranges.iter().map(|&(base, len)| Range { base, len }).collect()) }
    }

    #[test]
    fn contains_crosses_adjoining_windows_and_no_gap() {
        let w = windows(&[(0x1000, 0x1000), (0x2000, 0x1000), (0x4000, 0x1000)]);
        for (address, len, expected) in [
            (0x1000, 0x1000, true),
            (0x1800, 0x1000, true),
            (0x1000, 0x2000, true),
            (0x1000, 0x2001, false),
            (0xfff, 1, false),
            (0x2fff, 1, true),
            (0x3000, 1, false),
            (0x3000, 0, false),
            (0x4fff, 2, false),
            (0x4000, u64::MAX, false),
        ] {
            assert_eq!(w.contains(address, len), expected, "{address:#x}+{len:#x}");
        }
        assert!(!windows(&[]).contains(0, 0));
    }
}
