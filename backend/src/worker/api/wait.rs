//! Waiting for a stream. The device can write a word behind its work: who looks at the word knows a microsecond sooner than the driver's own
//! wait returns, which sees to the channel first (measured on an H100, driver 580). Until it has, each query of an event costs more than that.
//! So the driver's wait comes after all, once there is nothing to do for a moment, or before another call that is waited for.
//!
//! It does more: it fetches what kernels have printed, and has pools give memory back. So the word is for waits where neither can be:
//! those for copies, as long as no kernel was launched since the driver last waited for all that were. A fault keeps the word from being
//! written; then the driver's wait tells of it.
//!
//! The word is a piece of work of its own. It is written only where it comes right behind what is waited for, and nobody else issues
//! anything: between others' work it might have streams wait for each other that do not.

use super::{
    driver::Driver,
    error::{NOT_SUPPORTED, Outcome, check},
    thread::Thread,
};
use std::{
    ffi::c_void,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP: for all contexts.
const PORTABLE_MAPPED: u32 = 1 | 2;
/// CU_CTX_SCHED_AUTO and CU_CTX_SCHED_SPIN, under which the driver polls too, of the bits below.
const POLLS: std::ops::RangeInclusive<u32> = 0..=1;
const SCHEDULING: u32 = 7;
/// After which the driver waits: for work that takes so long it makes no difference.
const PATIENCE: Duration = Duration::from_millis(2);
/// A thread that has polled for so long lets others run between looks.
const ALONE: Duration = Duration::from_micros(50);
/// Looks between two looks at the clock.
const LOOKS: u32 = 256;

/// A word of memory that the device writes. A client with one lane needs one.
#[derive(Default)]
pub struct Word(OnceLock<Option<Place>>);

struct Place {
    host: *mut c_void,
    device: u64,
}

// SAFETY: memory that lives as long as the process, in which only an atomic is read.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Word {
    /// The word, and its address for the device.
    fn get(&self, driver: &Driver) -> Option<(&AtomicU32, u64)> {
        let place = self.0.get_or_init(|| Place::allocate(driver)).as_ref()?;
        // SAFETY: an aligned word of what was allocated.
        Some((unsafe { AtomicU32::from_ptr(place.host.cast()) }, place.device))
    }
}

impl Place {
    fn allocate(driver: &Driver) -> Option<Self> {
        let (allocate, address) = (driver.cuMemHostAlloc?, driver.cuMemHostGetDevicePointer_v2?);
        let (mut host, mut device) = (ptr::null_mut(), 0_u64);
        // SAFETY: a place that outlives the call. A context is current: there is a stream of its to wait for.
        let allocated = unsafe { allocate(&raw mut host, size_of::<AtomicU32>(), PORTABLE_MAPPED) } == 0;
        // SAFETY: as above.
        let found = allocated && unsafe { address(&raw mut device, host, 0) } == 0;
        (found && !host.is_null()).then_some(Place { host, device })
    }
}

/// Streams in which kernels were launched.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Launched {
    #[default]
    Nowhere,
    In(u64),
    InSeveral,
}

/// What a lane thread knows for its waits.
#[derive(Debug, Default)]
pub struct Waits {
    /// The stream that was given something to do last, if it was not waited for since.
    busy: Option<u64>,
    /// Since the driver last waited for them.
    launched: Launched,
    /// The number written last.
    written: u32,
    /// The stream that the word told of, if the driver has not waited for it since.
    unsettled: Option<u64>,
    /// Whether waits in a context may poll: its index, and the session's epoch when that was asked.
    polls: Option<(u32, u64, bool)>,
}

impl Thread {
    /// The call that is being made gives `stream` something to do.
    #[inline]
    pub fn issues(&mut self, stream: u64) {
        self.waits.busy = Some(stream);
    }

    /// What was given to the stream is a kernel, or may have some.
    #[inline]
    pub fn launched(&mut self) {
        let Some(stream) = self.waits.busy else { return };
        self.waits.launched = match self.waits.launched {
            Launched::Nowhere => Launched::In(stream),
            Launched::In(other) if other != stream => Launched::InSeveral,
            known => known,
        };
    }

    /// Another context is current: its default streams have the same numbers.
    pub fn forget_work(&mut self) {
        self.waits.busy = None;
        self.waits.unsettled = None;
        if self.waits.launched != Launched::Nowhere {
            self.waits.launched = Launched::InSeveral;
        }
    }

    /// Waits until all is done that was issued in `stream`.
    pub fn wait_for(&mut self, stream: u64) -> Outcome {
        let busy = self.waits.busy.take() == Some(stream);
        if busy && self.may_add_word() && self.wait_for_word(stream).is_some() {
            self.waits.unsettled = Some(stream);
            return Ok(());
        }
        self.waits.unsettled = None;
        self.synchronize(stream)?;
        if self.waits.launched == Launched::In(stream) {
            self.waits.launched = Launched::Nowhere;
        }
        Ok(())
    }

    /// The stream ends.
    pub fn forget_wait(&mut self, stream: u64) {
        if self.waits.unsettled == Some(stream) {
            self.waits.unsettled = None;
        }
    }

    /// Has the driver see to what it was not asked to wait for.
    #[inline]
    pub fn settle_wait(&mut self) {
        if self.waits.unsettled.is_some() {
            self.settle_wait_now();
        }
    }

    #[cold]
    fn settle_wait_now(&mut self) {
        if self.session.turns.captures() || !self.is_current() {
            return;
        }
        if let Some(stream) = self.waits.unsettled.take() {
            // Its errors are those of work that went well.
            let _ = self.synchronize(stream);
        }
    }

    /// The driver's wait.
    pub fn synchronize(&self, stream: u64) -> Outcome {
        let wait = self.driver.cuStreamSynchronize.ok_or(NOT_SUPPORTED)?;
        // SAFETY: a live stream of this client.
        check(unsafe { wait(stream) })
    }

    /// Whether a word behind what was issued last changes nothing for others, and there is nothing to do but to wait.
    fn may_add_word(&mut self) -> bool {
        self.waits.launched == Launched::Nowhere
            && self.client.lanes.is_single()
            && !self.session.turns.captures()
            && !self.session.quota.may_give_back()
            && self.has_device()
            && self.may_poll()
    }

    fn may_poll(&mut self) -> bool {
        let (context, epoch) = self.context_now();
        if let Some((known, then, polls)) = self.waits.polls
            && (known, then) == (context, epoch)
        {
            return polls;
        }
        let mut flags = 0_u32;
        // SAFETY: a place that outlives the call.
        let known = self.driver.cuCtxGetFlags.is_some_and(|get| unsafe { get(&raw mut flags) } == 0);
        let polls = known && POLLS.contains(&(flags & SCHEDULING));
        self.waits.polls = Some((context, epoch, polls));
        polls
    }

    /// `None` if the driver is to wait.
    fn wait_for_word(&mut self, stream: u64) -> Option<()> {
        let write = self.driver.cuStreamWriteValue32_v2?;
        let (word, address) = self.session.word.get(self.driver)?;
        let number = self.waits.written.wrapping_add(1);
        self.waits.written = number;
        // SAFETY: a live stream of this client, and the word's address.
        let written = unsafe { write(stream, address, number, 0) } == 0;
        (written && poll(word, number)).then_some(())
    }
}

/// Looks at the word until it is `number`; false after [`PATIENCE`].
fn poll(word: &AtomicU32, number: u32) -> bool {
    let start = Instant::now();
    loop {
        if (0..LOOKS).any(|_| word.load(Ordering::Acquire) == number) {
            return true;
        }
        let waited = start.elapsed();
        if waited >= PATIENCE {
            return false;
        }
        if waited > ALONE {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_written_is_given_up() {
        let word = AtomicU32::new(6);
        assert!(!poll(&word, 7));
        word.store(7, Ordering::Release);
        assert!(poll(&word, 7));
    }
}
