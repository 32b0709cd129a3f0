//! Huge pages whose guest-physical addresses are known.

use crate::memory::{HUGE_PAGE_LEN, Mapping};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use vgpu_spec::wire::HUGE_PAGE;

/// The kernel's files on its pool of huge pages.
pub const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Bytes of a page in `/proc/self/pagemap`'s terms.
const SMALL_PAGE: u64 = 4096;
/// Memory that is left to the rest of the guest when the pool grows.
pub const KEEP_FREE: u64 = 64 << 20;

/// Why there are no huge pages.
#[derive(Debug, thiserror::Error)]
pub enum DmaError {
    #[error(
        "no huge pages: {wanted} of 2 MiB are wanted, {free} are free and the kernel gives no more ({available} MiB of memory \
         are available); set vm.nr_hugepages or pass hugepages=N on the kernel's command line"
    )]
    Short { wanted: u64, free: u64, available: u64 },
    #[error("no huge pages: this kernel has none of 2 MiB ({POOL} is missing)")]
    Unknown,
    #[error("creating huge pages")]
    Create(#[source] io::Error),
    #[error("finding the guest-physical address of a huge page")]
    Pagemap(#[source] io::Error),
    #[error(
        "finding the guest-physical address of a huge page: the kernel hides it ({0:#x}); the agent needs CAP_SYS_ADMIN"
    )]
    Hidden(u64),
}

/// Huge pages, mapped and present.
#[derive(Debug)]
pub struct HugeBlock {
    pub file: OwnedFd,
    pub mapping: Mapping,
    /// Of each page, in order.
    pub addresses: Vec<u64>,
}

/// The kernel's pool of huge pages.
#[derive(Debug)]
pub struct HugePages {
    pool: PathBuf,
    pagemap: File,
    /// One at a time looks at the pool and makes it grow.
    growing: Mutex<()>,
}

impl HugePages {
    pub fn new() -> Result<Self, DmaError> {
        let pool = PathBuf::from(POOL);
        if !pool.exists() {
            return Err(DmaError::Unknown);
        }
        let pagemap = File::open("/proc/self/pagemap").map_err(DmaError::Pagemap)?;
        Ok(Self { pool, pagemap, growing: Mutex::new(()) })
    }

    /// `count` huge pages in one file, zeroed.
    pub fn allocate(&self, name: &str, count: u64) -> Result<HugeBlock, DmaError> {
        let bytes = count.checked_mul(HUGE_PAGE).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or(DmaError::Create(io::ErrorKind::InvalidInput.into()))?;
        let file = file(name, bytes as u64).map_err(DmaError::Create)?;
        let mapping = self.map(&file, bytes, count)?;
        let starts = (0..bytes).step_by(HUGE_PAGE_LEN);
        let addresses = starts.map(|offset| self.address(&mapping, offset)).collect::<Result<_, _>>()?;
        Ok(HugeBlock { file, mapping, addresses })
    }

    /// Maps the file, with all pages there; the pool grows if it must.
    fn map(&self, file: &OwnedFd, bytes: usize, count: u64) -> Result<Mapping, DmaError> {
        let try_map = || match Mapping::new(file.as_fd(), 0, bytes, true) {
            Ok(mapping) => Ok(Some(mapping)),
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(None),
            Err(error) => Err(DmaError::Create(error)),
        };
        // Not under the lock: zeroing many pages takes long.
        if let Some(mapping) = try_map()? {
            return Ok(mapping);
        }
        let _one = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let available = available_memory();
        let missing = count.saturating_sub(self.free());
        if missing.saturating_mul(HUGE_PAGE).saturating_add(KEEP_FREE) <= available {
            // Pages beyond the pool are given back by themselves; if the kernel allows none, the pool itself grows.
            for (file, now) in
                [("nr_overcommit_hugepages", "surplus_hugepages"), ("nr_hugepages", "nr_hugepages")]
            {
                self.raise(file, self.read(now).saturating_add(missing));
                if let Some(mapping) = try_map()? {
                    return Ok(mapping);
                }
            }
        }
        Err(DmaError::Short { wanted: count, free: self.free(), available: available >> 20 })
    }

    /// Pages that nobody has or has reserved.
    fn free(&self) -> u64 {
        self.read("free_hugepages").saturating_sub(self.read("resv_hugepages"))
    }

    fn read(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.pool.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn raise(&self, file: &str, value: u64) {
        if self.read(file) >= value {
            return;
        }
        tracing::debug!("setting {file} to {value}");
        if let Err(error) = fs::write(self.pool.join(file), value.to_string()) {
            tracing::debug!("writing {file}: {error}");
        }
    }

    /// Guest-physical address of the huge page at `offset` of `mapping`.
    pub fn address(&self, mapping: &Mapping, offset: usize) -> Result<u64, DmaError> {
        let page = (mapping.address() as u64 + offset as u64) / SMALL_PAGE;
        let mut entry = [0; 8];
        self.pagemap.read_exact_at(&mut entry, page * 8).map_err(DmaError::Pagemap)?;
        decode(u64::from_le_bytes(entry))
    }
}

/// Documentation/admin-guide/mm/pagemap.rst: bit 63 present, bits 0 to 54 the page frame number, 0 if hidden.
fn decode(entry: u64) -> Result<u64, DmaError> {
    let frame = entry & ((1 << 55) - 1);
    if entry >> 63 == 0 || frame == 0 {
        return Err(DmaError::Hidden(entry));
    }
    let address = frame * SMALL_PAGE;
    if address.is_multiple_of(HUGE_PAGE) { Ok(address) } else { Err(DmaError::Hidden(entry)) }
}

fn file(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&file, bytes)?;
    // A client that could shrink the file would pull pages away under the device and the agent.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn available_memory() -> u64 {
    parse_available(&fs::read_to_string(Path::new("/proc/meminfo")).unwrap_or_default())
}

/// `MemAvailable` of `/proc/meminfo`, in bytes; 0 if it is not there.
pub fn parse_available(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pagemap_entries_are_decoded() {
        assert_eq!(decode(1 << 63 | 0x200).unwrap(), 2 << 20);
        assert!(matches!(decode(1 << 63), Err(DmaError::Hidden(_))), "hidden frame");
        assert!(matches!(decode(0x200), Err(DmaError::Hidden(_))), "not present");
        assert!(matches!(decode(1 << 63 | 0x201), Err(DmaError::Hidden(_))), "no huge page starts there");
    }

    #[test]
    fn available_memory_is_in_bytes() {
        let text = "MemTotal:       4 kB\nMemAvailable:      16 kB\n";
        assert_eq!(parse_available(text), 16384);
        assert_eq!(parse_available(""), 0);
    }
}
