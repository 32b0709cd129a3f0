//! Huge pages in small pieces. A file of huge pages can only be mapped in units of 2 MiB; the kernel's udmabuf driver makes a dma-buf of
//! the same memory, which can be mapped in units of 4 KiB.
//!
//! Kernels 5.14 to 6.4, and from 6.11 on, take huge pages.

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const DEVICE: &str = "/dev/udmabuf";
/// The most MiB of one dma-buf: 64 unless it is raised.
const LIMIT: &str = "/sys/module/udmabuf/parameters/size_limit_mb";
/// `_IOW('u', 0x42, struct udmabuf_create)`.
const CREATE: libc::Ioctl = 0x4018_7542;
const CLOEXEC: u32 = 1;

/// `struct udmabuf_create` (linux/udmabuf.h).
#[repr(C)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const _: () = assert!(size_of::<Create>() == 24);

/// A dma-buf of the first `len` bytes of `file`, a memfd that is sealed against shrinking.
pub fn share(file: &OwnedFd, len: u64) -> io::Result<OwnedFd> {
    raise_limit(len);
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let memfd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let create = Create { memfd, flags: CLOEXEC, offset: 0, size: len };
    // SAFETY: the structure outlives the call, which only reads it.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), CREATE, &raw const create) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raise_limit(len: u64) {
    let wanted = len.div_ceil(1 << 20);
    let now = std::fs::read_to_string(LIMIT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if now.is_some_and(|now| now < wanted)
        && let Err(error) = std::fs::write(LIMIT, wanted.to_string())
    {
        tracing::debug!("raising {LIMIT} to {wanted}: {error}");
    }
}
