//! What handovers of a device take, for who looks for lost time: told in the log every few seconds, if it is asked for.
//!
//! SECURITY: some of it is what workers say. Nothing is decided by it.

use std::collections::HashMap;

use super::turns::Key;
use crate::ledger::gate;

/// Nanoseconds between two summaries.
const EVERY: u64 = 5_000_000_000;

/// Times of a VM's turns: how many were measured, and their sum in nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    count: u64,
    sum: u64,
}

impl Sum {
    /// From one time to another; not if the second is not known or is of an earlier turn.
    fn add(&mut self, from: u64, to: u64) {
        if let Some(time) = to.checked_sub(from).filter(|_| from != 0) {
            self.count += 1;
            self.sum = self.sum.saturating_add(time);
        }
    }

    /// Microseconds.
    fn mean(self) -> u64 {
        self.sum / 1000 / self.count.max(1)
    }
}

/// What is known of a VM's turns since the last summary.
#[derive(Debug, Default)]
struct Vm {
    granted: u64,
    closed: u64,
    turns: u64,
    begins: Sum,
    holds: Sum,
    drains: Sum,
    hears: Sum,
    overlaps: Sum,
    /// Others began before its work was done, and it is not yet.
    ahead_of: Option<u64>,
}

/// What is seen of a VM when its gate changes: times that its workers noted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Noted {
    /// When it first issued work in its last turn.
    pub begun: u64,
    /// When it said that its work was done, or all but done.
    pub said: u64,
}

/// The handovers of one device.
#[derive(Debug, Default)]
pub struct Handovers {
    vms: HashMap<Key, Vm>,
    told: u64,
    /// Whose turn was over last.
    last: Option<Key>,
}

impl Handovers {
    /// Whether anybody wants to know.
    pub fn are_told() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    /// A gate was set at the time `now`; `noted` is what VMs noted.
    pub fn gate(&mut self, key: Key, word: u32, now: u64, noted: impl Fn(Key) -> Noted) {
        match word & 3 {
            gate::TURN => {
                self.handed_over(now, &noted);
                let vm = self.vms.entry(key).or_default();
                (vm.granted, vm.ahead_of) = (now, None);
            }
            gate::CLOSED => {
                let vm = self.vms.entry(key).or_default();
                if vm.granted != 0 {
                    vm.turns += 1;
                    vm.holds.add(vm.granted, now);
                    vm.begins.add(vm.granted, noted(key).begun);
                    (vm.granted, vm.closed) = (0, now);
                    self.last = Some(key);
                }
            }
            _ => self.last = None,
        }
    }

    /// Another begins: what became of who had the device before.
    fn handed_over(&mut self, now: u64, noted: &impl Fn(Key) -> Noted) {
        let Some((key, vm)) = self.last.take().and_then(|key| Some((key, self.vms.get_mut(&key)?))) else {
            return;
        };
        let said = noted(key).said;
        // It may have said so before its turn was over: then that was why.
        vm.drains.add(vm.closed, said.max(vm.closed));
        vm.hears.add(said, now);
        vm.ahead_of = Some(now);
    }

    /// The work of all turns of a VM is done.
    pub fn done(&mut self, key: Key, said: u64) {
        if let Some(vm) = self.vms.get_mut(&key)
            && let Some(since) = vm.ahead_of.take()
        {
            vm.overlaps.add(since, said);
        }
    }

    /// Tells about the last seconds, if it is time.
    pub fn tell(&mut self, device: u32, now: u64) {
        if now.saturating_sub(self.told) < EVERY {
            return;
        }
        self.told = now;
        for (key, vm) in self.vms.iter().filter(|(_, vm)| vm.turns > 0) {
            tracing::debug!(
                device,
                vm = key,
                turns = vm.turns,
                granted_to_work_us = vm.begins.mean(),
                granted_to_closed_us = vm.holds.mean(),
                closed_to_said_us = vm.drains.mean(),
                said_to_next_granted_us = vm.hears.mean(),
                overlaps = vm.overlaps.count,
                overlap_us = vm.overlaps.mean(),
                "turns of late"
            );
        }
        self.vms.retain(|_, vm| vm.turns > 0);
        for vm in self.vms.values_mut() {
            let (granted, closed, ahead_of) = (vm.granted, vm.closed, vm.ahead_of);
            *vm = Vm { granted, closed, ahead_of, ..Vm::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_a_handover_are_told_apart() {
        let mut handovers = Handovers::default();
        let (turn, closed) = (4 | gate::TURN, 4 | gate::CLOSED);
        handovers.gate(1, turn, 1000, |_| Noted::default());
        let noted = |_| Noted { begun: 1300, said: 9500 };
        handovers.gate(1, closed, 9000, noted);
        handovers.gate(2, turn, 9600, noted);
        handovers.done(1, 9900);
        let vm = &handovers.vms[&1];
        let sums = [vm.begins, vm.holds, vm.drains, vm.hears, vm.overlaps].map(|sum| (sum.count, sum.sum));
        assert_eq!(sums, [(1, 300), (1, 8000), (1, 500), (1, 100), (1, 300)]);
        assert_eq!((vm.turns, handovers.vms[&2].granted), (1, 9600));
    }

    #[test]
    fn what_a_worker_notes_wrongly_is_left_out() {
        let mut handovers = Handovers::default();
        handovers.gate(1, gate::TURN, 1000, |_| Noted::default());
        let noted = |_| Noted { begun: 7, said: u64::MAX };
        handovers.gate(1, gate::CLOSED, 9000, noted);
        handovers.gate(2, gate::TURN, 9600, noted);
        let vm = &handovers.vms[&1];
        assert_eq!((vm.begins.count, vm.hears.count), (0, 0));
    }
}
