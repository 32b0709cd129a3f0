//! Makes threads that write to a range wait, with a userfaultfd in write-protect mode (userfaultfd(2), ioctl_userfaultfd(2)).
//!
//! Kernel-mode writes (a read(2) into the range) fail with EFAULT meanwhile: unprivileged processes may only catch their own faults.

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

const USER_MODE_ONLY: i32 = 1;
const API: u64 = 0xaa;
/// UFFD_FEATURE_PAGEFAULT_FLAG_WP.
const FEATURE_WP: u64 = 1;
/// UFFDIO_REGISTER_MODE_WP.
const REGISTER_WP: u64 = 2;
/// UFFDIO_WRITEPROTECT_MODE_WP.
const PROTECT: u64 = 1;
/// `_IOWR(0xaa, …)` of UFFDIO_API, _REGISTER and _WRITEPROTECT.
const IOCTL_API: libc::Ioctl = 0xc018_aa3f;
const IOCTL_REGISTER: libc::Ioctl = 0xc020_aa00;
const IOCTL_PROTECT: libc::Ioctl = 0xc018_aa06;

/// A protected range. Dropping it lets the writers go on.
#[derive(Debug)]
pub struct WriteProtect {
    _file: OwnedFd,
}

impl WriteProtect {
    /// Protects `[address, address + len)`, whole pages; `None` if the kernel cannot.
    pub fn begin(address: u64, len: u64) -> Option<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
        // SAFETY: makes a descriptor, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: a new descriptor that nobody else has.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // struct uffdio_api, uffdio_register and uffdio_writeprotect.
        let mut api = [API, FEATURE_WP, 0];
        let mut register = [address, len, REGISTER_WP, 0];
        let mut protect = [address, len, PROTECT];
        ioctl(&file, IOCTL_API, &mut api)?;
        ioctl(&file, IOCTL_REGISTER, &mut register)?;
        // Only pages that are there can be protected.
        for page in (address..address + len).step_by(4096) {
            // SAFETY: the caller's range is mapped and readable.
            unsafe { ptr::with_exposed_provenance::<u8>(page as usize).read_volatile() };
        }
        ioctl(&file, IOCTL_PROTECT, &mut protect)?;
        Some(WriteProtect { _file: file })
    }
}

fn ioctl<const N: usize>(file: &OwnedFd, request: libc::Ioctl, argument: &mut [u64; N]) -> Option<()> {
    // SAFETY: the argument is the request's structure, of as many words.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument.as_mut_ptr()) };
    (result == 0).then_some(())
}
