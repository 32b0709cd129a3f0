//! Keeps the worker's device addresses free in this process, so that a device pointer is never also a host pointer.

use crate::windows::reserve_addresses;
use std::ffi::c_void;
use std::ptr;
use vgpu_spec::wire::{HUGE_PAGE, Range};

/// System calls that one range may take, when something is mapped in it already.
const BUDGET: u32 = 4096;

/// What could be reserved.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    pub reserved: Vec<Range>,
    /// Parts that hold something already, or that the kernel refused: device memory there can be mistaken for host memory.
    pub missing: Vec<Range>,
}

/// Reserves `ranges` (page-aligned), without memory behind them, for the life of the process. Around mappings that exist
/// already the rest of a range is reserved in pieces, down to 2 MiB.
pub fn reserve(ranges: &[Range]) -> Reservation {
    let mut result = Reservation::default();
    for range in ranges.iter().filter(|range| range.len != 0) {
        let mut budget = BUDGET;
        reserve_range(*range, &mut budget, &mut result);
    }
    merge(&mut result.reserved);
    merge(&mut result.missing);
    for range in &result.missing {
        crate::debug!("device addresses {:#x} + {:#x} could not be reserved", range.base, range.len);
    }
    result
}

fn reserve_range(range: Range, budget: &mut u32, result: &mut Reservation) {
    if *budget == 0 || range.end().is_none() {
        return result.missing.push(range);
    }
    *budget -= 1;
    match reserve_addresses(range.base, range.len) {
        Ok(()) => {
            let place = ptr::with_exposed_provenance_mut::<c_void>(range.base as usize);
            // SAFETY: reserved just now; the advice only concerns core dumps.
            let _ =
                unsafe { rustix::mm::madvise(place, range.len as usize, rustix::mm::Advice::LinuxDontDump) };
            result.reserved.push(range);
        }
        Err(rustix::io::Errno::EXIST) if range.len > HUGE_PAGE => {
            let half = (range.len / 2).next_multiple_of(HUGE_PAGE);
            reserve_range(Range { base: range.base, len: half }, budget, result);
            reserve_range(Range { base: range.base + half, len: range.len - half }, budget, result);
        }
        Err(error) => {
            crate::debug!("reserving {:#x} bytes at {:#x}: {error}", range.len, range.base);
            result.missing.push(range);
        }
    }
}

/// Joins ranges that touch. They are in ascending order within each call.
fn merge(ranges: &mut Vec<Range>) {
    ranges.dedup_by(|next, kept| {
        let touch = kept.end() == Some(next.base);
        if touch {
            kept.len += next.len;
        }
        touch
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_range_is_reserved_around_what_is_there() {
        let base = 0x2a00_0000_0000;
        let inside = base + 300 * MIB;
        reserve_addresses(inside, 4096).unwrap();
        let range = Range { base, len: 1 << 40 };
        let result = reserve(&[range, Range::default()]);
        assert_eq!(result.missing, [Range { base: inside, len: 2 * MIB }]);
        let after = inside + 2 * MIB;
        assert_eq!(
            result.reserved,
            [Range { base, len: 300 * MIB }, Range { base: after, len: base + (1 << 40) - after }]
        );
        assert_eq!(reserve_addresses(base + (1 << 39), 4096), Err(rustix::io::Errno::EXIST));
    }

    #[test]
    fn a_range_that_wraps_is_refused() {
        let range = Range { base: u64::MAX - 4095, len: 8192 };
        assert_eq!(reserve(&[range]), Reservation { reserved: vec![], missing: vec![range] });
    }
}
