//! Windows: memory shared with the worker, at the same address in both processes.
//!
//! This side chooses the address: the first free one in the window area, upward, in steps of 2 MiB.

use crate::connection::{Connection, ConnectionError};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA, WINDOW_AREA_LEN};

/// Addresses that are tried for one window: others in this process may have mapped something in the area.
const TRIES: u32 = 4096;
/// Addresses that the worker may refuse for one window, since something of its own lies there.
const REFUSALS: u32 = 8;

/// Why there is no window.
#[derive(Debug, Error)]
pub enum WindowError {
    #[error("making a window: {len} bytes are not a positive multiple of 2 MiB within the window area")]
    Length { len: u64 },
    #[error("making a window of {len} bytes: no free addresses in the window area")]
    AreaFull { len: u64 },
    #[error("making a window: reserving {len} bytes at {address:#x}")]
    Reserve { address: u64, len: u64, source: io::Error },
    #[error("making a window: mapping {len} bytes at {address:#x}")]
    Map { address: u64, len: u64, source: io::Error },
    #[error("making a window of {len} bytes")]
    Agent { len: u64, source: ConnectionError },
    #[error("making a window: this process was forked from one that uses the GPU")]
    Forked,
}

/// A window, mapped here and in the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The agent's number of it.
    pub number: u32,
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

impl Window {
    /// Whether `address` lies in the window.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.len
    }
}

/// The windows of a client.
#[derive(Debug)]
pub struct Windows {
    connection: Arc<Connection>,
    /// Address ranges in use: base → length.
    ranges: Mutex<BTreeMap<u64, u64>>,
}

impl Windows {
    pub fn new(connection: Arc<Connection>) -> Self {
        Windows { connection, ranges: Mutex::default() }
    }

    /// Makes a window of `len` bytes, a multiple of 2 MiB.
    pub fn allocate(&self, len: u64) -> Result<Window, WindowError> {
        if crate::fork::forked() {
            return Err(WindowError::Forked);
        }
        if len == 0 || !len.is_multiple_of(HUGE_PAGE) || len > WINDOW_AREA_LEN {
            return Err(WindowError::Length { len });
        }
        let mut from = WINDOW_AREA;
        for refusals in 1.. {
            let address = self.reserve(len, from)?;
            match self.fill(address, len) {
                Ok(number) => return Ok(Window { number, address, len }),
                Err(error) => {
                    self.forget(address, len);
                    let refused = matches!(
                        error,
                        WindowError::Agent {
                            source: ConnectionError::Refused { status: status::FAILED, .. },
                            ..
                        }
                    );
                    if !refused || refusals >= REFUSALS {
                        return Err(error);
                    }
                    crate::debug!("the worker refused a window of {len} bytes at {address:#x}");
                    from = address + len;
                }
            }
        }
        Err(WindowError::AreaFull { len })
    }

    /// Unmaps a window and gives it back. Nothing may use it any more, in the worker neither.
    pub fn free(&self, window: &Window) {
        if crate::fork::forked() {
            return;
        }
        self.forget(window.address, window.len);
        if let Err(error) = self.connection.window_free(window.number) {
            crate::warn!("giving back window {}: {error}", window.number);
        }
    }

    fn ranges(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `len` bytes of addresses, at `from` or the first free ones above.
    fn reserve(&self, len: u64, from: u64) -> Result<u64, WindowError> {
        let mut ranges = self.ranges();
        let mut address = from;
        for _ in 0..TRIES {
            address = first_gap(&ranges, address, len);
            if address + len > WINDOW_AREA + WINDOW_AREA_LEN {
                break;
            }
            match reserve_addresses(address, len) {
                Ok(()) => {
                    ranges.insert(address, len);
                    return Ok(address);
                }
                Err(rustix::io::Errno::EXIST) => address += HUGE_PAGE,
                Err(error) => return Err(WindowError::Reserve { address, len, source: error.into() }),
            }
        }
        Err(WindowError::AreaFull { len })
    }

    /// Gets memory for reserved addresses and maps it there; the agent's number of the window.
    fn fill(&self, address: u64, len: u64) -> Result<u32, WindowError> {
        let grant = self.connection.window_alloc(len, address);
        let grant = grant.map_err(|source| WindowError::Agent { len, source })?;
        let place = ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: the range is reserved by this value (PROT_NONE), so nothing else is mapped there.
        let mapped =
            unsafe { rustix::mm::mmap(place, len as usize, protection, flags, &grant.file, grant.offset) };
        if let Err(error) = mapped {
            let _ = self.connection.window_free(grant.window);
            return Err(WindowError::Map { address, len, source: error.into() });
        }
        // SAFETY: mapped just now; the advice only concerns children.
        if let Err(error) = unsafe { rustix::mm::madvise(place, len as usize, Advice::LinuxDontFork) } {
            crate::debug!("keeping a window from forked children: {error}");
        }
        Ok(grant.window)
    }

    /// Gives addresses free again.
    fn forget(&self, address: u64, len: u64) {
        let mut ranges = self.ranges();
        if ranges.remove(&address).is_some() {
            let place = ptr::with_exposed_provenance_mut::<c_void>(address as usize);
            // SAFETY: the range was this value's; callers of `free` promise that nothing uses the window.
            let _ = unsafe { rustix::mm::munmap(place, len as usize) };
        }
    }
}

/// The first address from `from` on at which `len` bytes meet none of `ranges`.
fn first_gap(ranges: &BTreeMap<u64, u64>, from: u64, len: u64) -> u64 {
    let mut address = from;
    if let Some((base, taken)) = ranges.range(..=from).next_back() {
        address = address.max(base + taken);
    }
    for (base, taken) in ranges.range(from..) {
        if address + len <= *base {
            break;
        }
        address = address.max(base + taken);
    }
    address
}

/// Maps `[address, address + len)` without access, if nothing is mapped there; `EXIST` if something is.
pub(crate) fn reserve_addresses(address: u64, len: u64) -> Result<(), rustix::io::Errno> {
    let place = ptr::with_exposed_provenance_mut::<c_void>(address as usize);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping.
    let got = unsafe { rustix::mm::mmap_anonymous(place, len as usize, ProtFlags::empty(), flags) }?;
    if got.addr() as u64 == address {
        return Ok(());
    }
    // Kernels before 4.17 take the address for a hint.
    // SAFETY: mapped just now, and not handed out.
    let _ = unsafe { rustix::mm::munmap(got, len as usize) };
    Err(rustix::io::Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_lowest_first() {
        let ranges = BTreeMap::from([(10, 5), (15, 5), (30, 10)]);
        assert_eq!(first_gap(&ranges, 0, 10), 0);
        assert_eq!(first_gap(&ranges, 0, 11), 40);
        assert_eq!(first_gap(&ranges, 12, 10), 20);
        assert_eq!(first_gap(&ranges, 12, 11), 40);
        assert_eq!(first_gap(&ranges, 35, 1), 40);
        assert_eq!(first_gap(&BTreeMap::new(), 7, 100), 7);
    }
}
