//! One client's window memory in local mode: a sparse file that the broker has mapped as one region of guest memory.

use super::adopted;
use super::frontend::Regions;
use crate::carrier::{Block, ClientMemory, MemoryError};
use crate::memory;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use vgpu_spec::wire::Range;

/// The free parts of an arena, by offset.
#[derive(Debug)]
struct Space {
    free: BTreeMap<u64, u64>,
}

impl Space {
    fn new(len: u64) -> Self {
        Self { free: BTreeMap::from([(0, len)]) }
    }

    /// The lowest place with room for `len` bytes.
    fn take(&mut self, len: u64) -> Option<u64> {
        let (&offset, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&offset);
        if room > len {
            self.free.insert(offset + len, room - len);
        }
        Some(offset)
    }

    fn give(&mut self, offset: u64, len: u64) {
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &room)) = self.free.range(..offset).next_back()
            && before + room == offset
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(room) = self.free.remove(&end) {
            end += room;
        }
        self.free.insert(start, end - start);
    }
}

/// The most files of a client that are windows.
const MAX_ADOPTED: usize = 128;

/// A client's arena, and files of its own that are windows.
#[derive(Debug)]
pub struct Arena {
    file: Arc<OwnedFd>,
    region: Range,
    regions: Arc<Regions>,
    space: Space,
    /// The regions of the client's files, by address.
    adopted: BTreeMap<u64, Range>,
}

impl Arena {
    /// Creates an arena and has the broker map it.
    pub fn new(regions: Arc<Regions>) -> Result<Self, MemoryError> {
        let region = regions.reserve().ok_or(MemoryError::Full { wanted: 0, limit: 0 })?;
        let added = memory::sparse_file("vgpu-windows", region.len)
            .map_err(MemoryError::Create)
            .and_then(|file| regions.add(region, file.as_raw_fd(), 0).map(|()| file));
        match added {
            Ok(file) => Ok(Self {
                file: Arc::new(file),
                region,
                regions,
                space: Space::new(region.len),
                adopted: BTreeMap::new(),
            }),
            Err(error) => {
                regions.release(region);
                Err(error)
            }
        }
    }
}

impl ClientMemory for Arena {
    fn allocate(&mut self, len: u64) -> Result<Block, MemoryError> {
        let full = MemoryError::Full { wanted: len, limit: self.region.len };
        let offset = self.space.take(len).ok_or(full)?;
        let extents = vec![Range { base: self.region.base + offset, len }];
        Ok(Block { file: self.file.clone(), offset, len, extents })
    }

    fn in_small_pages(&mut self, _: &Block) -> Result<Option<Arc<OwnedFd>>, MemoryError> {
        Ok(None)
    }

    fn adopt(&mut self, file: OwnedFd, offset: u64, len: u64) -> Result<Block, MemoryError> {
        let held = adopted::check(file.as_fd(), offset, len)?;
        let full = MemoryError::Full { wanted: len, limit: self.region.len };
        let room = self.adopted.len() < MAX_ADOPTED;
        let region = room.then(|| self.regions.reserve_adopted(held)).flatten().ok_or(full)?;
        if let Err(error) = self.regions.add(region, file.as_raw_fd(), offset) {
            self.regions.release(region);
            return Err(error);
        }
        self.adopted.insert(region.base, region);
        Ok(Block { file: Arc::new(file), offset, len, extents: vec![Range { base: region.base, len }] })
    }

    fn free(&mut self, block: Block) {
        if let Some(region) = block.extents.first().and_then(|extent| self.adopted.remove(&extent.base)) {
            self.regions.remove(region);
            return;
        }
        if let Err(error) = memory::punch(self.file.as_fd(), block.offset, block.len) {
            // Its bytes are the client's own, but must read as zero in the next window: do not use the place again.
            tracing::warn!("giving back {:#x} bytes of window memory: {error}", block.len);
            return;
        }
        self.space.give(block.offset, block.len);
    }

    fn close(self: Box<Self>) {
        for &region in self.adopted.values() {
            self.regions.remove(region);
        }
        self.regions.remove(self.region);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_given_back_joins_its_neighbours() {
        let mut space = Space::new(10);
        let [a, b, c] = [space.take(3), space.take(3), space.take(4)].map(Option::unwrap);
        assert_eq!((a, b, c), (0, 3, 6));
        assert_eq!(space.take(1), None);
        space.give(a, 3);
        space.give(c, 4);
        assert_eq!(space.take(5), None, "two pieces of 3 and 4");
        space.give(b, 3);
        assert_eq!(space.take(10), Some(0));
    }

    #[test]
    fn lowest_place_with_room_is_taken() {
        let mut space = Space::new(10);
        let taken: Vec<_> = (0..5).map(|_| space.take(2).unwrap()).collect();
        space.give(taken[1], 2);
        space.give(taken[3], 2);
        assert_eq!(space.take(1), Some(2));
        assert_eq!(space.take(2), Some(6));
    }
}
