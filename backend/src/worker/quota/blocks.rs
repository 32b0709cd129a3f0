//! Memory with addresses, as the driver takes it from the device: in blocks of 2 MiB. Small allocations share blocks, so what a call takes
//! is known by its address alone: the blocks that no other allocation lies in.

use super::Share;
use foldhash::fast::RandomState;
use std::collections::hash_map::Entry;

/// Keys are the driver's addresses, not the guest's to choose: a fast hash will do, as each allocation is looked up several times.
type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// What the driver maps at a time.
pub const BLOCK: u64 = 2 << 20;

/// Memory with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    pub len: u64,
    pub device: u32,
    /// The driver's context with which it ends.
    pub context: u64,
}

/// Live allocations.
#[derive(Default)]
pub struct Blocks {
    allocations: HashMap<u64, Allocation>,
    /// How many allocations lie in a part of the block with this number.
    shared: HashMap<u64, u32>,
}

/// Bytes of blocks that `[address, address + len)` fills, and the numbers of those that it begins or ends in.
fn parts(address: u64, len: u64) -> (u64, impl Iterator<Item = u64>) {
    let end = address.saturating_add(len);
    let (first, last) = (address.div_ceil(BLOCK), end / BLOCK);
    let head = (!address.is_multiple_of(BLOCK) || last < first).then_some(address / BLOCK);
    let tail = (!end.is_multiple_of(BLOCK)).then_some(last).filter(|&tail| Some(tail) != head);
    (last.saturating_sub(first) * BLOCK, head.into_iter().chain(tail))
}

impl Blocks {
    /// Enters an allocation; the bytes that the driver took for it.
    pub fn insert(&mut self, address: u64, len: u64, device: u32, context: u64) -> u64 {
        let (mut bytes, edges) = parts(address, len);
        for edge in edges {
            let count = self.shared.entry(edge).or_insert(0);
            if *count == 0 {
                bytes += BLOCK;
            }
            *count += 1;
        }
        self.allocations.insert(address, Allocation { len, device, context });
        bytes
    }

    /// Length and context of an allocation that takes blocks of its own.
    pub fn large(&self, address: u64) -> Option<(u64, u64)> {
        let allocation = self.allocations.get(&address).filter(|allocation| allocation.len >= BLOCK)?;
        Some((allocation.len, allocation.context))
    }

    /// Takes out an allocation; what the driver gives back. `None` if there is none at this address.
    pub fn remove(&mut self, address: u64) -> Option<Share> {
        self.take_out(address).map(|(share, _)| share)
    }

    /// As [`Self::remove`], with what [`Self::insert`] needs to enter it again.
    pub fn take_out(&mut self, address: u64) -> Option<(Share, Allocation)> {
        let allocation = self.allocations.remove(&address)?;
        let Allocation { len, device, .. } = allocation;
        let (mut bytes, edges) = parts(address, len);
        for edge in edges {
            if let Entry::Occupied(mut count) = self.shared.entry(edge) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    bytes += BLOCK;
                }
            }
        }
        Some((Share { device, bytes }, allocation))
    }

    /// Takes out all that ended with the driver's context.
    pub fn forget_context(&mut self, context: u64) -> Vec<Share> {
        let ended = self.allocations.iter().filter(|(_, a)| a.context == context);
        let ended: Vec<u64> = ended.map(|(&address, _)| address).collect();
        ended.into_iter().filter_map(|address| self.remove(address)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x7f00_0000_0000;

    #[test]
    fn what_was_taken_out_can_be_entered_again() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.insert(BASE, BLOCK + 512, 1, 7), 2 * BLOCK);
        let (share, Allocation { len, device, context }) = blocks.take_out(BASE).unwrap();
        assert_eq!((share.bytes, share.device, blocks.large(BASE)), (2 * BLOCK, 1, None));
        // Meanwhile another thread got what lies beside it.
        assert_eq!(blocks.insert(BASE + BLOCK + 512, 512, 1, 7), BLOCK);
        assert_eq!(blocks.insert(BASE, len, device, context), BLOCK);
        assert_eq!(blocks.large(BASE), Some((BLOCK + 512, 7)));
        assert_eq!(blocks.remove(BASE).unwrap().bytes, BLOCK);
    }

    #[test]
    fn small_allocations_share_a_block() {
        let mut blocks = Blocks::default();
        assert_eq!(blocks.insert(BASE, 512, 0, 1), BLOCK);
        assert_eq!(blocks.insert(BASE + 512, BLOCK - 512, 0, 1), 0);
        assert_eq!(blocks.remove(BASE).map(|s| s.bytes), Some(0));
        assert_eq!(blocks.remove(BASE + 512).map(|s| s.bytes), Some(BLOCK));
        assert_eq!(blocks.remove(BASE), None);
        assert!(blocks.shared.is_empty());
    }

    #[test]
    fn large_ones_take_whole_blocks_wherever_they_lie() {
        let mut blocks = Blocks::default();
        for (offset, len, bytes) in [
            (0, BLOCK, BLOCK),
            (0, 3 * BLOCK, 3 * BLOCK),
            (0, BLOCK + 1, 2 * BLOCK),
            (512, BLOCK, 2 * BLOCK),
            (512, 64, BLOCK),
            (BLOCK - 1, 2, 2 * BLOCK),
        ] {
            assert_eq!(blocks.insert(BASE + offset, len, 3, 1), bytes, "{offset} {len}");
            assert_eq!(blocks.remove(BASE + offset), Some(Share { device: 3, bytes }), "{offset} {len}");
        }
    }

    #[test]
    fn all_of_a_context_ends_with_it() {
        let mut blocks = Blocks::default();
        blocks.insert(BASE, 512, 0, 1);
        blocks.insert(BASE + 4096, 512, 0, 2);
        blocks.insert(BASE + BLOCK, BLOCK, 0, 1);
        let bytes: u64 = blocks.forget_context(1).iter().map(|s| s.bytes).sum();
        assert_eq!(bytes, BLOCK, "the other context's lies in the first block");
        assert_eq!(blocks.remove(BASE + 4096).map(|s| s.bytes), Some(BLOCK));
    }
}
