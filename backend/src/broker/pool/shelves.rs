//! What the pool has: the workers of each set of devices, and which of them it is to start or end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vgpu_spec::wire::snapshot::Snapshot;

use crate::broker::worker_link::Worker;
use crate::devices::DeviceSet;

/// All of the pool.
#[derive(Default)]
pub struct Shelves {
    pub shelves: Vec<Shelf>,
    /// Counts starts that succeeded.
    pub starts: u64,
    /// Counts failed starts.
    pub failures: u64,
    /// What the latest worker saw that sees all devices.
    pub host: Option<Arc<Snapshot>>,
}

/// Starts of a shelf's workers that may end without a word while somebody waits, as one that is killed does: the next may do better.
const ACCIDENTS: u64 = 3;

/// So long after a worker was given to a client the next one is started in its place. Making a context takes the driver's locks and the
/// device for tenths of a second, and the client's program is making its first calls: those that wait for the locks take ten milliseconds
/// instead of some microseconds. By then even a slow program has its first kernel behind it; natively that takes 135 ms on an H100.
pub const REFILL_DELAY: Duration = Duration::from_millis(250);

/// Starts that failed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Failures {
    /// The worker said why.
    pub said: u64,
    /// It ended without a word.
    pub accidents: u64,
}

/// The workers of one set of devices.
#[derive(Default)]
pub struct Shelf {
    /// Others have it while they may take workers.
    pub devices: Arc<DeviceSet>,
    pub ready: VecDeque<Arc<Worker>>,
    pub starting: usize,
    /// Callers of `take` that wait.
    pub waiting: usize,
    /// When workers were given to clients that are not replaced yet.
    given: Vec<Instant>,
    pub failures: Failures,
    pub last_error: String,
    pub pause: Duration,
    pub not_before: Option<Instant>,
    /// What the latest worker saw.
    pub snapshot: Option<Arc<Snapshot>>,
}

impl Shelf {
    fn new(devices: Arc<DeviceSet>) -> Self {
        Shelf { devices, ..Shelf::default() }
    }

    /// Whether a VM has these devices.
    fn is_used(&self) -> bool {
        // Each start has it once.
        Arc::strong_count(&self.devices) > 1 + self.starting
    }

    /// A worker is given to a client.
    pub fn gives(&mut self, now: Instant) {
        self.given.retain(|&given| now < given + REFILL_DELAY);
        self.given.push(now);
    }

    /// When those are to be replaced that were given away a moment ago.
    fn refills(&self, now: Instant) -> impl Iterator<Item = Instant> {
        self.given.iter().map(|&given| given + REFILL_DELAY).filter(move |&refill| now < refill)
    }

    /// How many workers it lacks, if `warm` are to be kept and it may start any at the moment. One who waits gets one at once.
    fn lacks(&self, warm: usize, now: Instant) -> usize {
        let paused = self.not_before.is_some_and(|t| now < t);
        let kept = warm.saturating_sub(self.refills(now).count());
        let wanted = if paused { 0 } else { kept + self.waiting };
        wanted.saturating_sub(self.ready.len() + self.starting)
    }

    /// Why one who has waited since there were these failures need not go on.
    pub fn reason_to_give_up(&self, since: Failures) -> Option<&str> {
        let Failures { said, accidents } = self.failures;
        (said > since.said || accidents > since.accidents + ACCIDENTS).then_some(self.last_error.as_str())
    }

    pub fn take_alive(&mut self) -> Option<Arc<Worker>> {
        while let Some(worker) = self.ready.pop_front() {
            if worker.is_alive() {
                return Some(worker);
            }
        }
        None
    }
}

impl Shelves {
    /// The shelf of these devices, made if there is none.
    pub fn shelf(&mut self, devices: &Arc<DeviceSet>) -> &mut Shelf {
        let found = self.shelves.iter().position(|shelf| shelf.devices == *devices);
        let place = found.unwrap_or_else(|| {
            self.shelves.push(Shelf::new(Arc::clone(devices)));
            self.shelves.len() - 1
        });
        &mut self.shelves[place]
    }

    /// How many workers are kept for a shelf. Before there is a VM, one that has all devices is expected.
    fn warm(&self, shelf: &Shelf, most: usize) -> usize {
        let expected = || shelf.devices.is_all() && !self.shelves.iter().any(Shelf::is_used);
        if shelf.is_used() || expected() { most } else { 0 }
    }

    pub fn starting(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.starting).sum()
    }

    /// Workers of devices that no VM has any more. Forgets the shelves that are left empty.
    pub fn tidy(&mut self, warm: usize) -> Vec<Arc<Worker>> {
        let mut idle = Vec::new();
        for place in 0..self.shelves.len() {
            let keeps = self.warm(&self.shelves[place], warm);
            let shelf = &mut self.shelves[place];
            shelf.ready.retain(|worker| worker.is_alive());
            if keeps == 0 && shelf.waiting == 0 {
                idle.extend(shelf.ready.drain(..));
            }
        }
        let empty = |shelf: &Shelf| shelf.ready.is_empty() && shelf.starting + shelf.waiting == 0;
        self.shelves.retain(|shelf| shelf.is_used() || shelf.devices.is_all() || !empty(shelf));
        idle
    }

    /// The devices for which a worker is to be started next: those for which somebody waits come first.
    pub fn next(&self, warm: usize, now: Instant) -> Option<Arc<DeviceSet>> {
        let short = self.shelves.iter().filter(|shelf| shelf.lacks(self.warm(shelf, warm), now) > 0);
        short.max_by_key(|shelf| shelf.lacks(0, now)).map(|shelf| Arc::clone(&shelf.devices))
    }

    /// How long it is until a worker that was given away is to be replaced.
    pub fn until_refill(&self, now: Instant) -> Option<Duration> {
        self.shelves.iter().flat_map(|shelf| shelf.refills(now)).min().map(|refill| refill - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(asked: &[u32]) -> Arc<DeviceSet> {
        Arc::new(DeviceSet::new(Some(asked), 3).unwrap())
    }

    /// What a caller of `Pool::devices` gets.
    fn have(state: &mut Shelves, devices: &Arc<DeviceSet>) -> Arc<DeviceSet> {
        Arc::clone(&state.shelf(&Arc::new((**devices).clone())).devices)
    }

    #[test]
    fn workers_are_kept_for_the_devices_that_vms_have() {
        let (mut state, now) = (Shelves::default(), Instant::now());
        assert!(state.next(1, now).is_none());
        drop(have(&mut state, &Arc::default()));
        assert!(state.next(1, now).is_some_and(|next| next.is_all()), "expected before there is a VM");
        let (first, again) = (have(&mut state, &set(&[1])), have(&mut state, &set(&[1])));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(state.next(1, now).as_deref(), Some(&*set(&[1])), "no VM has all");
        let all = have(&mut state, &Arc::default());
        state.shelf(&first).starting = 1;
        assert!(state.next(1, now).is_some_and(|next| next.is_all()));
        state.shelf(&first).starting = 0;
        drop((all, first));
        assert_eq!(state.next(1, now).as_deref(), Some(&*set(&[1])), "one VM has it still");
        drop(again);
        assert!(state.tidy(1).is_empty() && state.shelves.len() == 1);
        assert!(state.next(1, now).is_some_and(|next| next.is_all()));
    }

    #[test]
    fn a_worker_that_is_killed_while_it_starts_is_no_reason_to_give_up() {
        let mut shelf = Shelf { last_error: "why".into(), ..Shelf::default() };
        shelf.failures = Failures { said: 2, accidents: 5 };
        let since = shelf.failures;
        shelf.failures.accidents += ACCIDENTS;
        assert_eq!(shelf.reason_to_give_up(since), None);
        shelf.failures.accidents += 1;
        assert_eq!(shelf.reason_to_give_up(since), Some("why"));
        shelf.failures = Failures { said: 3, ..since };
        assert_eq!(shelf.reason_to_give_up(since), Some("why"));
    }

    #[test]
    fn who_waits_is_served_first_and_a_failure_holds_up_nobody_else() {
        let (mut state, now) = (Shelves::default(), Instant::now());
        let (all, second) = (have(&mut state, &Arc::default()), have(&mut state, &set(&[1])));
        state.shelf(&second).waiting = 1;
        assert_eq!(state.next(4, now).as_deref(), Some(&*second));
        state.shelf(&second).not_before = Some(now + Duration::from_secs(60));
        assert_eq!(state.next(4, now).as_deref(), Some(&*all));
        state.shelf(&all).starting = 4;
        assert!(state.next(4, now).is_none());
        // Without workers that are kept, one that waits is.
        state.shelf(&second).not_before = None;
        assert_eq!(state.next(0, now).as_deref(), Some(&*second));
    }

    #[test]
    fn a_worker_that_was_given_away_is_replaced_later() {
        let (mut state, start) = (Shelves::default(), Instant::now());
        let (tenth, due) = (start + REFILL_DELAY / 10, start + REFILL_DELAY);
        let all = have(&mut state, &Arc::default());
        assert_eq!(state.until_refill(start), None);
        assert!(state.next(1, start).is_some(), "the first one");
        state.shelf(&all).gives(start);
        assert!(state.next(1, start).is_none() && state.next(1, tenth).is_none());
        assert_eq!(state.until_refill(tenth), Some(due - tenth));
        assert!(state.next(1, due).is_some());
        assert_eq!(state.until_refill(due), None);
        // Each has its own time.
        state.shelf(&all).gives(tenth);
        assert!(state.next(2, tenth).is_none());
        assert_eq!(state.until_refill(tenth), Some(due - tenth));
        assert!(state.next(2, due).is_some());
        state.shelf(&all).starting = 1;
        assert!(state.next(2, due).is_none());
        assert_eq!(state.until_refill(due), Some(tenth - start));
        assert!(state.next(2, tenth + REFILL_DELAY).is_some());
    }

    #[test]
    fn who_waits_one_that_died_and_other_devices_are_not_delayed() {
        let (mut state, now) = (Shelves::default(), Instant::now());
        let all = have(&mut state, &Arc::default());
        // Of two that were ready, one was given away and the other is left.
        state.shelf(&all).starting = 1;
        state.shelf(&all).gives(now);
        assert!(state.next(2, now).is_none());
        state.shelf(&all).starting = 0;
        assert_eq!(state.next(2, now), Some(Arc::clone(&all)), "it died");
        state.shelf(&all).starting = 1;
        state.shelf(&all).waiting = 2;
        assert_eq!(state.next(1, now), Some(Arc::clone(&all)), "one starts and two wait");
        state.shelf(&all).starting = 2;
        assert!(state.next(1, now).is_none());
        let second = have(&mut state, &set(&[1]));
        assert_eq!(state.next(1, now), Some(second));
    }
}
