//! One copy between the program's memory and a ring of chunks, cut into pieces that any thread may take.
//!
//! The thread that made the job opens chunks as their place in the ring comes free (or is filled by the device) and learns when all
//! bytes of a chunk are copied. Pieces are taken in order, so that chunks get ready in order.

use super::{
    past_cache,
    place::{PIECE, Place},
};
use std::sync::atomic::{AtomicUsize, Ordering};

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
        let end = self.place.offset(chunks);
        // The pool's sleepers look at it after they have said that they sleep.
        self.open.store(end.div_ceil(PIECE), Ordering::SeqCst);
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
