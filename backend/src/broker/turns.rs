//! Who has a device and when: turns between VMs, as a state machine without clocks, threads or memory of others.
//!
//! VMs have virtual time: what they have had of the device, divided by their weight. Whoever waits and has had least is next. A turn ends
//! when the VM has nothing more to do, or after a quantum if others wait; a short one if one of them has had much less (one that is bound by
//! latency, as a rule). A VM that nobody contends with has the device without turns.
//!
//! The next VM may begin when the work of a turn is all but done, so that the device is not without work until its first kernel is there.

mod vm;

use std::collections::HashMap;

use crate::ledger::gate;
use vm::{CALL_PATIENCE, GRACE, PROMISE, State, Vm};
pub use vm::{PERIOD, View};

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1000 * MICROSECOND;

/// A turn, if others wait and nothing else is wanted. Among VMs that all use theirs up one is up to twice as long, since handing over costs
/// a fraction of a millisecond; not that of a VM of less weight than others, whose share would be less exact for it.
pub const QUANTUM: u64 = 20 * MILLISECOND;
/// A turn, if another waits that has had much less.
pub const SHORT: u64 = MILLISECOND / 2;
/// By how many turns a VM that comes to wait may have had less than the others; what it did not want before is gone.
const CREDIT: u64 = 2;
/// Where virtual time begins, so that there is room for credit below.
const START: u64 = 1 << 40;
/// How long a VM has the device by turns after the last time that another wanted it.
const OPEN_AFTER: u64 = 100 * MILLISECOND;

/// A VM, by a number of the caller's.
pub type Key = u64;

/// What comes of a step.
#[derive(Debug, Default)]
pub struct Step {
    /// Gates that change.
    pub gates: Vec<(Key, u32)>,
    /// Nanoseconds that VMs had since the last step.
    pub had: Vec<(Key, u64)>,
    /// When to look again, if nothing happens before.
    pub next: Option<u64>,
}

/// The turns on one device.
#[derive(Debug)]
pub struct Turns {
    /// How long a turn is, if others wait.
    quantum: u64,
    vms: HashMap<Key, Vm>,
    /// The last time that more than one VM wanted the device.
    contended: Option<u64>,
    /// When the current period began.
    period: u64,
    /// What the VM had that last got a turn: who comes new does not begin before.
    floor: u64,
}

impl Default for Turns {
    fn default() -> Self {
        Turns::new(QUANTUM)
    }
}

impl Turns {
    /// With turns of so many nanoseconds.
    pub fn new(quantum: u64) -> Self {
        Turns { quantum, vms: HashMap::new(), contended: None, period: 0, floor: START }
    }

    /// The gate of a VM.
    pub fn word(&self, key: Key) -> u32 {
        self.vms.get(&key).map_or(gate::CLOSED, Vm::word)
    }

    /// Looks at all VMs that have clients at the time `now`, in nanoseconds.
    pub fn step(&mut self, now: u64, views: &[(Key, View)]) -> Step {
        let before: HashMap<Key, u32> = self.vms.iter().map(|(&key, vm)| (key, vm.word())).collect();
        self.vms.retain(|key, _| views.iter().any(|(known, _)| known == key));
        self.begin_periods(now);
        let had = self.count(now);
        for &(key, view) in views {
            self.vms.entry(key).or_insert_with(|| Vm::new(now, view)).view = view;
        }
        self.note_wishes(now);
        self.end_turns(now);
        self.begin_turn(now);
        for vm in self.vms.values_mut() {
            vm.busy = vm.has_device() && !vm.idles(now);
        }
        let changed = |(&key, vm): (&Key, &Vm)| {
            let word = vm.word();
            (before.get(&key) != Some(&word)).then_some((key, word))
        };
        Step { gates: self.vms.iter().filter_map(changed).collect(), had, next: self.deadline(now) }
    }

    fn begin_periods(&mut self, now: u64) {
        let periods = now.saturating_sub(self.period) / PERIOD;
        self.period += periods * PERIOD;
        for vm in self.vms.values_mut() {
            vm.spent = vm.spent.saturating_sub(vm.budget().saturating_mul(periods));
        }
    }

    /// Counts what each VM had since the last step.
    fn count(&mut self, now: u64) -> Vec<(Key, u64)> {
        let beside = self.vms.values().filter(|vm| vm.state != State::Idle).count() as u64 + 1;
        // The device still works for who had it before.
        let tails = self.vms.values().any(|vm| vm.tail.is_some());
        let mut all = Vec::new();
        for (&key, vm) in &mut self.vms {
            let elapsed = now.saturating_sub(vm.counted);
            vm.counted = now;
            let had = match vm.state {
                // Without turns nothing is measured.
                State::Idle | State::Waiting if vm.tail.is_some() => elapsed,
                State::Holding { .. } | State::Draining { .. } if vm.busy && !tails => elapsed,
                State::Idle | State::Waiting if vm.lingers => elapsed / beside,
                _ => 0,
            };
            if had > 0 {
                vm.had = vm.had.saturating_add(vm.scaled(had));
                vm.spent = vm.spent.saturating_add(had);
                all.push((key, had));
            }
        }
        all
    }

    /// What VMs that are in need of the device had least.
    fn base(&self) -> u64 {
        let active = self.vms.values().filter(|vm| !matches!(vm.state, State::Idle | State::Open));
        active.map(|vm| vm.had).min().unwrap_or(self.floor)
    }

    fn note_wishes(&mut self, now: u64) {
        let base = self.base();
        for vm in self.vms.values_mut() {
            vm.follow_up(now);
            match vm.state {
                State::Idle if vm.view.wants => {
                    vm.state = State::Waiting;
                    vm.had = vm.had.max(base.saturating_sub(vm.scaled(CREDIT * self.quantum)));
                }
                State::Waiting if !vm.view.wants => vm.state = State::Idle,
                _ => {}
            }
        }
        // Who waits for its work wants the device too, though nothing of it is at the gate.
        let wants = |vm: &&Vm| vm.state != State::Idle || !vm.view.drained;
        if self.vms.values().filter(wants).count() > 1 {
            self.contended = Some(now);
        }
    }

    /// What the VM that is next had, if one waits that may go on.
    fn least_waiting(&self) -> Option<u64> {
        let waiting = self.vms.values().filter(|vm| vm.state == State::Waiting && !vm.exhausted());
        waiting.map(|vm| vm.had).min()
    }

    fn alone_for_long(&self, now: u64) -> bool {
        self.vms.len() == 1 || self.contended.is_none_or(|last| now.saturating_sub(last) >= OPEN_AFTER)
    }

    /// How long a turn is now, if others wait.
    fn length(&self) -> Length {
        let concerned = |vm: &&Vm| matches!(vm.state, State::Waiting | State::Holding { .. });
        let vms = || self.vms.values().filter(concerned);
        let heaviest = vms().all(|vm| vm.full).then(|| vms().map(|vm| vm.view.weight).max()).flatten();
        Length { quantum: self.quantum, heaviest }
    }

    fn end_turns(&mut self, now: u64) {
        let (waiting, alone) = (self.least_waiting(), self.alone_for_long(now));
        let length = self.length();
        for vm in self.vms.values_mut() {
            match vm.state {
                State::Open if waiting.is_some() || vm.capped() => vm.rest(),
                State::Holding { since } => {
                    let over = match waiting {
                        _ if vm.exhausted() => true,
                        Some(least) => vm.idles(now) || now >= end(vm, length, since, least, now),
                        // Its next work is to be counted: it asks again.
                        None => vm.capped() && vm.idles(now),
                    };
                    if over {
                        vm.full = !vm.idles(now);
                        vm.state = State::Draining { since: now };
                    } else if waiting.is_none() && alone && !vm.capped() {
                        vm.state = State::Open;
                    }
                }
                State::Draining { since } => vm.drain(since, now),
                _ => {}
            }
        }
    }

    fn begin_turn(&mut self, now: u64) {
        if self.vms.values().any(Vm::has_device) {
            return;
        }
        let alone = self.alone_for_long(now);
        let only = self.vms.len() == 1;
        let may = |vm: &&mut Vm| match vm.state {
            State::Waiting => !vm.exhausted(),
            // Nobody else is there who could want it.
            State::Idle => only && !vm.capped(),
            _ => false,
        };
        let Some(vm) = self.vms.values_mut().filter(may).min_by_key(|vm| vm.had) else { return };
        self.floor = self.floor.max(vm.had);
        vm.tail = None;
        if alone && !vm.capped() {
            vm.state = State::Open;
        } else {
            vm.state = State::Holding { since: now };
            // 0 is for none.
            vm.turn = if vm.turn >= u32::MAX >> 2 { 1 } else { vm.turn + 1 };
        }
    }

    fn deadline(&self, now: u64) -> Option<u64> {
        let (waiting, length) = (self.least_waiting(), self.length());
        let of = |vm: &Vm| match vm.state {
            State::Holding { since } => {
                let turn = waiting.map(|least| end(vm, length, since, least, now));
                let begin = (waiting.is_some() && !vm.view.worked).then_some(since + GRACE);
                let open =
                    self.contended.filter(|_| waiting.is_none() && !vm.capped()).map(|c| c + OPEN_AFTER);
                let left = vm.budget().saturating_sub(vm.spent);
                let cap = vm.capped().then_some(now + if vm.busy { left } else { left.min(GRACE) });
                [turn, begin, open, cap].into_iter().flatten().min()
            }
            State::Draining { since } if vm.view.calls && now < since + CALL_PATIENCE => {
                Some(since + vm.patience.min(CALL_PATIENCE))
            }
            State::Draining { since } => Some(since + vm.patience),
            State::Idle | State::Waiting if vm.tail.is_some() => vm.tail.map(|since| since + PROMISE),
            State::Waiting if vm.exhausted() => Some(self.period + PERIOD),
            _ => None,
        };
        // Never at once again: what is to be done now has been done.
        self.vms.values().filter_map(of).min().map(|at| at.max(now + 20 * MICROSECOND))
    }
}

/// How long turns are.
#[derive(Debug, Clone, Copy)]
struct Length {
    quantum: u64,
    /// The greatest weight, if all that want the device use their turns up.
    heaviest: Option<u32>,
}

impl Length {
    fn of(self, weight: u32) -> u64 {
        let longest = |heaviest: u32| self.quantum * 2 * u64::from(weight) / u64::from(heaviest.max(1));
        self.heaviest.map_or(0, longest).max(self.quantum)
    }
}

/// When the holder's turn is over, if one waits that had `least`. One that would be next again goes on.
fn end(holder: &Vm, length: Length, since: u64, least: u64, now: u64) -> u64 {
    let quantum = length.of(holder.view.weight);
    if least.saturating_add(holder.scaled(quantum)) < holder.had {
        return since + SHORT;
    }
    let behind = least.saturating_sub(holder.had).saturating_mul(u64::from(holder.view.weight)) / 100;
    (since + quantum).max(now + behind.min(PERIOD))
}

#[cfg(test)]
mod tests;
