//! Messages between the broker and a worker. Every request but [`kind::UNSHARE`] is answered by one [`kind::REPLY`] with its `seq`.

use vgpu_spec::wire::{Range, share::Token};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::devices::HostOrdinals;

/// `Header::kind`.
pub mod kind {
    /// Broker → worker: [`super::Assign`]; descriptors: the VM's ledger, and the eventfd by which the scheduler is told of it. Once, before
    /// anything else.
    pub const ASSIGN: u32 = 1;
    /// [`super::LaneStart`]; descriptors: page, kick, and call if `has_call`.
    pub const LANE_START: u32 = 2;
    /// [`super::LaneQueue`]; the reply's body is [`super::LaneStopped`].
    pub const LANE_STOP: u32 = 3;
    /// [`super::LaneFds`]; descriptors: kick, and call if `has_call`.
    pub const LANE_FDS: u32 = 4;
    /// [`super::WindowMap`], then `extents` × [`super::Extent`]; descriptors: the files of the extents.
    pub const WINDOW_MAP: u32 = 5;
    /// [`super::WindowUnmap`].
    pub const WINDOW_UNMAP: u32 = 6;
    /// No body. The worker exits instead of replying.
    pub const EXIT: u32 = 7;
    /// Broker → monitor: [`super::Read`]; the reply's body is a reading (`vgpu_spec::wire::reading`) with the host's process numbers.
    pub const READ: u32 = 8;
    /// As `READ`, for the processes alone.
    pub const READ_PROCESSES: u32 = 9;
    /// Broker → checkpointer: [`super::Checkpoint`]; the reply's body is the driver's state of the process, a `u32`.
    pub const CHECKPOINT_STATE: u32 = 10;
    /// As above, and for the following: the reply has no body. A status other than 0 is a CUresult, and the body its name.
    pub const CHECKPOINT_LOCK: u32 = 11;
    pub const CHECKPOINT_SAVE: u32 = 12;
    pub const CHECKPOINT_RESTORE: u32 = 13;
    pub const CHECKPOINT_UNLOCK: u32 = 14;

    /// Answer to the request `seq` of the other side.
    pub const REPLY: u32 = 100;
    /// [`super::Ready`], then the snapshot's bytes; of the monitor no body. The first message.
    pub const READY: u32 = 101;
    /// Text: why the worker (or monitor) could not start. Instead of `READY`.
    pub const FAILED: u32 = 102;
    /// Worker → broker: [`super::Share`], with a descriptor if it is a file; the reply's body is a `Token`.
    pub const SHARE: u32 = 103;
    /// Worker → broker: [`super::Fetch`]; the reply's body is [`super::Shared`], with a descriptor if it is a file.
    pub const FETCH: u32 = 104;
    /// Worker → broker: a `Token`. The only request without a reply.
    pub const UNSHARE: u32 = 105;
    /// Worker → broker: [`super::Room`]; answered when there may be room on the device, or there will be none.
    pub const ROOM: u32 = 106;
}

/// Statuses of a reply that are not CUresults.
pub mod status {
    /// The worker could not do it for a reason of its own; the body is text.
    pub const FAILED: u32 = u32::MAX;
    /// The VM shares too much already.
    pub const SHARE_LIMIT: u32 = u32::MAX - 1;
    /// The token names nothing of that kind.
    pub const NO_SHARE: u32 = u32::MAX - 2;
    /// The token named memory of a process that is gone.
    pub const SHARE_GONE: u32 = u32::MAX - 3;
    /// Nobody can be moved off the device.
    pub const NO_ROOM: u32 = u32::MAX - 4;
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    pub kind: u32,
    pub seq: u32,
    /// Of a reply: 0, a CUresult, or [`status::FAILED`].
    pub status: u32,
    /// Bytes that follow.
    pub len: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ready {
    pub device_ranges: [Range; 4],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Read {
    /// Of the device.
    pub uuid: [u8; 16],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Checkpoint {
    /// The worker.
    pub pid: u32,
    /// For what is under way to end, in a lock.
    pub timeout_ms: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Room {
    /// The host's ordinal of the device that is full.
    pub device: u32,
    /// 1 if it is the VM's limit that was met.
    pub limited: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Assign {
    pub client: u32,
    pub pid: u32,
    pub uid: u32,
    /// The client's slot of the ledger.
    pub slot: u32,
    pub name: [u8; 16],
    /// The host's ordinals of the worker's devices, by which the ledger counts.
    pub devices: HostOrdinals,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneStart {
    pub queue: u16,
    pub size: u16,
    /// Index from which the available ring is read and the used ring is written.
    pub next: u16,
    pub event_idx: u8,
    pub has_call: u8,
    /// Guest-physical address of the page, for messages only: addresses in a lane are offsets in its page.
    pub page: u64,
    /// Offset of the page in its descriptor.
    pub offset: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneQueue {
    pub queue: u16,
    pub reserved: [u16; 3],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneStopped {
    pub next: u16,
    pub reserved: [u16; 3],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaneFds {
    pub queue: u16,
    pub has_call: u16,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowMap {
    pub address: u64,
    pub len: u64,
    pub extents: u32,
    pub reserved: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// Which of the packet's descriptors.
    pub file: u32,
    pub reserved: u32,
    /// In that file.
    pub offset: u64,
    pub len: u64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WindowUnmap {
    pub address: u64,
    pub len: u64,
}

/// Sorts of shares: `Share::kind`, `Fetch::kind`.
pub mod share_kind {
    /// A CUipcMemHandle.
    pub const MEMORY: u32 = 1;
    /// A CUipcEventHandle.
    pub const EVENT: u32 = 2;
    /// A CUmemPoolPtrExportData.
    pub const POOL_MEMORY: u32 = 3;
    /// A file: an allocation's.
    pub const ALLOCATION: u32 = 4;
    /// A file: a pool's; the tag is its device's ordinal.
    pub const POOL: u32 = 5;

    /// Those that are bytes.
    pub const HANDLES: &[u32] = &[MEMORY, EVENT, POOL_MEMORY];
    /// Those that are files.
    pub const FILES: &[u32] = &[ALLOCATION, POOL];
}

/// What a worker shares: the driver's bytes, or zeros for a file, and a number of the worker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shared {
    pub tag: u64,
    pub data: [u8; 64],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Share {
    /// [`share_kind`].
    pub kind: u32,
    pub reserved: u32,
    pub shared: Shared,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fetch {
    pub token: Token,
    /// [`share_kind`].
    pub kind: u32,
    pub reserved: u32,
}
