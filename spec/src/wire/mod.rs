//! Wire types: little-endian, 8-byte aligned, no implicit padding.
//!
//! | module | who talks |
//! |---|---|
//! | [`args`] | arguments and results in lane messages |
//! | [`control`] | agent and broker, over queue 0, and events over queue 1 |
//! | [`socket`] | shim and agent, over the agent's unix socket |
//! | [`lane`] | shim and worker, over a lane |
//! | [`image`] | shim and worker: images of several fat binaries, in windows |
//! | [`reading`] | what a device does at the moment |
//! | [`snapshot`] | what the host's devices are, told once per client |
//! | [`share`] | names of what processes of one VM share |

pub mod args;
pub mod control;
pub mod image;
pub mod lane;
pub mod reading;
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

/// Windows outside the area lie in units of this many bytes.
pub const SMALL_PAGE: u64 = 4096;
/// One past the last address that a process can have on x86-64 (four-level page tables).
pub const ADDRESS_END: u64 = 1 << 47;

/// Whether a window may be `[base, base + len)`: within the window area in units of 2 MiB, or, in place of memory that a program has
/// already, wholly outside of it in units of 4 KiB.
pub fn is_window_place(base: u64, len: u64) -> bool {
    let Some(end) = base.checked_add(len) else { return false };
    let area = Range { base: WINDOW_AREA, len: WINDOW_AREA_LEN };
    if area.contains(base, len) {
        return len != 0 && base.is_multiple_of(HUGE_PAGE) && len.is_multiple_of(HUGE_PAGE);
    }
    let apart = end <= WINDOW_AREA || base >= WINDOW_AREA + WINDOW_AREA_LEN;
    let units = base.is_multiple_of(SMALL_PAGE) && len.is_multiple_of(SMALL_PAGE);
    apart && units && len != 0 && base != 0 && end <= ADDRESS_END
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lies_in_the_area_in_huge_pages_or_wholly_outside_in_small_ones() {
        let end = WINDOW_AREA + WINDOW_AREA_LEN;
        for (base, len, expected) in [
            (WINDOW_AREA, HUGE_PAGE, true),
            (end - HUGE_PAGE, HUGE_PAGE, true),
            (WINDOW_AREA, 0, false),
            (WINDOW_AREA, SMALL_PAGE, false),
            (WINDOW_AREA + SMALL_PAGE, HUGE_PAGE, false),
            (WINDOW_AREA - SMALL_PAGE, SMALL_PAGE, true),
            (WINDOW_AREA - SMALL_PAGE, 2 * SMALL_PAGE, false),
            (end, SMALL_PAGE, true),
            (end - HUGE_PAGE, 2 * HUGE_PAGE, false),
            (WINDOW_AREA - HUGE_PAGE, WINDOW_AREA_LEN + 2 * HUGE_PAGE, false),
            (0x5500_0000_1000, 3 * SMALL_PAGE, true),
            (0x5500_0000_1000, 0, false),
            (0x5500_0000_1001, SMALL_PAGE, false),
            (0, SMALL_PAGE, false),
            (ADDRESS_END - SMALL_PAGE, SMALL_PAGE, true),
            (ADDRESS_END - SMALL_PAGE, 2 * SMALL_PAGE, false),
            (u64::MAX - 4095, 4096, false),
        ] {
            assert_eq!(is_window_place(base, len), expected, "{base:#x} {len:#x}");
        }
    }
}
