//! Wire types: little-endian, 8-byte aligned, no implicit padding.
//!
//! | module | who talks |
//! |---|---|
//! | [`args`] | arguments and results in lane messages |
//! | [`control`] | agent and broker, over queue 0, and events over queue 1 |
//! | [`socket`] | shim and agent, over the agent's unix socket |
//! | [`lane`] | shim and worker, over a lane |
//! | [`snapshot`] | what the host's devices are, told once per client |
//! | [`share`] | names of what processes of one VM share |

pub mod args;
pub mod control;
pub mod lane;
pub mod share;
pub mod snapshot;
pub mod socket;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's version. A peer with another major version is refused; features are negotiated apart.
pub const VERSION: u16 = 2;

/// Windows and lane pages come in units of this many bytes: a huge page of x86-64.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Where windows lie, in the guest process and in its worker alike: `[WINDOW_AREA, WINDOW_AREA + WINDOW_AREA_LEN)`.
///
/// Far from a program's text, heap, libraries and stack on x86-64 Linux and from the ranges that NVIDIA's driver takes.
pub const WINDOW_AREA: u64 = 0x3000_0000_0000;
/// Length of the window area in bytes (4 TiB).
pub const WINDOW_AREA_LEN: u64 = 4 << 40;

/// A range of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    pub base: u64,
    /// Length in bytes; 0 for none.
    pub len: u64,
}

impl Range {
    /// One past the last address, or `None` on overflow.
    pub fn end(&self) -> Option<u64> {
        self.base.checked_add(self.len)
    }

    /// Whether `[base, base + len)` lies within this range.
    pub fn contains(&self, base: u64, len: u64) -> bool {
        match (base.checked_add(len), self.end()) {
            (Some(last), Some(end)) => base >= self.base && last <= end,
            _ => false,
        }
    }
}

/// Reads a `T` from the front of `bytes`, and the rest; `None` if there are too few bytes.
pub fn split<T: FromBytes + KnownLayout + Immutable>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}
