//! Files of programs that become windows: what is checked before the broker is told of one.
//!
//! The file stays the program's, which can cut it short at any time: nothing here or in the broker touches its contents. Only memory file
//! systems, since others may make whoever asks for a file's length wait for ever.

use crate::carrier::MemoryError;
use crate::memory::Mapping;
use rustix::fs::{FileType, SealFlags};
use std::os::fd::BorrowedFd;
use vgpu_spec::wire::SMALL_PAGE;

/// `TMPFS_MAGIC` (linux/magic.h): /dev/shm, memfds, and shared memory without a name.
const TMPFS: u64 = 0x0102_1994;

/// Bytes of `file` that lie in `[offset, offset + len)`, whole pages, of which the last may be the one in which the file ends. The broker
/// will be able to map them.
pub fn check(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, MemoryError> {
    let refuse = |why: &str| MemoryError::Adopt { len, why: why.into() };
    let failed = |error: rustix::io::Errno| MemoryError::Adopt { len, why: error.to_string() };
    let system = rustix::fs::fstatfs(file).map_err(failed)?;
    if u64::try_from(system.f_type) != Ok(TMPFS) {
        return Err(refuse("it is on no memory file system"));
    }
    // A seal that the program adds now could make the broker's mapping fail.
    let seals = rustix::fs::fcntl_get_seals(file).map_err(failed)?;
    if !seals.contains(SealFlags::SEAL) {
        return Err(refuse("it can be sealed against writing"));
    }
    let stat = rustix::fs::fstat(file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("it is no regular file"));
    }
    let size = u64::try_from(stat.st_size).map_err(|_| refuse("it has no length"))?;
    let held = size.saturating_sub(offset).min(len);
    let pages = len.is_multiple_of(SMALL_PAGE) && offset.is_multiple_of(SMALL_PAGE);
    if len == 0 || !pages || held.checked_next_multiple_of(SMALL_PAGE) != Some(len) {
        return Err(refuse("it is shorter, or these are not whole pages of it"));
    }
    let bytes = usize::try_from(held).map_err(|_| refuse("it is too long"))?;
    // What the broker could not map would end its connection; a mapping that is made but not touched cannot fault.
    match Mapping::new(file, offset, bytes, false) {
        Ok(_) => Ok(held),
        Err(error) => Err(refuse(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sparse_file;
    use rustix::fs::{MemfdFlags, Mode, OFlags};
    use std::os::fd::{AsFd, OwnedFd};

    fn memfd(len: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        file
    }

    #[test]
    fn whole_pages_of_a_memory_file_are_taken() {
        let file = memfd(3 * SMALL_PAGE - 1);
        for (offset, len) in [(0, 3), (1, 2), (2, 1)] {
            let held = check(file.as_fd(), offset * SMALL_PAGE, len * SMALL_PAGE).unwrap();
            assert_eq!(held, len * SMALL_PAGE - 1, "the file ends within its last page");
        }
        assert_eq!(check(file.as_fd(), SMALL_PAGE, SMALL_PAGE).unwrap(), SMALL_PAGE);
        for (offset, len) in [(0, 0), (0, 4), (1, 3), (3, 1), (u64::MAX >> 12, 2)]
            .map(|(offset, len)| (offset * SMALL_PAGE, len * SMALL_PAGE))
            .into_iter()
            .chain([(1, SMALL_PAGE), (0, 1), (0, !4095)])
        {
            assert!(check(file.as_fd(), offset, len).is_err(), "accepted {offset:#x} {len:#x}");
        }
    }

    #[test]
    fn other_files_and_those_that_cannot_be_written_are_refused() {
        let pipe = rustix::pipe::pipe().unwrap();
        let folder = rustix::fs::open("/dev/shm", OFlags::RDONLY, Mode::empty()).unwrap();
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        let proc = rustix::fs::open("/proc/self/stat", OFlags::RDONLY, Mode::empty()).unwrap();
        for file in [&pipe.0, &folder, &null, &proc] {
            assert!(check(file.as_fd(), 0, SMALL_PAGE).is_err());
        }
        let sealed = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&sealed, SMALL_PAGE).unwrap();
        assert!(check(sealed.as_fd(), 0, SMALL_PAGE).is_err(), "it may get any seal yet");
        rustix::fs::fcntl_add_seals(&sealed, SealFlags::SEAL | SealFlags::WRITE).unwrap();
        assert!(check(sealed.as_fd(), 0, SMALL_PAGE).is_err());
        let whole = sparse_file("test", SMALL_PAGE).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&whole));
        let read_only = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        assert!(check(read_only.as_fd(), 0, SMALL_PAGE).is_err());
        assert!(check(whole.as_fd(), 0, SMALL_PAGE).is_ok());
    }
}
