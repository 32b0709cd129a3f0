//! One copy between the program's memory and a ring of chunks, cut into pieces that any thread may take.
//!
//! The thread that made the job opens chunks as their place in the ring comes free (or is filled by the device) and learns when all
//! bytes of a chunk are copied. Pieces are taken in order, so that chunks get ready in order.

use super::past_cache;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a piece: few enough that all threads have work in a short copy, many enough that taking one costs nothing.
pub const PIECE: usize = 128 << 10;
/// From so many bytes on, copies go past the caches. Into the ring that is two to three times as fast: its lines are in the cache of the
/// processor that wrote them last, which is mostly another one.
const PAST_CACHE: usize = 2 << 20;
/// What [`Job::next`] is once no piece may be taken any more.
const CLOSED: usize = usize::MAX;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    IntoRing,
    FromRing,
}

/// Where the bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The program's memory: address and length, which is not 0.
    pub program: usize,
    pub len: usize,
    /// The ring: address, bytes of a block (a multiple of [`PIECE`]), blocks. A block is a chunk, but for long ones at begin and end.
    pub ring: usize,
    pub block: usize,
    pub blocks: usize,
}

/// Of blocks of so many bytes the first one and the last are divided, into chunks of a quarter, a quarter and a half, and of a half, a quarter
/// and a quarter: the device has something to do sooner, and less to do once the processors are at the end.
const DIVIDED: usize = 16 * PIECE;
/// Quarters after which the parts of the first block begin, and of the last.
const FIRST: [usize; PARTS] = [0, 1, 2];
const LAST: [usize; PARTS] = [0, 2, 3];
const PARTS: usize = 3;

impl Place {
    /// Chunks beyond one in a block that is divided.
    fn more(&self) -> usize {
        if self.block.is_multiple_of(DIVIDED) { PARTS - 1 } else { 0 }
    }

    /// The block with the last byte.
    fn last_block(&self) -> usize {
        (self.len - 1) / self.block
    }

    /// Chunks of the copy.
    pub fn chunks(&self) -> usize {
        self.chunk_of(self.len - 1) + 1
    }

    /// Where a chunk begins in the program's memory, or the copy ends.
    pub fn offset(&self, chunk: usize) -> usize {
        let (last, more) = (self.last_block(), self.more());
        let parts =
            |begin: &[usize; PARTS], part: usize| begin.get(part).map_or(self.block, |q| q * self.block / 4);
        let offset = match chunk {
            _ if more == 0 => chunk * self.block,
            0 => 0,
            _ if chunk <= more => parts(&FIRST, chunk),
            _ if chunk <= last + more => (chunk - more) * self.block,
            _ if last > 0 => last * self.block + parts(&LAST, chunk - last - more),
            _ => self.len,
        };
        offset.min(self.len)
    }

    /// The chunk of the byte at `offset`.
    fn chunk_of(&self, offset: usize) -> usize {
        let (block, quarter) = (offset / self.block, offset % self.block * 4 / self.block);
        let more = self.more();
        let part = |begin: &[usize; PARTS]| begin.iter().rposition(|&q| q <= quarter).unwrap_or(0).min(more);
        match block {
            0 => part(&FIRST),
            _ if block == self.last_block() => block + more + part(&LAST),
            _ => block + more,
        }
    }

    /// Bytes of a chunk.
    pub fn chunk_len(&self, chunk: usize) -> usize {
        self.offset(chunk + 1) - self.offset(chunk)
    }

    /// Chunks that are in the ring at most.
    pub fn in_ring(&self) -> usize {
        self.blocks + 2 * self.more()
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

/// A copy that is under way.
#[derive(Debug)]
pub struct Job {
    place: Place,
    direction: Direction,
    /// The next piece, and how many are open.
    next: AtomicUsize,
    open: AtomicUsize,
    /// Pieces that are copied.
    finished: AtomicUsize,
    /// Bytes that are not yet copied of the chunk in each slot.
    left: Box<[AtomicUsize]>,
}

impl Job {
    /// # Safety
    /// Until [`Job::close`] returns: `place.program` is `place.len` bytes of memory that may be read (or, from the ring, written),
    /// the ring is the caller's, and nobody else uses the chunks that are open.
    pub unsafe fn new(place: Place, direction: Direction) -> Self {
        let left = (0..place.in_ring()).map(|_| AtomicUsize::new(0)).collect();
        let (next, open, finished) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Job { place, direction, next, open, finished, left }
    }

    /// Opens the chunks from `opened` to before `chunks`. Their slots must be free.
    pub fn open(&self, opened: usize, chunks: usize) {
        for chunk in opened..chunks {
            if let Some(left) = self.left.get(self.place.slot(chunk)) {
                left.store(self.place.chunk_len(chunk), Ordering::Relaxed);
            }
        }
        let bytes = self.place.len.min(self.place.offset(chunks));
        // The pool's sleepers look at it after they have said that they sleep.
        self.open.store(bytes.div_ceil(PIECE), Ordering::SeqCst);
    }

    /// Whether all of an open chunk is copied.
    pub fn is_copied(&self, chunk: usize) -> bool {
        self.left.get(self.place.slot(chunk)).is_none_or(|left| left.load(Ordering::Acquire) == 0)
    }

    /// Whether there is a piece to take.
    pub fn has_more(&self) -> bool {
        self.next.load(Ordering::SeqCst) < self.open.load(Ordering::SeqCst)
    }

    fn take(&self) -> Option<usize> {
        let mut next = self.next.load(Ordering::Relaxed);
        // Acquire: what the device or the thread before did with the chunk is seen.
        while next < self.open.load(Ordering::Acquire) {
            match self.next.compare_exchange_weak(next, next + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(piece) => return Some(piece),
                Err(now) => next = now,
            }
        }
        None
    }

    /// Copies one piece, if there is one.
    pub fn copy_piece(&self) -> bool {
        self.copy_piece_by(PIECE, || ())
    }

    /// Copies one piece, if there is one, by so many bytes, before each of which but the first it calls `between`.
    pub fn copy_piece_by(&self, step: usize, mut between: impl FnMut()) -> bool {
        let Some(piece) = self.take() else { return false };
        let at = piece * PIECE;
        let end = self.place.len.min(at + PIECE);
        for at in (at..end).step_by(step) {
            if !at.is_multiple_of(PIECE) {
                between();
            }
            // SAFETY: the promise of `new`; the piece is this thread's alone, and the job is not closed before it is finished.
            unsafe { self.copy(at, step.min(end - at)) };
        }
        self.finished.fetch_add(1, Ordering::Release);
        if let Some(left) = self.left.get(self.place.slot(self.place.chunk_of(at))) {
            left.fetch_sub(end - at, Ordering::Release);
        }
        true
    }

    /// Copies `len` bytes of one chunk.
    ///
    /// # Safety
    /// They are this thread's alone.
    unsafe fn copy(&self, at: usize, len: usize) {
        let p = &self.place;
        let chunk = p.chunk_of(at);
        let program = std::ptr::with_exposed_provenance_mut::<u8>(p.program + at);
        let ring = std::ptr::with_exposed_provenance_mut::<u8>(p.chunk_address(chunk) + at - p.offset(chunk));
        let (from, to) = match self.direction {
            Direction::IntoRing => (program.cast_const(), ring),
            Direction::FromRing => (ring.cast_const(), program),
        };
        // SAFETY: the caller's promise and that of `new`.
        unsafe {
            if p.len >= PAST_CACHE {
                past_cache::copy(from, to, len);
            } else {
                std::ptr::copy_nonoverlapping(from, to, len);
            }
        }
    }

    /// Lets nobody take another piece, and waits for those that were taken.
    pub fn close(&self) {
        let taken = self.next.swap(CLOSED, Ordering::AcqRel);
        if taken == CLOSED {
            return;
        }
        while self.finished.load(Ordering::Acquire) < taken {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job over `len` bytes with chunks of two pieces in a ring of three.
    fn job(program: &mut [u8], ring: &mut Vec<u8>, direction: Direction) -> Job {
        let (block, blocks) = (2 * PIECE, 3);
        ring.resize(block * blocks, 0);
        let place = Place {
            program: program.as_mut_ptr().expose_provenance(),
            len: program.len(),
            ring: ring.as_mut_ptr().expose_provenance(),
            block,
            blocks,
        };
        // SAFETY: the tests keep both for as long as the job.
        unsafe { Job::new(place, direction) }
    }

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

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn only_open_chunks_are_copied_and_in_order() {
        let mut program = noise(3 * PIECE + 5);
        let mut ring = Vec::new();
        let job = job(&mut program, &mut ring, Direction::IntoRing);
        assert!(!job.copy_piece(), "nothing is open");
        job.open(0, 1);
        assert!(job.has_more() && job.copy_piece() && !job.is_copied(0));
        assert!(job.copy_piece() && job.is_copied(0));
        assert!(!job.has_more() && !job.copy_piece());
        job.open(1, 2);
        assert!(job.copy_piece() && job.copy_piece() && job.is_copied(1) && !job.copy_piece());
        job.close();
        assert!(ring[..program.len()] == program[..]);
        assert!(ring[program.len()..].iter().all(|&b| b == 0), "beyond the end");
    }

    #[test]
    fn slots_are_used_again() {
        let expected = noise(9 * PIECE + 1);
        let mut program = vec![0; expected.len()];
        let mut ring = Vec::new();
        let job = job(&mut program, &mut ring, Direction::FromRing);
        let place = job.place;
        for chunk in 0..place.chunks() {
            let (at, len) = (place.offset(chunk), place.chunk_len(chunk));
            let slot = place.chunk_address(chunk) - place.ring;
            ring[slot..slot + len].copy_from_slice(&expected[at..at + len]);
            job.open(chunk, chunk + 1);
            while job.copy_piece() {}
            assert!(job.is_copied(chunk));
        }
        job.close();
        assert!(program == expected);
    }

    #[test]
    fn nothing_is_taken_of_a_closed_job() {
        let mut program = noise(4 * PIECE);
        let mut ring = Vec::new();
        let job = job(&mut program, &mut ring, Direction::IntoRing);
        job.open(0, 2);
        assert!(job.copy_piece());
        job.close();
        job.close();
        assert!(!job.has_more() && !job.copy_piece());
    }
}
