//! The file behind memory that this process shares with others, opened again: the program may have closed or unlinked it.

use crate::maps::{self, Mapping};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use std::path::{Path, PathBuf};

/// Opens the file that is mapped there, to be read and written; `None` if no way leads to it.
///
/// Links of /proc/self/map_files always do but need a privilege (proc(5)), its path does unless it was unlinked, and a descriptor does as
/// long as the program keeps one.
pub fn open(mapping: &Mapping) -> Option<OwnedFd> {
    let link = PathBuf::from(format!("/proc/self/map_files/{:x}-{:x}", mapping.start, mapping.end));
    let paths = std::iter::once(link).chain(maps::path(mapping)).chain(descriptors());
    paths.filter_map(|path| open_same(&path, mapping)).next()
}

fn descriptors() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

/// Looks before it opens: opening something else may block or have an effect.
fn open_same(path: &Path, mapping: &Mapping) -> Option<OwnedFd> {
    let is_same = |stat: &Stat| {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        regular && (stat.st_dev, stat.st_ino) == mapping.file
    };
    rustix::fs::stat(path).ok().filter(is_same)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::fstat(&file).ok().filter(is_same)?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags};

    /// Maps two pages of `file` from its second on.
    fn map(file: &OwnedFd) -> Mapping {
        rustix::fs::ftruncate(file, 3 << 12).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let base = std::ptr::null_mut();
        // SAFETY: the kernel picks a free range.
        let base = unsafe { rustix::mm::mmap(base, 2 << 12, protection, MapFlags::SHARED, file, 4096) };
        let address = base.unwrap().addr() as u64;
        let found = maps::within(address, 2 << 12).unwrap();
        assert_eq!((found.len(), found[0].offset, found[0].shared), (1, 4096, true));
        found[0]
    }

    fn same(mapping: &Mapping) -> bool {
        open(mapping).is_some_and(|file| {
            let stat = rustix::fs::fstat(&file).unwrap();
            (stat.st_dev, stat.st_ino) == mapping.file
        })
    }

    #[test]
    fn a_file_is_found_by_its_name_or_by_a_descriptor() {
        let path = format!("/dev/shm/vgpu test {}", std::process::id());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).unwrap();
        let mapping = map(&file);
        assert_eq!(maps::path(&mapping), Some(PathBuf::from(&path)));
        assert!(same(&mapping));
        std::fs::remove_file(&path).unwrap();
        assert!(same(&mapping), "by its descriptor");
    }

    #[test]
    fn another_file_of_the_same_name_is_not_taken() {
        let path = format!("/dev/shm/vgpu-test-other-{}", std::process::id());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).unwrap();
        let mapping = map(&file);
        std::fs::remove_file(&path).unwrap();
        drop(file);
        std::fs::write(&path, "another").unwrap();
        assert!(open_same(Path::new(&path), &mapping).is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
