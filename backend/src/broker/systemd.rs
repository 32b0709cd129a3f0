//! What systemd gives and is told, if it is who started the broker.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use rustix::io::{FdFlags, fcntl_setfd};

/// Listening sockets by the names that their units give them (FileDescriptorName=).
pub type Bound = BTreeMap<String, UnixListener>;

/// SD_LISTEN_FDS_START.
const FIRST: i32 = 3;
/// More than a host has VMs: what is beyond stays closed to us.
const MAX: i32 = 1024;

/// The sockets that systemd has bound for this process. To be called once, before anything else opens a descriptor.
pub fn sockets() -> Bound {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let mine = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|_| mine).unwrap_or(0).clamp(0, MAX);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut bound = Bound::new();
    for (fd, name) in (FIRST..FIRST + count).zip(names.split(':')) {
        // SAFETY: systemd opened this descriptor for this process, and nobody else here owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
        bound.insert(name.to_owned(), UnixListener::from(fd));
    }
    bound
}

/// Tells systemd, if it asked for it, that the sockets are served.
pub fn ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || {
        let socket = UnixDatagram::unbound()?;
        let name = path.to_string_lossy();
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(b"READY=1\n", &address)
    };
    if let Err(error) = send() {
        tracing::warn!("telling systemd: {error}");
    }
}
