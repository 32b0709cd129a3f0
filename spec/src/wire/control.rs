//! Queue 0 (requests of the agent, answered by the broker) and queue 1 (events of the broker).
//!
//! A request is a descriptor chain: device-readable [`RequestHeader`] and body, then device-writable space for
//! [`ReplyHeader`] and body. The reply space must hold [`MAX_REPLY`] bytes. One request may be outstanding.

use super::{Range, share::Token};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Queue numbers.
pub const CONTROL_QUEUE: u16 = 0;
pub const EVENT_QUEUE: u16 = 1;
/// Lanes are the queues from this one on.
pub const FIRST_LANE: u16 = 2;

/// The most bytes of a request, header included.
pub const MAX_REQUEST: usize = 64 << 10;
/// The most bytes of a reply, header included.
pub const MAX_REPLY: usize = 64 << 10;
/// The most extents in one [`WindowMap`]; a larger window is sent as several, each with its own part.
pub const MAX_EXTENTS: usize = 2048;

/// `RequestHeader::kind`.
pub mod kind {
    /// [`super::Hello`] → [`super::HelloReply`]. The first request.
    pub const HELLO: u32 = 1;
    /// No body → [`crate::wire::snapshot`] bytes.
    pub const SNAPSHOT: u32 = 2;
    /// [`super::ClientOpen`] → [`super::ClientOpenReply`].
    pub const CLIENT_OPEN: u32 = 3;
    /// [`super::ClientClose`] → no body. OK when the client's worker is gone and its lanes are drained, AGAIN until then.
    pub const CLIENT_CLOSE: u32 = 4;
    /// [`super::LaneAttach`] → [`super::LaneAttachReply`].
    pub const LANE_ATTACH: u32 = 5;
    /// [`super::WindowMap`] and its extents → no body.
    pub const WINDOW_MAP: u32 = 6;
    /// [`super::WindowUnmap`] → no body.
    pub const WINDOW_UNMAP: u32 = 7;
    /// [`super::ShareKeep`] → no body. The file that a client exported stays when the client ends.
    pub const SHARE_KEEP: u32 = 8;
    /// [`super::ShareDrop`] → no body. Nobody holds a kept file any more.
    pub const SHARE_DROP: u32 = 9;
    /// [`crate::wire::reading::ReadingRequest`] → [`crate::wire::reading`] bytes.
    pub const READING: u32 = 10;
}

/// `ReplyHeader::status`.
pub mod status {
    pub const OK: u32 = 0;
    /// The request is malformed, or its lengths, numbers or addresses are out of bounds.
    pub const INVALID: u32 = 1;
    /// The request's kind or protocol version is not known here.
    pub const UNSUPPORTED: u32 = 2;
    /// A limit of the host is reached (clients, lanes, windows).
    pub const LIMIT: u32 = 3;
    /// No worker could be started; the broker's log says why.
    pub const NO_WORKER: u32 = 4;
    /// The client is not known, or its worker is lost.
    pub const NO_CLIENT: u32 = 5;
    /// The worker refused (a window could not be mapped or registered).
    pub const FAILED: u32 = 6;
    /// It has begun and is not over: the same request again, a little later, tells whether it is.
    pub const AGAIN: u32 = 7;

    /// What a status says, for messages.
    pub fn describe(status: u32) -> &'static str {
        match status {
            OK => "ok",
            INVALID => "malformed request",
            UNSUPPORTED => "not supported by the other side, or by its version",
            LIMIT => "a limit of the host is reached",
            NO_WORKER => "no worker could be started (see the broker's log)",
            NO_CLIENT => "the client's worker is gone",
            FAILED => "the worker refused",
            AGAIN => "not over yet",
            _ => "unknown status",
        }
    }
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestHeader {
    pub kind: u32,
    /// Bytes that follow the header.
    pub len: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReplyHeader {
    pub status: u32,
    /// Bytes that follow the header.
    pub len: u32,
}

/// A PCI address as the guest sees its device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciAddress {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
    /// 1 if the address is to be shown to programs, 0 in local mode (the real one is shown).
    pub present: u8,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`super::VERSION`] of the agent.
    pub version: u16,
    pub reserved: [u16; 3],
    /// Feature bits that the agent knows; none are defined yet.
    pub features: u64,
    /// The guest's address of the device: the identity that its programs will see.
    pub pci: PciAddress,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloReply {
    /// [`super::VERSION`] of the broker.
    pub version: u16,
    /// Lanes that the broker serves at most (queues, less two).
    pub lanes: u16,
    /// Clients that the broker serves at most at once for this VM.
    pub clients: u32,
    /// Feature bits in use: those of the agent's that the broker knows too.
    pub features: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientOpen {
    /// The agent's number of the client, not in use.
    pub client: u32,
    /// Guest process id, for logs and accounting.
    pub pid: u32,
    /// Guest user id.
    pub uid: u32,
    pub reserved: u32,
    /// The process's name (`/proc/<pid>/comm`), NUL-padded.
    pub name: [u8; 16],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientOpenReply {
    /// Ranges in which the worker's driver places device memory: the guest process keeps them free. Unused ones have length 0.
    pub device_ranges: [Range; 4],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientClose {
    pub client: u32,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneAttach {
    pub client: u32,
    /// The queue to lend, at least [`FIRST_LANE`].
    pub queue: u16,
    pub reserved: u16,
    /// Guest-physical address of the lane's page ([`crate::wire::lane::Layout`]); [`super::HUGE_PAGE`] bytes, all descriptors lie in it.
    pub page: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneAttachReply {
    /// Available and used index, equal, with which the lane starts.
    pub start: u16,
    pub reserved: [u16; 3],
}

/// Followed by `extents` × [`Range`] of guest-physical memory, which together are `len` bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowMap {
    pub client: u32,
    /// The agent's number of the window, not in use for this client.
    pub window: u32,
    /// Where the guest process maps it: within the window area, a multiple of [`super::HUGE_PAGE`].
    pub address: u64,
    /// A multiple of [`super::HUGE_PAGE`].
    pub len: u64,
    pub extents: u32,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowUnmap {
    pub client: u32,
    pub window: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareKeep {
    /// The client that exported the file.
    pub client: u32,
    pub reserved: u32,
    pub token: Token,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareDrop {
    pub token: Token,
}

/// Queue 1: the agent posts device-writable buffers of this size; the broker fills one per event.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// [`event`].
    pub kind: u32,
    pub client: u32,
    /// For [`event::WORKER_LOST`]: the signal that killed the worker, or 0.
    pub signal: u32,
    /// For [`event::WORKER_LOST`]: its exit code if no signal killed it.
    pub exit_code: u32,
}

/// `Event::kind`.
pub mod event {
    /// The worker of `client` ended by itself. Its lanes are marked lost and completed already.
    pub const WORKER_LOST: u32 = 1;
}
