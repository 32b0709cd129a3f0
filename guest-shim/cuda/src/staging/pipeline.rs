//! Large copies of pageable memory: a pipeline of chunks.
//!
//! The processors fill (or empty) some chunks of a ring while the device reads (or writes) others. The device's copies are made in the
//! program's own stream, so they have its order; behind them the stream writes a number into a word of the window, by which this side
//! learns that the chunks up to there are done: nothing waits in the worker, and no message is answered.

use super::{
    Block, RING,
    job::{Direction, Job},
    place::{PIECE, Place},
    pool::{self, Running},
};
use crate::{call, calls, capture, copy, error, memory};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use vgpu_spec::wire::lane::function_id;

/// From so many bytes on other threads help.
const HELPED: usize = 1 << 20;
/// Bytes that this thread copies between two looks at what there is to do.
const LOOK_AFTER: usize = PIECE / 4;
/// How long this thread looks for the next chunk, lets others run between two looks, and sleeps between them; then it waits for the
/// stream, which wakes it and tells what is wrong.
const LOOK: Duration = Duration::from_micros(20);
const YIELD: Duration = Duration::from_micros(100);
const NAP: Duration = Duration::from_millis(2);

/// The message that has a word written.
const WRITE_WORD: u32 = function_id("cuStreamWriteValue32_v2");

/// The driver has refused to write words: then the stream is waited for.
static NO_WORDS: AtomicBool = AtomicBool::new(false);
/// What the words get, different from chunk to chunk so that one left from an earlier copy means nothing. 0 is never used.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Bytes of a block of chunks: shorter copies have shorter ones, so that device and processors work at the same time; each costs the device
/// 3 µs (on an H100) and the worker a call of the driver, and its word another. Of a copy from the ring the last chunk is the processors'
/// alone.
fn block_size(n: usize, direction: Direction) -> usize {
    match n {
        0..0x10_0000 => PIECE,
        0x10_0000..0x40_0000 => 256 << 10,
        0x40_0000..0x100_0000 => 512 << 10,
        0x100_0000..0x1000_0000 if direction == Direction::FromRing => 1 << 20,
        _ => 2 << 20,
    }
}

/// Which chunks the stream writes a word behind. Each is a call of the driver, and the next copy can begin only behind it, so there are
/// no more than this side needs: each chunk's that the processors are to take from the ring; for slots that are to be filled again, one
/// for some together.
#[derive(Debug, Clone, Copy)]
struct Words {
    /// One behind the last of so many chunks, and one behind the last of all.
    every: usize,
    chunks: usize,
}

impl Words {
    fn new(direction: Direction, place: &Place) -> Self {
        let chunks = place.chunks();
        let every = match direction {
            Direction::FromRing => 1,
            // All of it is in the ring at once.
            Direction::IntoRing if place.room(0) == chunks => chunks,
            // One quarter comes free while the device reads from others and the processors fill the rest.
            Direction::IntoRing => (place.blocks / 4).max(1),
        };
        Words { every, chunks }
    }

    /// The chunk with the first word that tells that `chunk` is done: itself or a later one.
    fn telling(self, chunk: usize) -> usize {
        (chunk - chunk % self.every + self.every - 1).min(self.chunks - 1)
    }
}

/// A copy that is under way.
struct Pipeline {
    running: Running,
    place: Place,
    words: Words,
    direction: Direction,
    stream: u64,
    device: u64,
    /// The number of chunk 0.
    first: u32,
    /// Chunks that the device was told to copy, and that it is known to have copied.
    posted: usize,
    done: usize,
    /// Chunks that were opened to the processors, and that they have copied.
    opened: usize,
    copied: usize,
    /// The driver may refuse: the first chunk is waited for, so that its error is the call's.
    careful: bool,
    since: Instant,
    _errors: call::OwnErrors,
    // Last: freed when nothing uses it.
    ring: Block,
}

impl Pipeline {
    /// # Safety
    /// As [`Job::new`], for the life of the pipeline.
    unsafe fn new(
        program: *mut u8,
        device: u64,
        n: usize,
        stream: u64,
        direction: Direction,
    ) -> error::Result<Self> {
        let ring = Block::ring()?;
        let block = block_size(n, direction);
        let place = Place {
            program: program.expose_provenance(),
            len: n,
            ring: ring.address() as usize,
            block,
            blocks: RING / block,
        };
        let helpers = if n < HELPED { 0 } else { pool::threads() - 1 };
        // SAFETY: the caller's promise; the ring was just taken.
        let job = unsafe { Job::new(place, direction) };
        Ok(Pipeline {
            running: Running::start(job, helpers),
            first: NUMBER.fetch_add(place.chunks() as u32, Ordering::Relaxed),
            words: Words::new(direction, &place),
            place,
            direction,
            stream,
            device,
            posted: 0,
            done: 0,
            opened: 0,
            copied: 0,
            careful: capture::may_refuse(stream) || !memory::known(device, n as u64),
            since: Instant::now(),
            _errors: call::own_errors(),
            ring,
        })
    }

    /// The word of a slot.
    fn word(&self, chunk: usize) -> u64 {
        self.ring.address() + (RING + self.place.slot(chunk) * size_of::<u32>()) as u64
    }

    fn number(&self, chunk: usize) -> u32 {
        self.first.wrapping_add(chunk as u32) | 1 << 31
    }

    /// Whether the stream has written a chunk's word.
    fn is_written(&self, chunk: usize) -> bool {
        let word = std::ptr::with_exposed_provenance_mut::<u32>(self.word(chunk) as usize);
        // SAFETY: an aligned word of the ring, which is this copy's; the device writes it whole.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.load(Ordering::Acquire) == self.number(chunk)
    }

    /// Tells the device to copy the next chunk.
    fn post(&mut self) -> error::Result {
        let (chunk, stream) = (self.posted, self.stream);
        let (host, len) = (self.place.chunk_address(chunk) as u64, self.place.chunk_len(chunk));
        let device = self.device.wrapping_add(self.place.offset(chunk) as u64);
        match self.direction {
            Direction::IntoRing => calls::vgpuCopyHostToDevice(device, host, len, stream)?,
            Direction::FromRing => calls::vgpuCopyDeviceToHost(host, device, len, stream)?,
        }
        self.posted += 1;
        if self.careful {
            self.careful = false;
            call::settle()?;
        }
        if self.words.telling(chunk) == chunk && !NO_WORDS.load(Ordering::Relaxed) {
            match calls::cuStreamWriteValue32_v2(stream, self.word(chunk), self.number(chunk), 0) {
                // With CUDA_LAUNCH_BLOCKING=1 it is this call's answer.
                Err(error::NOT_SUPPORTED) => without_words(),
                other => other?,
            }
        }
        Ok(())
    }

    /// Counts the chunks that the device has copied.
    fn look(&mut self) -> error::Result {
        let before = self.done;
        while self.done < self.posted {
            let telling = self.words.telling(self.done);
            if telling >= self.posted || !self.is_written(telling) {
                break;
            }
            self.done = telling + 1;
        }
        // A copy that was refused has its number written all the same.
        if self.done == before { Ok(()) } else { failed() }
    }

    /// Makes one step of everything that can be done now; whether there was anything.
    fn step(&mut self) -> error::Result<bool> {
        let before = (self.posted, self.done, self.opened, self.copied);
        self.look()?;
        while self.copied < self.opened && self.running.job().is_copied(self.copied) {
            copy::count(self.place.chunk_len(self.copied));
            self.copied += 1;
        }
        let open = match self.direction {
            Direction::IntoRing => self.place.room(self.done),
            Direction::FromRing => self.done,
        };
        self.running.open(self.opened, open);
        self.opened = open;
        let post = match self.direction {
            Direction::IntoRing => self.copied,
            Direction::FromRing => self.place.room(self.copied),
        };
        while self.posted < post {
            self.post()?;
        }
        Ok(before != (self.posted, self.done, self.opened, self.copied))
    }

    /// Helps; whether there was anything to copy. In between it looks what else there is to do: the device is not to wait for that.
    fn copy_piece(&mut self) -> error::Result<bool> {
        let job = Arc::clone(self.running.job());
        let mut result = Ok(());
        let copied = job.copy_piece_by(LOOK_AFTER, || {
            if result.is_ok() {
                result = self.step().map(drop);
            }
        });
        result.map(|()| copied)
    }

    /// There is nothing to do now.
    fn wait(&mut self) -> error::Result {
        let waited = self.since.elapsed();
        if self.done < self.posted && (waited > NAP || NO_WORDS.load(Ordering::Relaxed)) {
            // What is known to have failed would be the wait's error; that no words are written is none.
            failed()?;
            calls::cuStreamSynchronize(self.stream)?;
            failed()?;
            self.done = self.posted;
            self.since = Instant::now();
        } else if waited > YIELD {
            std::thread::sleep(waited.min(NAP) / 4);
        } else if waited > LOOK {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn run(&mut self) -> error::Result {
        let chunks = self.place.chunks();
        while self.done < chunks || self.copied < chunks {
            if self.step()? || self.copy_piece()? {
                self.since = Instant::now();
            } else {
                self.wait()?;
            }
        }
        failed()
    }

    /// Copies all of it.
    fn finish(mut self) -> error::Result {
        let result = self.run();
        if result.is_err() {
            self.running.job().close();
            // The device may be about to use the ring.
            let _ = calls::cuStreamSynchronize(self.stream);
        }
        result
    }
}

/// The driver does not write words in streams.
fn without_words() {
    if !NO_WORDS.swap(true, Ordering::Relaxed) {
        vgpu_client::info!("copying: the driver writes no words in streams; the stream is waited for");
    }
}

/// The error of a message of this thread, if one has failed.
fn failed() -> error::Result {
    match call::take_error()? {
        Some((error::NOT_SUPPORTED, WRITE_WORD)) => {
            without_words();
            Ok(())
        }
        Some((status, _)) => Err(status),
        None => Ok(()),
    }
}

/// Copies `n` > 0 bytes at `src` to the device. The program may change them when this returns.
///
/// # Safety
/// `src` is `n` readable bytes.
pub unsafe fn to_device(dst: u64, src: *const u8, n: usize, stream: u64) -> error::Result {
    // SAFETY: the caller's promise; into the ring, the program's memory is only read.
    unsafe { Pipeline::new(src.cast_mut(), dst, n, stream, Direction::IntoRing)? }.finish()
}

/// Copies `n` > 0 bytes from the device to `dst`.
///
/// # Safety
/// `dst` is `n` writable bytes.
pub unsafe fn from_device(dst: *mut u8, src: u64, n: usize, stream: u64) -> error::Result {
    // SAFETY: the caller's promise.
    unsafe { Pipeline::new(dst, src, n, stream, Direction::FromRing)? }.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rings as there are and others, copies that fit them and that do not.
    fn each(check: impl Fn(Direction, &Place, Words)) {
        for direction in [Direction::IntoRing, Direction::FromRing] {
            for (block, blocks) in
                [(PIECE, 128), (2 * PIECE, 1), (2 * PIECE, 5), (16 * PIECE, 2), (16 * PIECE, 8)]
            {
                for pieces in 1..=3 * blocks * block / PIECE {
                    for len in [pieces * PIECE, pieces * PIECE + 1] {
                        let place = Place { program: 0, len, ring: 0, block, blocks };
                        check(direction, &place, Words::new(direction, &place));
                    }
                }
            }
        }
    }

    #[test]
    fn each_chunk_has_a_word_behind_it_before_the_ring_is_full() {
        each(|direction, place, words| {
            for chunk in 0..place.chunks() {
                let telling = words.telling(chunk);
                let what = format!("{direction:?}, {place:?}: {chunk}, {telling}");
                // With all before `chunk` done, and no more, the chunks up to there can be posted.
                assert!((chunk..place.room(chunk)).contains(&telling), "{what}");
                assert_eq!(words.telling(telling), telling, "{what}");
            }
            assert_eq!(words.telling(place.chunks() - 1), place.chunks() - 1);
        });
    }

    #[test]
    fn words_are_few_into_the_ring_and_one_for_each_chunk_from_it() {
        each(|direction, place, words| {
            let chunks = place.chunks();
            let count = (0..chunks).filter(|&chunk| words.telling(chunk) == chunk).count();
            let expected = match direction {
                Direction::FromRing => chunks,
                Direction::IntoRing if place.len <= place.blocks * place.block => 1,
                Direction::IntoRing => chunks.div_ceil((place.blocks / 4).max(1)),
            };
            assert_eq!(count, expected, "{direction:?}, {place:?}");
        });
    }
}
