//! What a thread knows of its lane, in thread-local data.
//!
//! The fast path reads cells without a destructor, so they can be read at any time, in other destructors too. The guard, which
//! has one, gives the lane back.

use super::Lanes;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    static STATE: State = const {
        State { lane: Cell::new((ptr::null(), 0)), inside: Cell::new(false), number: Cell::new(0) }
    };
    static GUARD: Guard = const { Guard(Cell::new(None)) };
}

/// In one place: where that is takes a call to find.
pub(super) struct State {
    /// Whose lane the thread has (null for none), and which.
    lane: Cell<(*const Lanes, usize)>,
    inside: Cell<bool>,
    /// 0: it has none yet.
    number: Cell<u32>,
}

/// Gives the lane back at the thread's end.
struct Guard(Cell<Option<(&'static Lanes, usize)>>);

impl Drop for Guard {
    fn drop(&mut self) {
        STATE.with(|state| state.lane.set((ptr::null(), 0)));
        if let Some((lanes, index)) = self.0.take()
            && !crate::fork::forked()
        {
            lanes.release(index);
        }
    }
}

/// Calls `use_state` with the thread's state.
#[inline]
pub(super) fn with<R>(use_state: impl FnOnce(&State) -> R) -> R {
    STATE.with(use_state)
}

impl State {
    /// The thread is inside a call until what this gives is dropped; `None` if it is inside one already.
    #[inline]
    pub fn enter(&self) -> Option<Inside<'_>> {
        (!self.inside.replace(true)).then_some(Inside(self))
    }

    /// Which of `lanes` the thread has.
    #[inline]
    pub fn lane_of(&self, lanes: &'static Lanes) -> Option<usize> {
        let (owner, index) = self.lane.get();
        ptr::eq(owner, lanes).then_some(index)
    }

    /// The thread's number: from 1, never used twice.
    #[inline]
    pub fn number(&self) -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        if self.number.get() == 0 {
            self.number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        self.number.get()
    }
}

/// The thread is inside a call until this is dropped.
pub(super) struct Inside<'a>(&'a State);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.set(false);
    }
}

/// Whether the thread may keep a lane: it has none yet, and its end can still be noticed.
pub(super) fn can_keep() -> bool {
    GUARD.try_with(|guard| {
        let kept = guard.0.take();
        guard.0.set(kept);
        kept.is_none()
    }) == Ok(true)
}

/// Keeps lane `index` until the thread's end; after [`can_keep`] said yes.
pub(super) fn keep(lanes: &'static Lanes, index: usize) {
    if GUARD.try_with(|guard| guard.0.set(Some((lanes, index)))).is_ok() {
        STATE.with(|state| state.lane.set((lanes, index)));
    }
}
