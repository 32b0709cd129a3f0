//! Order across threads: how far the calls of each lane have returned, for other threads to read.
//!
//! A call that returned in one thread before a call began in another must be issued first. The second carries a dependency on
//! the first's lane whenever that lane has unfinished entries. Since a message only depends on calls that had returned before
//! it was published, dependencies cannot form a circle.
//!
//! A launch touches nothing but its stream. In a stream that no other lane launched into since, it need not come after other
//! lanes' launches, only after their other calls: so threads with streams of their own do not wait for each other. Everything
//! else comes after everything.

use crate::page::Page;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vgpu_spec::wire::lane::{Dependency, MAX_DEPENDENCIES, state};

/// What other threads may know of a lane. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Order {
    /// Messages whose call has returned, counted from the attachment.
    returned: AtomicU32,
    wide: Wide,
    /// Ring index with which the lane started.
    start: u16,
    queue: u16,
    /// Errors of asynchronous calls that were taken.
    seen_errors: AtomicU32,
    /// In how many calls that look for the errors of their own messages its threads are.
    own_errors: AtomicU32,
    page: Arc<Page>,
}

/// The part that launches of other lanes read; launches of this one do not write it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Wide {
    /// `returned` after the last call that was more than a launch in a stream.
    returned: AtomicU32,
    /// A value of `returned` here up to which the worker is known to have issued.
    issued: AtomicU32,
}

impl Order {
    pub fn new(queue: u16, start: u16, page: Arc<Page>) -> Self {
        let seen_errors = AtomicU32::new(page.error_count().load(Ordering::Acquire));
        let own_errors = AtomicU32::new(0);
        Order {
            returned: AtomicU32::new(0),
            wide: Wide::default(),
            start,
            queue,
            seen_errors,
            own_errors,
            page,
        }
    }

    /// The latest error of an asynchronous call on this lane that nobody took yet: CUresult and function id.
    #[inline]
    pub fn take_error(&self) -> Option<(u32, u32)> {
        let count = self.page.error_count().load(Ordering::Acquire);
        if count == self.seen_errors.load(Ordering::Relaxed)
            || count == self.seen_errors.swap(count, Ordering::Relaxed)
        {
            return None;
        }
        Some((self.page.error().load(Ordering::Relaxed), self.page.error_function().load(Ordering::Relaxed)))
    }

    /// As [`Order::take_error`], for another thread.
    pub fn take_error_for_another(&self) -> Option<(u32, u32)> {
        if self.own_errors.load(Ordering::Acquire) > 0 { None } else { self.take_error() }
    }

    /// A call begins that takes the lane's errors itself, or ends.
    pub fn own_errors(&self, begins: bool) {
        if begins {
            self.own_errors.fetch_add(1, Ordering::AcqRel);
        } else {
            self.own_errors.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// All of the lane's first `count` messages belong to calls that have returned, or return now. `launch`: the last one is a
    /// launch, which touches its stream only.
    #[inline]
    pub fn set_returned(&self, count: u64, launch: bool) {
        if !launch {
            self.wide.returned.store(count as u32, Ordering::Release);
        }
        self.returned.store(count as u32, Ordering::Release);
    }

    /// Messages whose call has returned.
    pub fn returned(&self) -> u32 {
        self.returned.load(Ordering::Acquire)
    }

    /// Whether the lane's worker is gone.
    pub fn lost(&self) -> bool {
        self.page.state().load(Ordering::Relaxed) == state::LOST
    }

    /// The dependency on this lane of a call that begins now, if any.
    #[inline]
    pub fn dependency(&self) -> Option<Dependency> {
        self.unfinished(self.returned())
    }

    /// The same for a launch in a stream that this lane does not use.
    #[inline]
    pub fn dependency_of_launch(&self) -> Option<Dependency> {
        let count = self.wide.returned.load(Ordering::Acquire);
        if self.wide.issued.load(Ordering::Acquire) == count {
            return None;
        }
        let dependency = self.unfinished(count);
        if dependency.is_none() {
            self.wide.issued.store(count, Ordering::Release);
        }
        dependency
    }

    /// A dependency on the lane's first `count` messages unless they are finished.
    #[inline]
    fn unfinished(&self, count: u32) -> Option<Dependency> {
        let used = self.page.used_idx().load(Ordering::Acquire);
        let ahead = (count as u16).wrapping_add(self.start).wrapping_sub(used);
        // The device may have finished more than that: negative.
        (ahead.cast_signed() > 0).then_some(Dependency { lane: self.queue, reserved: 0, count })
    }
}

/// Which lane launched last into each stream, as far as is remembered: streams share the entries, and one that was overwritten
/// counts as another lane's.
#[derive(Debug)]
pub(crate) struct Streams([AtomicU64; Streams::LEN]);

impl Streams {
    const LEN: usize = 256;

    pub const fn new() -> Self {
        Streams([const { AtomicU64::new(0) }; Streams::LEN])
    }

    /// Notes a launch of lane `index` into `stream`; whether the last one there was this lane's too.
    #[inline]
    pub fn launch(&self, stream: u64, index: usize) -> bool {
        // Stream handles have their number in the low bits, and the upper byte to spare.
        let entry = stream << 8 | (index as u64 & 0xff);
        let place = &self.0[stream as usize % Streams::LEN];
        let same = place.load(Ordering::Relaxed) == entry;
        if !same {
            place.store(entry, Ordering::Relaxed);
        }
        same
    }
}

/// The dependencies of one message, on the stack.
pub(crate) struct Dependencies {
    list: [MaybeUninit<Dependency>; MAX_DEPENDENCIES],
    len: usize,
}

impl Dependencies {
    #[inline]
    pub fn new() -> Self {
        Dependencies { list: [const { MaybeUninit::uninit() }; MAX_DEPENDENCIES], len: 0 }
    }

    /// Adds one; lanes are at most [`MAX_DEPENDENCIES`], so it fits.
    #[inline]
    pub fn push(&mut self, dependency: Dependency) {
        if let Some(place) = self.list.get_mut(self.len) {
            place.write(dependency);
            self.len += 1;
        }
    }

    #[inline]
    pub fn as_slice(&self) -> &[Dependency] {
        // SAFETY: the first `len` elements were written by `push`.
        unsafe { std::slice::from_raw_parts(self.list.as_ptr().cast(), self.len) }
    }
}
