//! Memory of cuMemCreate: there until the last handle is released and the last mapping is gone.

use super::Share;
use std::collections::{BTreeMap, HashMap};

struct Allocation {
    share: Share,
    handles: u32,
    mappings: u32,
    /// Mapped into a sparse array, where its end is not followed: it counts as long as the client lives.
    stays: bool,
}

/// Live allocations of this client's own. Those of others are the others' to count.
#[derive(Default)]
pub struct Physical {
    /// The driver may use a handle again while memory that had it is still mapped: so allocations have numbers.
    next: u64,
    allocations: HashMap<u64, Allocation>,
    /// By the driver's handle.
    handles: HashMap<u64, u64>,
    /// By address: length and allocation.
    mappings: BTreeMap<u64, (u64, u64)>,
}

impl Physical {
    pub fn created(&mut self, handle: u64, share: Share) {
        self.next += 1;
        self.allocations.insert(self.next, Allocation { share, handles: 1, mappings: 0, stays: false });
        self.handles.insert(handle, self.next);
    }

    /// A further handle of what is mapped at `address`.
    pub fn retained(&mut self, handle: u64, address: u64) {
        let found = self.mappings.range(..=address).next_back();
        let Some(number) = found.filter(|(base, (len, _))| address - *base < *len).map(|(_, (_, n))| *n)
        else {
            return;
        };
        if let Some(allocation) = self.allocations.get_mut(&number) {
            allocation.handles += 1;
            self.handles.insert(handle, number);
        }
    }

    /// Gives back a handle; what is free now.
    pub fn released(&mut self, handle: u64) -> Option<Share> {
        let number = *self.handles.get(&handle)?;
        let allocation = self.allocations.get_mut(&number)?;
        allocation.handles = allocation.handles.saturating_sub(1);
        if allocation.handles == 0 {
            self.handles.remove(&handle);
        }
        self.end(number)
    }

    pub fn mapped(&mut self, address: u64, len: u64, handle: u64) {
        let Some(&number) = self.handles.get(&handle) else { return };
        if let Some(allocation) = self.allocations.get_mut(&number) {
            allocation.mappings += 1;
            self.mappings.insert(address, (len, number));
        }
    }

    /// Mappings that lie in the range end; what is free now.
    pub fn unmapped(&mut self, address: u64, len: u64) -> Vec<Share> {
        let end = address.saturating_add(len);
        let gone: Vec<u64> = self.mappings.range(address..end).map(|(&base, _)| base).collect();
        let mut freed = Vec::new();
        for base in gone {
            let Some((_, number)) = self.mappings.remove(&base) else { continue };
            if let Some(allocation) = self.allocations.get_mut(&number) {
                allocation.mappings = allocation.mappings.saturating_sub(1);
            }
            freed.extend(self.end(number));
        }
        freed
    }

    /// `handle` is mapped into a sparse array.
    pub fn stays(&mut self, handle: u64) {
        let number = self.handles.get(&handle);
        if let Some(allocation) = number.and_then(|number| self.allocations.get_mut(number)) {
            allocation.stays = true;
        }
    }

    fn end(&mut self, number: u64) -> Option<Share> {
        let ended = |a: &&Allocation| a.handles == 0 && a.mappings == 0 && !a.stays;
        self.allocations.get(&number).filter(ended)?;
        Some(self.allocations.remove(&number)?.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { device: 0, bytes: 2 << 20 };

    #[test]
    fn memory_lives_as_long_as_a_handle_or_a_mapping() {
        let mut physical = Physical::default();
        physical.created(5, SHARE);
        physical.mapped(0x1000, 0x100, 5);
        physical.mapped(0x2000, 0x100, 5);
        assert_eq!(physical.released(5), None);
        // The driver uses the handle again.
        physical.created(5, Share { device: 0, bytes: 1 });
        assert_eq!(physical.unmapped(0x1000, 0x100), []);
        physical.retained(6, 0x20ff);
        physical.retained(7, 0x2100);
        assert_eq!(physical.unmapped(0x2000, 0x100), []);
        assert_eq!((physical.released(7), physical.released(6)), (None, Some(SHARE)));
        assert_eq!(physical.released(5).map(|s| s.bytes), Some(1));
        assert!(physical.allocations.is_empty() && physical.handles.is_empty());
    }

    #[test]
    fn one_call_unmaps_many() {
        let mut physical = Physical::default();
        for (handle, address) in [(1, 0x1000), (2, 0x2000)] {
            physical.created(handle, SHARE);
            physical.mapped(address, 0x1000, handle);
            physical.released(handle);
        }
        assert_eq!(physical.unmapped(0x1000, 0x2000), [SHARE, SHARE]);
    }

    #[test]
    fn what_a_sparse_array_has_is_not_given_back() {
        let mut physical = Physical::default();
        physical.created(1, SHARE);
        physical.stays(1);
        assert_eq!(physical.released(1), None);
    }
}
