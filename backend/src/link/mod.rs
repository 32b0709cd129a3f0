//! The socket between the broker and a worker: `SOCK_SEQPACKET`, one packet a message, descriptors by `SCM_RIGHTS`.
//!
//! Private to this binary, so both ends always have the same version. The broker still treats what a worker says as
//! hostile: packets are bounded, and bodies are parsed with checks.

pub mod helper;
pub mod message;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use zerocopy::{FromBytes, IntoBytes};

use message::Header;

/// The most bytes of a packet, header included. Below the kernel's default send buffer.
pub const MAX_PACKET: usize = 128 << 10;
/// The most descriptors of a packet (the kernel's limit is 253).
pub const MAX_FDS: usize = 64;

/// What went wrong on the link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("making the socket pair of a worker")]
    Pair(#[source] rustix::io::Errno),
    #[error("sending a packet of {len} bytes and {fds} descriptors")]
    Send { len: usize, fds: usize, source: rustix::io::Errno },
    #[error("sending a packet: {len} bytes and {fds} descriptors are over the limit")]
    TooLarge { len: usize, fds: usize },
    #[error("receiving a packet")]
    Receive(#[source] rustix::io::Errno),
    #[error("receiving a packet: the other side is gone")]
    Closed,
    #[error("receiving a packet: it is malformed or larger than {MAX_PACKET} bytes")]
    Malformed,
}

/// A packet, received.
#[derive(Debug)]
pub struct Packet {
    pub header: Header,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Both ends; both are close-on-exec.
    pub fn pair() -> Result<(Link, Link), LinkError> {
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(LinkError::Pair)?;
        Ok((Link { socket: a }, Link { socket: b }))
    }

    /// An end from its descriptor.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Link { socket }
    }

    /// Sends `header` (its `len` is filled in), `body` and `fds` as one packet.
    pub fn send(&self, header: Header, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        self.send_with(header, body, fds, SendFlags::empty())
    }

    /// As [`Link::send`], but fails with EAGAIN instead of waiting for room.
    pub fn send_now(&self, header: Header, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        self.send_with(header, body, fds, SendFlags::DONTWAIT)
    }

    fn send_with(
        &self,
        mut header: Header,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> Result<(), LinkError> {
        let len = size_of::<Header>() + body.len();
        let too_large = LinkError::TooLarge { len, fds: fds.len() };
        if len > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(too_large);
        }
        header.len = u32::try_from(body.len()).map_err(|_| too_large)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(LinkError::TooLarge { len, fds: fds.len() });
        }
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        // NOSIGNAL: a dead peer must be an error here, not a SIGPIPE.
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL | flags)
        })
        .map(|_| ())
        .map_err(|source| LinkError::Send { len, fds: fds.len(), source })
    }

    /// Waits for a packet.
    pub fn receive(&self) -> Result<Packet, LinkError> {
        let mut bytes = vec![0_u8; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::io::retry_on_intr(|| {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        })
        .map_err(LinkError::Receive)?;
        let mut fds = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = item {
                fds.extend(received);
            }
        }
        if message.bytes == 0 {
            return Err(LinkError::Closed);
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(LinkError::Malformed);
        }
        bytes.truncate(message.bytes);
        let (header, body) = Header::read_from_prefix(&bytes).map_err(|_| LinkError::Malformed)?;
        if header.len as usize != body.len() {
            return Err(LinkError::Malformed);
        }
        Ok(Packet { header, body: body.to_vec(), fds })
    }

    /// Ends the link for both sides: a `receive` in another thread returns.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until `fd` is readable; false after `timeout` (forever if none).
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<std::time::Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = timeout.map(|t| std::time::Instant::now() + t);
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(std::time::Instant::now()));
        let spec = match left {
            Some(d) => Some(Timespec::try_from(d).map_err(io::Error::other)?),
            None => None,
        };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, spec.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_with_descriptors_arrives_whole() {
        let (a, b) = Link::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let header = Header { kind: 7, seq: 9, ..Header::default() };
        a.send(header, b"body", &[write.as_fd()]).unwrap();
        drop(write);
        let packet = b.receive().unwrap();
        assert_eq!((packet.header.kind, packet.header.seq), (7, 9));
        assert_eq!(packet.body, b"body");
        rustix::io::write(&packet.fds[0], b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn packet_with_wrong_length_is_refused() {
        let (a, b) = Link::pair().unwrap();
        let header = Header { kind: 1, seq: 1, status: 0, len: 5 };
        rustix::net::send(&a.socket, header.as_bytes(), SendFlags::empty()).unwrap();
        assert!(matches!(b.receive(), Err(LinkError::Malformed)));
        rustix::net::send(&a.socket, &[1, 2, 3], SendFlags::empty()).unwrap();
        assert!(matches!(b.receive(), Err(LinkError::Malformed)));
        drop(a);
        assert!(matches!(b.receive(), Err(LinkError::Closed)));
    }
}
