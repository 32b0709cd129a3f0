//! Where the bytes of a long copy are: in the program's memory, and of a part of it at a time in a ring. In the ring they are in chunks, which the
//! device copies one by one, and for the processors in pieces.

/// Bytes of a piece: few enough that all threads have work in a short copy, many enough that taking one costs nothing.
pub const PIECE: usize = 128 << 10;
/// Of blocks of so many bytes the first one is divided, into chunks of a quarter, a quarter and a half: the device has something to do sooner.
/// Not the last one, for the device is behind then, and each chunk costs it some microseconds.
const DIVIDED: usize = 16 * PIECE;
/// Quarters after which the parts of the first block begin.
const PARTS: [usize; 3] = [0, 1, 2];

/// Where the bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The program's memory: address and length, which is not 0.
    pub program: usize,
    pub len: usize,
    /// The ring: address, bytes of a block (a multiple of [`PIECE`]), blocks. A block is a chunk, but for a first one that is
    /// divided.
    pub ring: usize,
    pub block: usize,
    pub blocks: usize,
}

impl Place {
    /// Chunks beyond one in the first block.
    fn more(&self) -> usize {
        if self.block.is_multiple_of(DIVIDED) { PARTS.len() - 1 } else { 0 }
    }

    /// Chunks of the copy.
    pub fn chunks(&self) -> usize {
        self.chunk_of(self.len - 1) + 1
    }

    /// Where a chunk begins in the program's memory, or the copy ends.
    pub fn offset(&self, chunk: usize) -> usize {
        let more = self.more();
        let offset = match PARTS.get(chunk) {
            Some(quarter) if more > 0 => quarter * self.block / 4,
            _ => (chunk - more) * self.block,
        };
        offset.min(self.len)
    }

    /// The chunk of the byte at `offset`.
    pub fn chunk_of(&self, offset: usize) -> usize {
        let (block, more) = (offset / self.block, self.more());
        if block > 0 || more == 0 {
            return block + more;
        }
        let quarter = offset * 4 / self.block;
        PARTS.iter().rposition(|&begin| begin <= quarter).unwrap_or(0)
    }

    /// Bytes of a chunk.
    pub fn chunk_len(&self, chunk: usize) -> usize {
        self.offset(chunk + 1) - self.offset(chunk)
    }

    /// Chunks that are in the ring at most.
    pub fn in_ring(&self) -> usize {
        self.blocks + self.more()
    }

    /// Which of [`Place::in_ring`] a chunk is.
    pub fn slot(&self, chunk: usize) -> usize {
        chunk % self.in_ring()
    }

    /// Before which chunk the ring is full, once the device or the processors are done with those before `done`.
    pub fn room(&self, done: usize) -> usize {
        let end = self.offset(done) + self.blocks * self.block;
        if end < self.len { self.chunk_of(end) } else { self.chunks() }
    }

    /// Where a chunk lies in the ring: whole, for the ring is whole blocks.
    pub fn chunk_address(&self, chunk: usize) -> usize {
        self.ring + self.offset(chunk) % (self.blocks * self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(len: usize, block: usize, blocks: usize) -> Place {
        Place { program: 0x1000, len, ring: 0x10_0000, block, blocks }
    }

    /// Places with blocks that are divided and with others, and copies that end anywhere.
    fn places() -> impl Iterator<Item = Place> {
        let blocks = [PIECE, 2 * PIECE, DIVIDED / 2, DIVIDED, 3 * DIVIDED];
        blocks.into_iter().flat_map(|block| {
            let ends =
                [1, PIECE - 1, PIECE, block / 4 + 1, block / 2, block / 2 + 1, block * 3 / 4 + 1, block];
            let lens =
                ends.into_iter().flat_map(move |end| [0, 1, 2, 7, 16].map(|whole| whole * block + end));
            lens.flat_map(move |len| [1, 2, 3, 8].map(|blocks| place(len, block, blocks)))
        })
    }

    #[test]
    fn chunks_follow_each_other_and_no_piece_is_in_two() {
        for place in places() {
            let mut at = 0;
            for chunk in 0..place.chunks() {
                assert_eq!(place.offset(chunk), at, "{place:?}: {chunk}");
                let len = place.chunk_len(chunk);
                assert!(len > 0 && len <= place.block, "{place:?}: {chunk}");
                assert_eq!((place.chunk_of(at), place.chunk_of(at + len - 1)), (chunk, chunk), "{place:?}");
                at += len;
                assert!(at == place.len || at.is_multiple_of(PIECE), "{place:?}: {chunk}");
            }
            assert_eq!(at, place.len, "{place:?}");
        }
    }

    #[test]
    fn chunks_that_are_in_the_ring_together_do_not_meet() {
        for place in places() {
            for done in 0..place.chunks() {
                let room = place.room(done);
                assert!(room > done && room - done <= place.in_ring(), "{place:?}: {done}");
                let mut there: Vec<_> = (done..room)
                    .map(|chunk| (place.chunk_address(chunk) - place.ring, place.chunk_len(chunk)))
                    .collect();
                there.sort_unstable();
                assert!(there.is_sorted_by(|a, b| a.0 + a.1 <= b.0), "{place:?}: {done}");
                assert!(there.last().is_none_or(|(at, len)| at + len <= place.blocks * place.block));
            }
        }
    }
}
