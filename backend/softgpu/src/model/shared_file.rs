//! Files in memory, found by other processes through `/proc`: the process's device memory, tickets for what it exports, and the pages
//! of events.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{CudaError, Result};

/// Bytes of a handle that programs pass on.
pub const HANDLE: usize = 64;

/// A new file in memory of `size` bytes, all zero.
pub fn memory_file(size: u64) -> Result<OwnedFd> {
    let size = libc::off_t::try_from(size).map_err(|_| CudaError::OutOfMemory)?;
    // SAFETY: the name is a string that lives as long as the call.
    let file = unsafe { libc::memfd_create(c"vgpu-softgpu".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(CudaError::OutOfMemory);
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: a live descriptor of our own.
    if unsafe { libc::ftruncate(file.as_raw_fd(), size) } != 0 {
        return Err(CudaError::OutOfMemory);
    }
    Ok(file)
}

/// A duplicate of a descriptor.
pub fn duplicate(file: i32) -> Result<OwnedFd> {
    // SAFETY: fails for a number that is not open.
    let copy = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Bytes and inode of a file.
pub fn size_and_inode(file: &OwnedFd) -> Result<(u64, u64)> {
    // SAFETY: zeros are a value of this structure of numbers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a live descriptor, and a place for the answer.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(CudaError::InvalidValue);
    }
    Ok((u64::try_from(stat.st_size).unwrap_or(0), stat.st_ino))
}

/// Numbers at `offset` of a file; `INVALID_VALUE` if it is too short or cannot be read.
pub fn read<const N: usize>(file: &OwnedFd, offset: u64) -> Result<[u64; N]> {
    let mut values = [0_u64; N];
    let offset = libc::off_t::try_from(offset).map_err(|_| CudaError::InvalidValue)?;
    let length = size_of_val(&values);
    // SAFETY: room for as many bytes as are asked for.
    let got = unsafe { libc::pread(file.as_raw_fd(), values.as_mut_ptr().cast(), length, offset) };
    if usize::try_from(got) == Ok(length) { Ok(values) } else { Err(CudaError::InvalidValue) }
}

/// Writes numbers at `offset` of a file.
pub fn write(file: &OwnedFd, offset: u64, values: &[u64]) -> Result {
    let offset = libc::off_t::try_from(offset).map_err(|_| CudaError::InvalidValue)?;
    let length = size_of_val(values);
    // SAFETY: as many bytes as are written.
    let put = unsafe { libc::pwrite(file.as_raw_fd(), values.as_ptr().cast(), length, offset) };
    if usize::try_from(put) == Ok(length) { Ok(()) } else { Err(CudaError::OutOfMemory) }
}

/// Maps a part of a file for reading and writing; gives the address.
pub fn map(file: &OwnedFd, offset: u64, length: u64) -> Result<u64> {
    let length = usize::try_from(length).map_err(|_| CudaError::OutOfMemory)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| CudaError::InvalidValue)?;
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE);
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, flags, file.as_raw_fd(), offset) };
    if start == libc::MAP_FAILED {
        return Err(CudaError::OutOfMemory);
    }
    u64::try_from(start.expose_provenance()).map_err(|_| CudaError::OutOfMemory)
}

/// Takes a mapping of this module's away, which nothing uses any more.
pub fn unmap(base: u64, length: u64) {
    if let (Ok(base), Ok(length)) = (usize::try_from(base), usize::try_from(length)) {
        // SAFETY: the caller's own mapping, which nothing uses.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(base), length) };
    }
}

/// Gives the memory of a part of a file back.
pub fn punch(file: &OwnedFd, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length)) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a live descriptor of our own.
        unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) };
    }
}

/// A file of another process, as it is named in a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Tells what the handle is for.
    pub magic: u64,
    /// The process.
    pub pid: u64,
    /// The descriptor there.
    pub descriptor: u64,
    /// The file's inode: the descriptor may be another file's by now.
    pub inode: u64,
}

impl Name {
    /// The name of a file of this process.
    pub fn of(magic: u64, file: &OwnedFd) -> Result<Name> {
        let descriptor = u64::try_from(file.as_raw_fd()).map_err(|_| CudaError::InvalidValue)?;
        Ok(Name { magic, pid: u64::from(std::process::id()), descriptor, inode: size_and_inode(file)?.1 })
    }

    /// The bytes of a handle.
    pub fn to_handle(self) -> [u8; HANDLE] {
        let mut bytes = [0; HANDLE];
        for (place, value) in
            bytes.chunks_exact_mut(8).zip([self.magic, self.pid, self.descriptor, self.inode])
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The name in a handle that is for `magic`.
    pub fn from_handle(bytes: &[u8; HANDLE], magic: u64) -> Option<Name> {
        let mut words = bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next().unwrap_or(0);
        let name = Name { magic: next(), pid: next(), descriptor: next(), inode: next() };
        (name.magic == magic && words.all(|word| word == 0)).then_some(name)
    }

    /// Whether it is a file of this process.
    pub fn is_own(&self) -> bool {
        self.pid == u64::from(std::process::id())
    }

    /// Whether the process has ended, though it may not be reaped yet.
    pub fn is_process_gone(&self) -> bool {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).is_err()
    }

    /// Opens the file; none if it is not there any more.
    pub fn open(&self) -> Option<OwnedFd> {
        let file = open_descriptor(self.pid, self.descriptor)?;
        (size_and_inode(&file).ok()?.1 == self.inode).then_some(file)
    }
}

/// Opens what a process has as `descriptor`.
pub fn open_descriptor(pid: u64, descriptor: u64) -> Option<OwnedFd> {
    let path = CString::new(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    // A name may be a lie: what it leads to must not make this process wait.
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: a string that lives as long as the call.
    let file = unsafe { libc::open(path.as_ptr(), flags) };
    if file < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(file) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_by_its_name_until_it_is_closed() {
        let file = memory_file(4096).unwrap();
        write(&file, 8, &[7, 9]).unwrap();
        let name = Name::of(5, &file).unwrap();
        let handle = name.to_handle();
        assert_eq!(Name::from_handle(&handle, 5), Some(name));
        assert_eq!(Name::from_handle(&handle, 6), None);
        assert_eq!(read(&name.open().unwrap(), 8), Ok([7, 9]));
        assert_eq!(read::<1>(&file, 4096), Err(CudaError::InvalidValue));
        drop(file);
        assert!(name.open().is_none());
    }
}
