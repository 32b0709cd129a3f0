//! Packets of the shims' socket, checked and built.

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use vgpu_spec::wire::SMALL_PAGE;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::share::Token;
use vgpu_spec::wire::socket::{self as wire, MAX_PACKET, hello, kind};
use zerocopy::{FromBytes, IntoBytes};

/// The most descriptors in a reply.
const MAX_FDS: usize = 3;

/// A request of a shim, well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Hello {
        snapshot_only: bool,
        version: u64,
    },
    Lane,
    WindowAlloc {
        len: u64,
        address: u64,
    },
    WindowFree {
        window: u32,
    },
    /// Comes with a descriptor.
    WindowAdopt {
        len: u64,
        address: u64,
        offset: u64,
    },
    ShareFd {
        token: Token,
    },
    Reading {
        device: u32,
    },
}

/// Why a request is refused: the status for the shim and the reason for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    pub status: u32,
    pub why: String,
    /// Whether the shim can go on: not after a packet that is no request at all.
    pub last: bool,
}

impl Refusal {
    pub fn new(status: u32, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), last: false }
    }

    pub fn invalid(why: impl Into<String>) -> Self {
        Self::new(status::INVALID, why)
    }
}

/// Checks a packet.
pub fn parse(bytes: &[u8]) -> Result<Request, Refusal> {
    let wanted = size_of::<wire::Request>();
    let request = wire::Request::read_from_bytes(bytes).map_err(|_| Refusal {
        status: status::INVALID,
        why: format!("a packet has {} bytes, a request has {wanted}", bytes.len()),
        last: true,
    })?;
    match request.kind {
        kind::HELLO if request.arg0 & !hello::SNAPSHOT_ONLY != 0 => {
            Err(Refusal::new(status::UNSUPPORTED, format!("unknown flags {:#x} in HELLO", request.arg0)))
        }
        kind::HELLO => Ok(Request::Hello {
            snapshot_only: request.arg0 & hello::SNAPSHOT_ONLY != 0,
            version: request.arg1,
        }),
        kind::LANE => Ok(Request::Lane),
        kind::WINDOW_ALLOC => Ok(Request::WindowAlloc { len: request.arg0, address: request.arg1 }),
        kind::WINDOW_ADOPT => Ok(Request::WindowAdopt {
            len: request.arg0,
            address: request.arg1,
            offset: u64::from(request.arg2) * SMALL_PAGE,
        }),
        kind::SHARE_FD => Ok(Request::ShareFd { token: Token { low: request.arg0, high: request.arg1 } }),
        kind::READING => match u32::try_from(request.arg0) {
            Ok(device) => Ok(Request::Reading { device }),
            Err(_) => Err(Refusal::invalid(format!("no device has the ordinal {:#x}", request.arg0))),
        },
        kind::WINDOW_FREE => match u32::try_from(request.arg0) {
            Ok(window) => Ok(Request::WindowFree { window }),
            Err(_) => Err(Refusal::invalid(format!("no window has the number {:#x}", request.arg0))),
        },
        other => Err(Refusal::new(status::UNSUPPORTED, format!("unknown request kind {other}"))),
    }
}

/// Body and descriptors of a reply with status OK.
#[derive(Debug, Default)]
pub struct Reply<'a> {
    pub body: Vec<u8>,
    pub fds: Vec<BorrowedFd<'a>>,
}

/// The bytes of a reply.
pub fn encode(result: Result<&[u8], u32>) -> Vec<u8> {
    let (status, body) = match result {
        Ok(body) => (status::OK, body),
        Err(status) => (status, &[][..]),
    };
    let header = wire::ReplyHeader { status, len: body.len() as u32 };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends one packet.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u32, arg0: u64, arg1: u64) -> Vec<u8> {
        wire::Request { kind, arg2: 0, arg0, arg1 }.as_bytes().to_vec()
    }

    #[test]
    fn requests_are_told_apart() {
        let hello = Request::Hello { snapshot_only: true, version: 1 };
        assert_eq!(parse(&request(kind::HELLO, 1, 1)), Ok(hello));
        assert_eq!(parse(&request(kind::LANE, 0, 0)), Ok(Request::Lane));
        let alloc = Request::WindowAlloc { len: 2 << 20, address: 7 };
        assert_eq!(parse(&request(kind::WINDOW_ALLOC, 2 << 20, 7)), Ok(alloc));
        let adopt = wire::Request { kind: kind::WINDOW_ADOPT, arg2: u32::MAX, arg0: 4096, arg1: 7 };
        let offset = u64::from(u32::MAX) << 12;
        assert_eq!(parse(adopt.as_bytes()), Ok(Request::WindowAdopt { len: 4096, address: 7, offset }));
        assert_eq!(parse(&request(kind::WINDOW_FREE, 5, 0)), Ok(Request::WindowFree { window: 5 }));
    }

    #[test]
    fn an_ordinal_of_no_device_is_refused() {
        assert_eq!(parse(&request(kind::READING, 2, 0)), Ok(Request::Reading { device: 2 }));
        let refusal = parse(&request(kind::READING, 1 << 32, 0)).unwrap_err();
        assert_eq!((refusal.status, refusal.last), (status::INVALID, false));
    }

    #[test]
    fn unknown_kinds_and_flags_are_refused_and_the_shim_goes_on() {
        for packet in [request(0, 0, 0), request(99, 0, 0), request(kind::HELLO, 2, 1)] {
            let refusal = parse(&packet).unwrap_err();
            assert_eq!((refusal.status, refusal.last), (status::UNSUPPORTED, false));
        }
        assert_eq!(parse(&request(kind::WINDOW_FREE, 1 << 32, 0)).unwrap_err().status, status::INVALID);
    }

    #[test]
    fn a_packet_of_wrong_length_ends_the_connection() {
        let packet = request(kind::LANE, 0, 0);
        let longer = [&packet[..], &[0]].concat();
        for bytes in [&packet[..23], &longer, &[]] {
            let refusal = parse(bytes).unwrap_err();
            assert_eq!((refusal.status, refusal.last), (status::INVALID, true));
        }
    }

    #[test]
    fn a_refusal_carries_no_body() {
        assert_eq!(encode(Err(status::LIMIT)), [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(Ok(&[9, 8])), [0, 0, 0, 0, 2, 0, 0, 0, 9, 8]);
    }
}
