//! Waiting for a stream. The device can write a word behind its work: who looks at the word knows a microsecond sooner than the driver's own
//! wait returns, which sees to the channel first (measured on an H100, driver 580). Until it has, each query of an event costs more than that.
//! So the driver's wait comes after all, once there is nothing to do for a moment, or before another call that is waited for.
//!
//! It does more: it fetches what kernels have printed, and has pools give memory back. So the word is for waits where neither can be: as
//! long as no kernel that may print was launched since the driver last waited for all that were. A fault keeps the word from being written;
//! then the driver's wait tells of it.
//!
//! Nor is the driver asked again about a stream that it was just asked about, as programs do that copy their inputs through another stream and
//! wait for both after each.
//!
//! The word is a piece of work of its own. It is written only where it comes right behind what is waited for, and nobody else issues
//! anything: between others' work it might have streams wait for each other that do not.

use super::{
    driver::Driver,
    error::{NOT_SUPPORTED, Outcome, check},
    session::SPECIAL_STREAMS,
    thread::Thread,
};
use std::{
    cell::Cell,
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use vgpu_spec::wire::lane::function_id;

/// CU_MEMHOSTALLOC_DEVICEMAP.
const MAPPED: u32 = 2;
/// CU_CTX_SCHED_AUTO and CU_CTX_SCHED_SPIN, under which the driver polls too, of the bits below.
const POLLS: std::ops::RangeInclusive<u32> = 0..=1;
const SCHEDULING: u32 = 7;
/// After which the driver waits: for work that takes so long it makes no difference.
const PATIENCE: Duration = Duration::from_millis(2);
/// A thread that has polled for so long lets others run between looks.
const ALONE: Duration = Duration::from_micros(50);
/// Looks between two looks at the clock.
const LOOKS: u32 = 256;

/// Calls that give work to no stream but the one that they name, which says so.
const UNDISTURBING: [u32; 4] = [
    function_id("cuStreamSynchronize"),
    function_id("vgpuCopyInlineToDevice"),
    function_id("vgpuCopyHostToDevice"),
    function_id("vgpuCopyDeviceToHost"),
];

/// A word of memory that the device writes. It ends with the context in which it was made.
#[derive(Debug)]
struct Word {
    host: *mut c_void,
    device: u64,
}

impl Word {
    /// In the current context, if its waits may poll.
    fn new(driver: &Driver) -> Option<Self> {
        let (get, allocate) = (driver.cuCtxGetFlags?, driver.cuMemHostAlloc?);
        let address = driver.cuMemHostGetDevicePointer_v2?;
        let mut flags = 0_u32;
        // SAFETY: a place that outlives the call.
        if unsafe { get(&raw mut flags) } != 0 || !POLLS.contains(&(flags & SCHEDULING)) {
            return None;
        }
        let mut word = Word { host: ptr::null_mut(), device: 0 };
        // SAFETY: as above.
        let made = unsafe { allocate(&raw mut word.host, size_of::<AtomicU32>(), MAPPED) } == 0;
        // SAFETY: as above.
        let found = made && unsafe { address(&raw mut word.device, word.host, 0) } == 0;
        (found && !word.host.is_null()).then_some(word)
    }

    /// Not if its context has ended, and the memory with it.
    fn value(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of what was allocated, in a context that lives: see `Words::of`.
        unsafe { AtomicU32::from_ptr(self.host.cast()) }
    }

    fn free(self, driver: &Driver) {
        if let Some(free) = driver.cuMemFreeHost {
            // SAFETY: the driver looks the address up; one that ended with its context it does not know. Nobody else makes such memory.
            unsafe { free(self.host) };
        }
    }
}

/// The words of the contexts that were current. Once any context has ended, all are made anew.
#[derive(Debug, Default)]
struct Words {
    /// The session's epoch when they were made.
    epoch: u64,
    /// By the context's index; `None` where the driver is to wait.
    words: Vec<(u32, Option<Word>)>,
}

impl Words {
    fn of(&mut self, driver: &Driver, (context, epoch): (u32, u64)) -> Option<&Word> {
        if epoch != self.epoch {
            self.words.drain(..).filter_map(|(_, word)| word).for_each(|word| word.free(driver));
            self.epoch = epoch;
        }
        let known = self.words.iter().position(|(index, _)| *index == context);
        let place = known.unwrap_or_else(|| {
            self.words.push((context, Word::new(driver)));
            self.words.len() - 1
        });
        self.words.get(place)?.1.as_ref()
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
    /// Since the driver last waited for them, but for those that cannot print.
    launched: Launched,
    /// What the call that is being made launches cannot print.
    silent: Cell<bool>,
    /// The number written last.
    written: u32,
    /// The stream that the word told of, if the driver has not waited for it since and nothing was issued.
    unsettled: Option<u64>,
    /// The stream for which the driver waited last, if since then only others were given copies.
    at_rest: Option<u64>,
    words: Words,
}

impl Thread {
    /// The call that is being made gives `stream` something to do.
    #[inline]
    pub fn issues(&mut self, stream: u64) {
        self.waits.busy = Some(stream);
        if self.waits.at_rest == Some(stream) {
            self.waits.at_rest = None;
        }
    }

    /// A call of `function` is about to be made.
    #[inline]
    pub fn disturbs(&mut self, function: u32) {
        if !UNDISTURBING.contains(&function) {
            self.waits.at_rest = None;
        }
    }

    /// A kernel was looked up for the call that is being made; whether it cannot print.
    #[inline]
    pub fn calls(&self, silent: bool) {
        self.waits.silent.set(silent);
    }

    /// What was given to the stream is a kernel, or may have some.
    #[inline]
    pub fn launched(&mut self) {
        self.work.launches += 1;
        let Some(stream) = self.waits.busy else { return };
        if self.waits.silent.get() {
            return;
        }
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
        self.waits.at_rest = None;
        if self.waits.launched != Launched::Nowhere {
            self.waits.launched = Launched::InSeveral;
        }
    }

    /// Waits until all is done that was issued in `stream`.
    pub fn wait_for(&mut self, stream: u64) -> Outcome {
        if self.waits.at_rest == Some(stream) && self.may_do_without() {
            return Ok(());
        }
        let busy = self.waits.busy.take() == Some(stream);
        if busy && self.may_add_word() && self.wait_for_word(stream).is_some() {
            self.waits.unsettled = Some(stream);
            return Ok(());
        }
        self.waits.unsettled = None;
        self.synchronize(stream).inspect_err(|_| self.ends.retract())?;
        if self.waits.launched == Launched::In(stream) {
            self.waits.launched = Launched::Nowhere;
        }
        // A default one has several names.
        self.waits.at_rest = (stream > SPECIAL_STREAMS).then_some(stream);
        Ok(())
    }

    /// The stream ends.
    pub fn forget_wait(&mut self, stream: u64) {
        if self.waits.unsettled == Some(stream) {
            self.waits.unsettled = None;
        }
    }

    /// There may be more to do in the stream now than what was waited for.
    #[inline]
    pub fn forget_unsettled(&mut self) {
        self.waits.unsettled = None;
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
        self.may_do_without() && self.is_current() && self.has_device()
    }

    /// Whether the driver's wait would do nothing but wait.
    fn may_do_without(&self) -> bool {
        self.waits.launched == Launched::Nowhere
            && self.client.lanes.is_single()
            && !self.session.turns.captures()
            && !self.session.quota.may_give_back()
    }

    /// `None` if the driver is to wait.
    fn wait_for_word(&mut self, stream: u64) -> Option<()> {
        let write = self.driver.cuStreamWriteValue32_v2?;
        let number = self.waits.written.wrapping_add(1);
        self.waits.written = number;
        let context = self.context_now();
        let word = self.waits.words.of(self.driver, context)?;
        let written = self.ends.tell(self.driver, context.1, stream, (word.device, number))
            // SAFETY: a live stream of this client, and the word's address.
            || unsafe { write(stream, word.device, number, 0) } == 0;
        (written && poll(word.value(), number)).then_some(())
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
