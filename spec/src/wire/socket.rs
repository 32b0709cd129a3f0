//! The agent's unix socket (`SOCK_SEQPACKET`), spoken by the shims.
//!
//! One packet a request, one packet a reply; file descriptors travel by `SCM_RIGHTS`. The connection is the client:
//! when it ends, the agent closes the client and takes back its lanes and windows.

use super::{Range, control::PciAddress};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the agent listens unless `VGPU_AGENT_SOCKET` says otherwise.
pub const DEFAULT_PATH: &str = "/run/vgpu/agent.sock";
/// Environment variable with the path of the agent's socket.
pub const PATH_VARIABLE: &str = "VGPU_AGENT_SOCKET";
/// The most bytes of a packet.
pub const MAX_PACKET: usize = 96 << 10;

/// `Request::kind`.
pub mod kind {
    /// `arg0`: flags ([`super::hello`]), `arg1`: protocol version → [`super::HelloReply`], then the snapshot's bytes.
    pub const HELLO: u32 = 1;
    /// Asks for a lane → [`super::LaneReply`] with 3 descriptors: the lane's page (map 2 MiB at offset 0), kick eventfd, completion eventfd.
    pub const LANE: u32 = 2;
    /// `arg0`: bytes, a multiple of 2 MiB; `arg1`: address in the window area → [`super::WindowReply`] with 1 descriptor.
    pub const WINDOW_ALLOC: u32 = 3;
    /// `arg0`: the window's number → status only.
    pub const WINDOW_FREE: u32 = 4;
    /// `arg0`, `arg1`: the token of a file that this client has exported → 1 descriptor, which stands for it ([`crate::wire::share::Ticket`]).
    pub const SHARE_FD: u32 = 5;
    /// `arg0`: bytes, a multiple of 4 KiB; `arg1`: address; `arg2`: page of 4 KiB of the file at which it starts; with the descriptor of a file
    /// that the program has mapped there → [`super::WindowReply`].
    pub const WINDOW_ADOPT: u32 = 6;
    /// `arg0`: ordinal of a device → [`crate::wire::reading`] bytes. Allowed after a HELLO for the snapshot only.
    pub const READING: u32 = 7;
}

/// Flags of `HELLO`.
pub mod hello {
    /// Only the snapshot is wanted (NVML, doctor): no client is opened, no worker taken.
    pub const SNAPSHOT_ONLY: u64 = 1;
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    pub kind: u32,
    /// 0 where it has no meaning.
    pub arg2: u32,
    pub arg0: u64,
    pub arg1: u64,
}

/// Starts every reply; `status` is of [`super::control::status`]. After a status other than OK nothing follows.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReplyHeader {
    pub status: u32,
    /// Bytes that follow the header.
    pub len: u32,
}

/// Followed by the snapshot's bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HelloReply {
    /// [`super::VERSION`] of the agent.
    pub version: u16,
    pub reserved: u16,
    /// Number of the client (0 for snapshot-only).
    pub client: u32,
    pub pci: PciAddress,
    /// As in [`super::control::ClientOpenReply`].
    pub device_ranges: [Range; 4],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneReply {
    /// The virtqueue's number; the name of the lane in dependencies.
    pub queue: u16,
    /// Entries of the virtqueue; with it [`super::lane::Layout`] tells where the rings are.
    pub size: u16,
    /// Available and used index with which the lane starts.
    pub start: u16,
    /// 1 if EVENT_IDX was negotiated, else 0.
    pub event_idx: u8,
    /// 1 if the completion eventfd is never signalled (no interrupts): the shim must poll.
    pub polling: u8,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowReply {
    pub window: u32,
    pub reserved: u32,
    /// Offset in the descriptor at which the window starts.
    pub offset: u64,
}
