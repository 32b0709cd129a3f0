//! The windows of one client: where they lie and whether a new one may.

use crate::carrier::Block;
use std::collections::BTreeMap;
use vgpu_spec::wire::control::MAX_EXTENTS;
use vgpu_spec::wire::{Range, is_window_place};

/// The most windows of a client.
pub const MAX_WINDOWS: usize = 4096;

/// A client's window.
#[derive(Debug)]
pub struct Window {
    pub range: Range,
    pub block: Block,
    /// The broker's windows that make it up, in order: one unless it has more than [`MAX_EXTENTS`] extents.
    pub parts: Vec<u32>,
}

/// Why a window may not be where a shim asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error(
        "a window of {len:#x} bytes at {base:#x} is not in units of 2 MiB in the window area or of 4 KiB outside"
    )]
    Place { base: u64, len: u64 },
    #[error("a window at {0:#x} overlaps another one")]
    Overlap(u64),
    #[error("the client has {MAX_WINDOWS} windows already")]
    TooMany,
    #[error("the client has no window {0}")]
    Unknown(u32),
}

/// The windows of a client, by number.
#[derive(Debug, Default)]
pub struct Windows {
    windows: BTreeMap<u32, Window>,
    /// By address, the number.
    places: BTreeMap<u64, u32>,
    next: u32,
}

/// A part of a window that the broker is told as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    pub number: u32,
    pub address: u64,
    pub extents: &'a [Range],
}

impl Windows {
    /// Whether a window may lie at `base`.
    pub fn check(&self, base: u64, len: u64) -> Result<Range, WindowError> {
        if !is_window_place(base, len) {
            return Err(WindowError::Place { base, len });
        }
        let before = self.places.range(..base + len).next_back();
        let overlaps = before
            .and_then(|(_, number)| self.windows.get(number))
            .and_then(|window| window.range.end())
            .is_some_and(|end| end > base);
        if overlaps {
            return Err(WindowError::Overlap(base));
        }
        if self.windows.len() >= MAX_WINDOWS {
            return Err(WindowError::TooMany);
        }
        Ok(Range { base, len })
    }

    /// Numbers for the parts of a window with `extents`, and where each lies.
    pub fn plan<'a>(&mut self, address: u64, extents: &'a [Range]) -> Vec<Part<'a>> {
        let mut address = address;
        let mut parts = Vec::new();
        for extents in extents.chunks(MAX_EXTENTS) {
            parts.push(Part { number: self.number(), address, extents });
            address += extents.iter().map(|extent| extent.len).sum::<u64>();
        }
        parts
    }

    /// Enters a window that the broker has mapped; its number is that of its first part.
    pub fn insert(&mut self, window: Window) -> u32 {
        let number = window.parts.first().copied().unwrap_or_default();
        self.places.insert(window.range.base, number);
        self.windows.insert(number, window);
        number
    }

    /// Takes a window out.
    pub fn remove(&mut self, number: u32) -> Result<Window, WindowError> {
        let window = self.windows.remove(&number).ok_or(WindowError::Unknown(number))?;
        self.places.remove(&window.range.base);
        Ok(window)
    }

    /// Takes all windows out.
    pub fn take(&mut self) -> Vec<Window> {
        self.places.clear();
        std::mem::take(&mut self.windows).into_values().collect()
    }

    /// A number that no part of a window has. Numbers start at 1 and are used again only after 2³².
    fn number(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1).max(1);
            let next = self.next;
            if !self.windows.values().any(|window| window.parts.contains(&next)) {
                return next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::sparse_file;
    use std::sync::Arc;
    use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA, WINDOW_AREA_LEN};

    const AT: u64 = WINDOW_AREA;

    fn add(windows: &mut Windows, base: u64, len: u64) -> u32 {
        let range = windows.check(base, len).unwrap();
        let file = Arc::new(sparse_file("test", len).unwrap());
        let extents = vec![Range { base: 0, len }];
        let parts = windows.plan(base, &extents).iter().map(|part| part.number).collect();
        windows.insert(Window { range, block: Block { file, offset: 0, len, extents }, parts })
    }

    #[test]
    fn a_window_that_is_cut_off_is_refused() {
        let windows = Windows::default();
        let end = WINDOW_AREA + WINDOW_AREA_LEN;
        let wrapping = 0u64.wrapping_sub(HUGE_PAGE);
        for (base, len) in [(AT, 0), (AT, 4096), (end - HUGE_PAGE, 2 * HUGE_PAGE), (wrapping, 2 * HUGE_PAGE)]
        {
            assert_eq!(windows.check(base, len), Err(WindowError::Place { base, len }));
        }
        assert!(windows.check(end - HUGE_PAGE, HUGE_PAGE).is_ok());
        assert!(windows.check(0x7f00_0000_1000, 4096).is_ok(), "in place of a program's memory");
    }

    #[test]
    fn overlaps_are_refused_on_either_side_and_neighbours_are_not() {
        let mut windows = Windows::default();
        let number = add(&mut windows, AT + 4 * HUGE_PAGE, 2 * HUGE_PAGE);
        for (page, pages) in [(3, 2), (4, 1), (5, 1), (5, 4), (0, 20)] {
            let base = AT + page * HUGE_PAGE;
            assert_eq!(windows.check(base, pages * HUGE_PAGE), Err(WindowError::Overlap(base)), "{page}");
        }
        add(&mut windows, AT + 3 * HUGE_PAGE, HUGE_PAGE);
        add(&mut windows, AT + 6 * HUGE_PAGE, HUGE_PAGE);
        windows.remove(number).unwrap();
        add(&mut windows, AT + 4 * HUGE_PAGE, 2 * HUGE_PAGE);
    }

    #[test]
    fn numbers_are_not_shared_and_unknown_ones_are_refused() {
        let mut windows = Windows::default();
        let first = add(&mut windows, AT, HUGE_PAGE);
        let second = add(&mut windows, AT + HUGE_PAGE, HUGE_PAGE);
        assert_ne!(first, second);
        windows.remove(first).unwrap();
        assert_eq!(windows.remove(first).unwrap_err(), WindowError::Unknown(first));
        assert_eq!(windows.take().len(), 1);
    }

    #[test]
    fn many_extents_become_parts_that_adjoin() {
        let mut windows = Windows::default();
        let count = 2 * MAX_EXTENTS + 3;
        let extents: Vec<_> =
            (0..count as u64).map(|i| Range { base: 2 * i * HUGE_PAGE, len: HUGE_PAGE }).collect();
        let parts = windows.plan(AT, &extents);
        assert_eq!(
            parts.iter().map(|part| part.extents.len()).collect::<Vec<_>>(),
            [MAX_EXTENTS, MAX_EXTENTS, 3]
        );
        assert_eq!(parts[1].address, AT + MAX_EXTENTS as u64 * HUGE_PAGE);
        assert_eq!(parts[2].address, parts[1].address + MAX_EXTENTS as u64 * HUGE_PAGE);
        assert_ne!(parts[0].number, parts[1].number);
    }

    #[test]
    fn there_is_a_limit() {
        let mut windows = Windows::default();
        let file = Arc::new(sparse_file("test", HUGE_PAGE).unwrap());
        for i in 0..MAX_WINDOWS as u64 {
            let range = windows.check(AT + i * HUGE_PAGE, HUGE_PAGE).unwrap();
            let block = Block { file: file.clone(), offset: 0, len: HUGE_PAGE, extents: Vec::new() };
            windows.insert(Window { range, block, parts: vec![i as u32 + 1] });
        }
        let base = AT + MAX_WINDOWS as u64 * HUGE_PAGE;
        assert_eq!(windows.check(base, HUGE_PAGE), Err(WindowError::TooMany));
    }
}
