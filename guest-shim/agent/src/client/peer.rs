//! Who is at the other end of a shim's socket.

use rustix::process::{Pid, PidfdFlags};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A process as the kernel names it; nothing of this is told by the process itself, but its name.
#[derive(Debug)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
    /// `/proc/<pid>/comm`, NUL-padded.
    pub name: [u8; 16],
    /// Readable when the process is gone: a child may hold the socket open for longer.
    pub process: Option<OwnedFd>,
}

impl Peer {
    /// Asks the kernel about `socket`.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        // 0 for a process of another pid namespace, which is not visible from here.
        let pid = credentials.pid.as_raw_nonzero().get();
        let process =
            Pid::from_raw(pid).and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        let comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Self { pid: pid.unsigned_abs(), uid: credentials.uid.as_raw(), name: padded(&comm), process })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = vgpu_spec::wire::snapshot::text(&self.name);
        write!(f, "pid {} ({}), user {}", self.pid, name.escape_debug(), self.uid)
    }
}

fn padded(comm: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    let text = comm.trim_ascii_end();
    // The last byte stays NUL.
    for (to, from) in name.iter_mut().take(15).zip(text) {
        *to = *from;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_end_with_nul() {
        assert_eq!(&padded(b"python3\n")[..9], b"python3\0\0");
        assert_eq!(padded(&[b'x'; 20])[14..], [b'x', 0]);
    }

    #[test]
    fn peer_of_a_socketpair_is_this_process() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.process.is_some());
    }
}
