//! Where things lie in a worker's address space.
//!
//! The broker executes workers with a soft stack limit of 16 TiB, so that the kernel places the mmap area, and with it
//! the driver's allocations, below the places where guest processes have their libraries.

use std::io;

use vgpu_spec::wire::{Range, WINDOW_AREA, WINDOW_AREA_LEN};

/// What threads get, and what the limit is set back to.
const STACK: u64 = 8 << 20;
/// Reported from here on, though the mappings start higher: the area grows downwards, and the driver does not always start
/// at its top. Position-independent programs lie below, at 0x55…–0x56….
const LOWEST: u64 = 0x5800_0000_0000;
/// Above this the mmap area was not steered away: guest processes have their libraries there.
const HIGHEST: u64 = 0x7800_0000_0000;
/// The range that NVIDIA's driver reserves in every process, for virtual memory management and pools.
const DRIVER_RESERVED: Range = Range { base: 0x2_0000_0000, len: 0x32_a000_0000 - 0x2_0000_0000 };

/// Why the address space could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("setting the stack limit back")]
    StackLimit(#[source] rustix::io::Errno),
    #[error("setting the default stack size of threads")]
    ThreadStack(#[source] io::Error),
    #[error("reserving the window area at {WINDOW_AREA:#x}")]
    Windows(#[source] rustix::io::Errno),
    #[error("reading /proc/self/maps")]
    Maps(#[source] io::Error),
}

unsafe extern "C" {
    /// glibc; not in the libc crate.
    fn pthread_setattr_default_np(attr: *const libc::pthread_attr_t) -> libc::c_int;
}

/// Sets stacks back to 8 MiB. Before any thread starts: each would get a mapping of 16 TiB.
pub fn restore_stacks() -> Result<(), AddressError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Stack);
    let current = limit.maximum.map_or(STACK, |hard| hard.min(STACK));
    setrlimit(Resource::Stack, Rlimit { current: Some(current), maximum: limit.maximum })
        .map_err(AddressError::StackLimit)?;
    let mut attr = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    let size = usize::try_from(STACK).unwrap_or(usize::MAX);
    // SAFETY: the attribute lives on this stack and is initialised by the first call before the others use it.
    let result = unsafe {
        match libc::pthread_attr_init(attr.as_mut_ptr()) {
            0 => {
                let set = libc::pthread_attr_setstacksize(attr.as_mut_ptr(), size);
                let result = if set == 0 { pthread_setattr_default_np(attr.as_ptr()) } else { set };
                libc::pthread_attr_destroy(attr.as_mut_ptr());
                result
            }
            error => error,
        }
    };
    match result {
        0 => Ok(()),
        error => Err(AddressError::ThreadStack(io::Error::from_raw_os_error(error))),
    }
}

/// Reserves the window area, before anything else can come to lie there.
pub fn reserve_windows() -> Result<(), AddressError> {
    reserve(WINDOW_AREA, WINDOW_AREA_LEN, rustix::mm::MapFlags::FIXED_NOREPLACE)
        .map_err(AddressError::Windows)
}

/// Puts an inaccessible mapping over `[address, address + len)`, which must lie in the window area.
pub fn unreserve_to_none(address: u64, len: u64) -> Result<(), rustix::io::Errno> {
    reserve(address, len, rustix::mm::MapFlags::FIXED)
}

/// Puts an inaccessible mapping over `[address, address + len)`, where nothing may be yet.
pub fn reserve_new(address: u64, len: u64) -> Result<(), rustix::io::Errno> {
    reserve(address, len, rustix::mm::MapFlags::FIXED_NOREPLACE)
}

fn reserve(address: u64, len: u64, fixed: rustix::mm::MapFlags) -> Result<(), rustix::io::Errno> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let at = std::ptr::with_exposed_provenance_mut(address as usize);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | fixed;
    // SAFETY: with FIXED_NOREPLACE nothing is replaced; with FIXED the caller names a part of the window area, in which
    // only windows lie.
    let mapped = unsafe { mmap_anonymous(at, len as usize, ProtFlags::empty(), flags) }?;
    if mapped == at {
        return Ok(());
    }
    // Kernels before 4.17 take FIXED_NOREPLACE for a hint.
    // SAFETY: mapped just now.
    let _ = unsafe { rustix::mm::munmap(mapped, len as usize) };
    Err(rustix::io::Errno::EXIST)
}

/// The ranges in which the driver places device memory, for the guest process to keep free.
///
/// To be called when CUDA is loaded and has its context: its mappings show where the area is.
pub fn device_ranges() -> Result<[Range; 4], AddressError> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(AddressError::Maps)?;
    let none = Range::default();
    Ok([mmap_area(&maps).unwrap_or(none), DRIVER_RESERVED, none, none])
}

/// From [`LOWEST`] up to the highest mapping of the mmap area; `None` if it was not steered.
fn mmap_area(maps: &str) -> Option<Range> {
    let range = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    let inside = maps.lines().filter_map(range).filter(|&(start, end)| start >= LOWEST && end <= HIGHEST);
    let highest = inside.map(|(_, end)| end).max()?;
    let end = highest.checked_next_multiple_of(vgpu_spec::wire::HUGE_PAGE)?;
    Some(Range { base: LOWEST, len: end - LOWEST })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_range_reaches_up_to_the_highest_mapping_of_the_area() {
        let maps = "200000000-32a0000000 ---p 0 00:00 0\n\
                    555555554000-555555600000 r-xp 0 08:01 1 /usr/bin/x\n\
                    6e0000000000-6e0000200000 rw-p 0 00:00 0\n\
                    6f1234500000-6f1234600000 r-xp 0 08:01 2 /lib/libc.so.6\n\
                    7ffc00000000-7ffc00021000 rw-p 0 00:00 0 [stack]\n";
        let range = mmap_area(maps).unwrap();
        assert_eq!(range.base, LOWEST);
        assert_eq!(range.end(), Some(0x6f12_3460_0000));
    }

    #[test]
    fn unsteered_process_has_no_range() {
        let maps =
            "555555554000-555555600000 r-xp 0 08:01 1 /x\n7f1234500000-7f1234600000 r-xp 0 08:01 2 /lib/x\n";
        assert_eq!(mmap_area(maps), None);
    }
}
