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
    /// The program's memory: address and length.
    pub program: usize,
    pub len: usize,
    /// The ring: address, bytes of a chunk (a multiple of [`PIECE`]), chunks.
    pub ring: usize,
    pub chunk: usize,
    pub slots: usize,
}

impl Place {
    /// Chunks of the copy.
    pub fn chunks(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// Bytes of a chunk.
    pub fn chunk_len(&self, chunk: usize) -> usize {
        self.chunk.min(self.len - chunk * self.chunk)
    }

    pub fn slot(&self, chunk: usize) -> usize {
        chunk % self.slots
    }

    /// Where a chunk lies in the ring.
    pub fn chunk_address(&self, chunk: usize) -> usize {
        self.ring + self.slot(chunk) * self.chunk
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
        let left = (0..place.slots).map(|_| AtomicUsize::new(0)).collect();
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
        let bytes = self.place.len.min(chunks * self.place.chunk);
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
        let Some(piece) = self.take() else { return false };
        let p = &self.place;
        let at = piece * PIECE;
        let len = PIECE.min(p.len - at);
        let (chunk, within) = (at / p.chunk, at % p.chunk);
        let program = std::ptr::with_exposed_provenance_mut::<u8>(p.program + at);
        let ring = std::ptr::with_exposed_provenance_mut::<u8>(p.chunk_address(chunk) + within);
        // SAFETY: the promise of `new`; the piece is this thread's alone, and the job is not closed before it is finished.
        unsafe {
            let (from, to) = match self.direction {
                Direction::IntoRing => (program.cast_const(), ring),
                Direction::FromRing => (ring.cast_const(), program),
            };
            if p.len >= PAST_CACHE {
                past_cache::copy(from, to, len);
            } else {
                std::ptr::copy_nonoverlapping(from, to, len);
            }
        }
        self.finished.fetch_add(1, Ordering::Release);
        if let Some(left) = self.left.get(p.slot(chunk)) {
            left.fetch_sub(len, Ordering::Release);
        }
        true
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
        let (chunk, slots) = (2 * PIECE, 3);
        ring.resize(chunk * slots, 0);
        let place = Place {
            program: program.as_mut_ptr().expose_provenance(),
            len: program.len(),
            ring: ring.as_mut_ptr().expose_provenance(),
            chunk,
            slots,
        };
        // SAFETY: the tests keep both for as long as the job.
        unsafe { Job::new(place, direction) }
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
            let (at, len) = (chunk * place.chunk, place.chunk_len(chunk));
            let slot = place.slot(chunk) * place.chunk;
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
