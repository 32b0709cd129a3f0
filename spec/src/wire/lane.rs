//! Lane messages: what a shim's thread writes and a worker's thread reads.
//!
//! A message is a descriptor chain: one device-readable descriptor ([`MessageHeader`], dependencies, arguments), and for a
//! call that waits one device-writable descriptor for [`ReplyHeader`] and results. All lie in the lane's page, and a descriptor's
//! address is the byte offset in that page: a guest process needs no guest-physical address, and can name none. The device uses
//! chains in the order in which they were made available.

use super::HUGE_PAGE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The most entries of a lane's virtqueue.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// The most bytes of one message or one reply. Larger data goes through a window.
pub const MAX_MESSAGE: usize = 256 << 10;
/// The most dependencies in one message.
pub const MAX_DEPENDENCIES: usize = 64;

/// What one cache line holds, at the start of the command area and at other multiples of it.
pub const LINE: u64 = 64;
/// Start of the command area that is the **express** message's alone: one line for its reply, then the message. A device may look for the
/// message's number there instead of for the available index.
pub const EXPRESS_LEN: u64 = 4 * LINE;

/// Where things lie in a lane's page, by byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub status: u64,
    /// Start of the command area, which reaches to the page's end.
    pub commands: u64,
}

impl Layout {
    /// The layout for a virtqueue of `size` entries; `None` unless a power of two within [`MAX_QUEUE_SIZE`].
    pub fn new(size: u16) -> Option<Self> {
        if !size.is_power_of_two() || size > MAX_QUEUE_SIZE {
            return None;
        }
        let n = u64::from(size);
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let avail = page(16 * n);
        let used = avail + page(6 + 2 * n);
        let status = used + page(6 + 8 * n);
        Some(Layout { size, desc: 0, avail, used, status, commands: status + 4096 })
    }

    /// Bytes of the command area.
    pub fn commands_len(&self) -> u64 {
        HUGE_PAGE - self.commands
    }
}

/// Written by the host, read by the shim without a round trip. At `Layout::status`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// [`state`].
    pub state: u32,
    /// Grows by one with each error of an asynchronous call; written after the two below.
    pub error_count: u32,
    /// CUresult of the latest such error.
    pub error: u32,
    /// Function id of the call that failed.
    pub error_function: u32,
}

/// `Status::state`.
pub mod state {
    /// Not lent to a client.
    pub const IDLE: u32 = 0;
    /// A worker serves the lane.
    pub const ATTACHED: u32 = 1;
    /// The worker is gone: nothing will be answered any more.
    pub const LOST: u32 = 2;
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    /// Which function: FNV-1a (32 bits) of its name in the description.
    pub function: u32,
    /// Bytes of the message, this header included.
    pub len: u32,
    /// The guest thread, as a number of the client's own. Tells threads apart that share a lane.
    pub thread: u32,
    /// Index of the handle of the context that is current to the thread, or 0.
    pub context: u32,
    /// Count of [`Dependency`] that follow the header.
    pub dependencies: u16,
    pub flags: u16,
    /// Messages of the lane up to this one, counted from its attachment and modulo 2³². Of an express message it is written last: whoever
    /// sees it sees the message.
    pub number: u32,
}

/// "Not before the message with number `count` − 1 of `lane` has been issued": calls that had returned in other threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dependency {
    /// Virtqueue number of the other lane.
    pub lane: u16,
    pub reserved: u16,
    /// Messages of that lane, counted from its attachment and modulo 2³², that must have been issued.
    pub count: u32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReplyHeader {
    /// CUresult.
    pub status: u32,
    /// Bytes of the reply, this header included.
    pub len: u32,
    /// [`reply_flags`].
    pub flags: u32,
    /// The message's number once the reply is complete: the device writes it last.
    pub written: u32,
}

/// `ReplyHeader::flags`.
pub mod reply_flags {
    /// Kernels printed something: the shim fetches it with the message `vgpuReadOutput`.
    pub const OUTPUT: u32 = 1;
}

/// FNV-1a, 32 bits, of a function's name: its id on the wire, the same in every build.
pub const fn function_id(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_leaves_room_for_commands_at_every_queue_size() {
        for bits in 0..=10 {
            let layout = Layout::new(1 << bits).unwrap();
            assert!(layout.avail >= 16 << bits);
            assert!(layout.used >= layout.avail + 6 + (2 << bits));
            assert!(layout.status >= layout.used + 6 + (8 << bits));
            assert!(layout.commands_len() >= 2 * MAX_MESSAGE as u64);
        }
        assert_eq!(Layout::new(3), None);
        assert_eq!(Layout::new(2048), None);
    }

    #[test]
    fn function_ids_are_fnv1a() {
        assert_eq!(function_id(""), 0x811c_9dc5);
        assert_eq!(function_id("a"), 0xe40c_292c);
    }
}
