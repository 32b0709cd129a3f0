//! Best fit within one range of addresses. The bookkeeping lies outside of the range.

use std::collections::{BTreeMap, BTreeSet};

/// The blocks of a range.
#[derive(Debug)]
pub(super) struct Blocks {
    unit: u64,
    /// Free blocks: base → length. Neighbours are always joined.
    free: BTreeMap<u64, u64>,
    /// The same, as (length, base).
    by_len: BTreeSet<(u64, u64)>,
    /// Allocated blocks: base → (length held, length asked for).
    taken: BTreeMap<u64, (u64, u64)>,
}

impl Blocks {
    /// All of `[base, base + len)` free; sizes are rounded up to `unit`.
    pub fn new(base: u64, len: u64, unit: u64) -> Self {
        let mut blocks =
            Blocks { unit, free: BTreeMap::new(), by_len: BTreeSet::new(), taken: BTreeMap::new() };
        blocks.add_free(base, len);
        blocks
    }

    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Allocates `len` bytes at a multiple of `align`.
    pub fn alloc(&mut self, len: u64, align: u64) -> Option<u64> {
        let rounded = len.next_multiple_of(self.unit);
        let fits = |&&(free, base): &&(u64, u64)| base.next_multiple_of(align) - base + rounded <= free;
        let (free, base) = *self.by_len.range((rounded, 0)..).find(fits)?;
        let address = base.next_multiple_of(align);
        self.remove_free(base, free);
        self.add_free(base, address - base);
        self.add_free(address + rounded, base + free - address - rounded);
        self.taken.insert(address, (rounded, len));
        Some(address)
    }

    /// Frees the block that starts at `address`, if there is one.
    pub fn free(&mut self, address: u64) -> bool {
        let Some((mut len, _)) = self.taken.remove(&address) else { return false };
        let mut base = address;
        if let Some((&before, &before_len)) = self.free.range(..base).next_back()
            && before + before_len == base
        {
            self.remove_free(before, before_len);
            base = before;
            len += before_len;
        }
        if let Some(&after_len) = self.free.get(&(base + len)) {
            self.remove_free(base + len, after_len);
            len += after_len;
        }
        self.add_free(base, len);
        true
    }

    /// The block in which `address` lies: base, and length asked for.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        let (&base, &(_, len)) = self.taken.range(..=address).next_back()?;
        (address - base < len).then_some((base, len))
    }

    fn add_free(&mut self, base: u64, len: u64) {
        if len != 0 {
            self.free.insert(base, len);
            self.by_len.insert((len, base));
        }
    }

    fn remove_free(&mut self, base: u64, len: u64) {
        self.free.remove(&base);
        self.by_len.remove(&(len, base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_neighbours_become_one_block_again() {
        let mut blocks = Blocks::new(0x1000, 0x1000, 256);
        let addresses: Vec<_> = (0..16).map(|_| blocks.alloc(200, 256).unwrap()).collect();
        assert_eq!(blocks.alloc(1, 256), None);
        for address in addresses.iter().step_by(2).chain(addresses.iter().skip(1).step_by(2)) {
            assert!(blocks.free(*address));
        }
        assert_eq!(blocks.alloc(0x1000, 0x1000), Some(0x1000));
        assert!(!blocks.is_empty());
        assert!(!blocks.free(0x1100));
    }

    #[test]
    fn the_smallest_block_that_fits_is_taken() {
        let mut blocks = Blocks::new(0, 4096, 256);
        let (a, b, c) = (blocks.alloc(1024, 256), blocks.alloc(256, 256), blocks.alloc(512, 256));
        assert_eq!((a, b, c), (Some(0), Some(1024), Some(1280)));
        blocks.alloc(256, 256).unwrap();
        blocks.free(0);
        blocks.free(1280);
        assert_eq!(blocks.alloc(500, 256), Some(1280));
        assert_eq!(blocks.find(1280 + 499), Some((1280, 500)));
        assert_eq!(blocks.find(1280 + 500), None);
    }
}
