//! One VM's part in the turns of a device.

use super::{MICROSECOND, MILLISECOND};
use crate::ledger::gate;

/// For a VM to begin, once it has its turn.
pub(super) const GRACE: u64 = 500 * MICROSECOND;
/// How long the work of a turn that is over may go on alone. After that others begin beside it. Halved each time that it was not enough.
const PATIENCE: u64 = 70 * MILLISECOND;
const LEAST_PATIENCE: u64 = 2 * MILLISECOND;
/// How long a call that issues work may go on alone: one that loads code, or waits for another process at the driver, is no work.
pub(super) const CALL_PATIENCE: u64 = 10 * MILLISECOND;
/// In which work has to be done that was said to be all but done.
pub(super) const PROMISE: u64 = MILLISECOND;
/// Turns in which a VM is not believed that broke a promise: doubled each time, halved when it has kept one.
const DISBELIEF: u32 = 2;
const MOST_DISBELIEF: u32 = 64;
/// In which a cap is kept.
pub const PERIOD: u64 = 100 * MILLISECOND;

/// What is known of a VM that has clients.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub weight: u32,
    pub cap: u32,
    /// Lanes wait at the closed gate.
    pub wants: bool,
    /// A call that issues work is under way.
    pub calls: bool,
    /// Nothing that it issued is known to be under way.
    pub drained: bool,
    /// It says that its work is all but done.
    pub near: bool,
    /// It has issued something in its current turn.
    pub worked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    Waiting,
    /// Has its turn.
    Holding {
        since: u64,
    },
    /// Its turn is over, its work is not.
    Draining {
        since: u64,
    },
    /// Has the device without turns.
    Open,
}

#[derive(Debug)]
pub(super) struct Vm {
    pub(super) state: State,
    pub(super) view: View,
    /// The number of its last turn.
    pub(super) turn: u32,
    /// Nanoseconds that it had, at weight 100.
    pub(super) had: u64,
    /// Up to when that is counted.
    pub(super) counted: u64,
    /// It has had the device since then.
    pub(super) busy: bool,
    /// Work of an earlier turn goes on beside others.
    pub(super) lingers: bool,
    /// Since when others may begin beside the very last of its work.
    pub(super) tail: Option<u64>,
    /// Turns in which it is not believed, and for how many the next time.
    disbelief: u32,
    next_disbelief: u32,
    pub(super) patience: u64,
    /// Its last turn was over before it had nothing more to do.
    pub(super) full: bool,
    /// Nanoseconds of this period, and what it had too much of earlier ones.
    pub(super) spent: u64,
}

impl Vm {
    pub(super) fn new(now: u64, view: View) -> Self {
        Vm {
            state: State::Idle,
            view,
            turn: 0,
            had: 0,
            counted: now,
            busy: false,
            lingers: false,
            tail: None,
            disbelief: 0,
            next_disbelief: DISBELIEF,
            patience: PATIENCE,
            full: false,
            spent: 0,
        }
    }

    /// SECURITY: limits come from the operator, and are checked there; here they can at least not divide by 0.
    pub(super) fn scaled(&self, time: u64) -> u64 {
        time.saturating_mul(100) / u64::from(self.view.weight.max(1))
    }

    pub(super) fn capped(&self) -> bool {
        self.view.cap < 100
    }

    /// Nanoseconds of each period.
    pub(super) fn budget(&self) -> u64 {
        PERIOD * u64::from(self.view.cap.clamp(1, 100)) / 100
    }

    pub(super) fn exhausted(&self) -> bool {
        self.capped() && self.spent >= self.budget()
    }

    /// It has its turn and nothing to do with it.
    pub(super) fn idles(&self, now: u64) -> bool {
        let begun = |since: u64| self.view.worked || now.saturating_sub(since) >= GRACE;
        match self.state {
            State::Holding { since } => self.view.drained && begun(since),
            _ => self.view.drained,
        }
    }

    pub(super) fn has_device(&self) -> bool {
        matches!(self.state, State::Holding { .. } | State::Draining { .. } | State::Open)
    }

    pub(super) fn word(&self) -> u32 {
        let state = match self.state {
            State::Open => gate::OPEN,
            State::Holding { .. } => gate::TURN,
            _ => gate::CLOSED,
        };
        self.turn << 2 | state
    }

    pub(super) fn rest(&mut self) {
        self.state = if self.view.wants { State::Waiting } else { State::Idle };
    }

    /// Its turn has been over since then: whether others may begin.
    pub(super) fn drain(&mut self, since: u64, now: u64) {
        let waited = now.saturating_sub(since);
        if self.view.drained {
            self.patience = PATIENCE;
            self.disbelief = self.disbelief.saturating_sub(1);
            self.rest();
        } else if self.view.near && !self.view.calls && self.disbelief == 0 {
            self.tail = Some(now);
            self.rest();
        } else if waited >= self.patience {
            self.lingers = true;
            self.patience = (self.patience / 2).max(LEAST_PATIENCE);
            self.rest();
        } else if self.view.calls && waited >= CALL_PATIENCE {
            self.lingers = true;
            self.rest();
        }
    }

    /// What has become of the work that others may run beside.
    pub(super) fn follow_up(&mut self, now: u64) {
        if self.lingers && self.view.drained {
            (self.lingers, self.patience) = (false, PATIENCE);
        }
        let Some(since) = self.tail else { return };
        if self.view.drained {
            self.tail = None;
            self.next_disbelief = (self.next_disbelief / 2).max(DISBELIEF);
        } else if now.saturating_sub(since) >= PROMISE {
            (self.tail, self.lingers, self.disbelief) = (None, true, self.next_disbelief);
            self.next_disbelief = (self.next_disbelief * 2).min(MOST_DISBELIEF);
        }
    }
}
