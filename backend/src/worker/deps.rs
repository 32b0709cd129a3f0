//! Order across threads: a lane's message may say that messages of other lanes must have been issued before it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vgpu_spec::wire::lane::Dependency;

/// Queue numbers that can occur.
const MAX_LANES: usize = 1024;
/// Polling before sleeping: the other thread is usually a few microseconds behind.
const SPIN: Duration = Duration::from_micros(50);
const FIRST_SLEEP: Duration = Duration::from_micros(20);
const MAX_SLEEP: Duration = Duration::from_millis(1);

/// A lane's progress. Its thread writes it for each message: no other's is on the same cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Progress {
    attached: AtomicBool,
    issued: AtomicU32,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Done,
    /// The lane is to stop; the message was not issued.
    Stopped,
    /// There is no such lane, or it is the waiting lane itself and the message is in its future.
    Invalid,
}

/// Counts of issued messages by queue number.
#[derive(Debug)]
pub struct LaneTable {
    lanes: Vec<Progress>,
    attached: AtomicUsize,
}

impl Default for LaneTable {
    fn default() -> Self {
        LaneTable {
            lanes: (0..MAX_LANES).map(|_| Progress::default()).collect(),
            attached: AtomicUsize::new(0),
        }
    }
}

impl LaneTable {
    /// A lane starts to count from 0.
    pub fn attach(&self, lane: u16) {
        if let Some(progress) = self.lanes.get(usize::from(lane)) {
            progress.issued.store(0, Ordering::Relaxed);
            if !progress.attached.swap(true, Ordering::AcqRel) {
                self.attached.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Whether there was never more than one lane: nobody but its own thread issues anything.
    pub fn is_single(&self) -> bool {
        self.attached.load(Ordering::Acquire) <= 1
    }

    /// One more message of `lane` has been issued.
    pub fn publish(&self, lane: u16) {
        if let Some(progress) = self.lanes.get(usize::from(lane)) {
            // Only the lane's own thread writes.
            let count = progress.issued.load(Ordering::Relaxed).wrapping_add(1);
            progress.issued.store(count, Ordering::Release);
        }
    }

    /// Whether the dependency is met; `None` if the lane does not exist.
    fn met(&self, dependency: Dependency) -> Option<bool> {
        let progress = self.lanes.get(usize::from(dependency.lane))?;
        if !progress.attached.load(Ordering::Acquire) {
            return None;
        }
        let ahead = progress.issued.load(Ordering::Acquire).wrapping_sub(dependency.count);
        // Counts are modulo 2^32: at most half of that apart.
        Some(ahead < 1 << 31)
    }

    /// Whether `dependency` of a message of `lane` is met now; `None` if it will have to be waited for.
    pub fn look(&self, lane: u16, dependency: Dependency) -> Option<Waited> {
        match self.met(dependency) {
            None => Some(Waited::Invalid),
            Some(true) => Some(Waited::Done),
            // It would wait for itself, for ever.
            Some(false) if dependency.lane == lane => Some(Waited::Invalid),
            Some(false) => None,
        }
    }

    /// Waits on behalf of `lane` until `dependency` is met or `stop` is set.
    pub fn wait(&self, lane: u16, dependency: Dependency, stop: &AtomicBool) -> Waited {
        let mut started = None;
        let mut sleep = FIRST_SLEEP;
        loop {
            if let Some(waited) = self.look(lane, dependency) {
                return waited;
            }
            if stop.load(Ordering::Acquire) {
                return Waited::Stopped;
            }
            let started = *started.get_or_insert_with(Instant::now);
            if started.elapsed() < SPIN {
                // Yields: the lane that is waited for may need this CPU.
                std::thread::yield_now();
            } else {
                std::thread::sleep(sleep);
                sleep = (sleep * 2).min(MAX_SLEEP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(lane: u16, count: u32) -> Dependency {
        Dependency { lane, reserved: 0, count }
    }

    #[test]
    fn dependency_waits_for_the_other_lane() {
        let table = LaneTable::default();
        let stop = AtomicBool::new(false);
        table.attach(5);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait(6, dependency(5, 2), &stop));
            table.publish(5);
            std::thread::sleep(Duration::from_millis(5));
            assert!(!waiter.is_finished());
            table.publish(5);
            assert_eq!(waiter.join().unwrap(), Waited::Done);
        });
    }

    #[test]
    fn wait_ends_when_the_lane_stops() {
        let table = LaneTable::default();
        table.attach(5);
        assert_eq!(table.wait(6, dependency(5, 1), &AtomicBool::new(true)), Waited::Stopped);
    }

    #[test]
    fn impossible_dependencies_are_invalid() {
        let table = LaneTable::default();
        let stop = AtomicBool::new(false);
        table.attach(5);
        table.attach(5);
        assert!(table.is_single());
        assert_eq!(table.wait(5, dependency(6, 0), &stop), Waited::Invalid);
        assert_eq!(table.wait(5, dependency(5000, 0), &stop), Waited::Invalid);
        assert_eq!(table.wait(5, dependency(5, 1), &stop), Waited::Invalid);
    }

    #[test]
    fn counts_wrap() {
        let table = LaneTable::default();
        table.attach(5);
        table.lanes[5].issued.store(2, Ordering::Relaxed);
        assert_eq!(table.met(dependency(5, u32::MAX)), Some(true));
        table.lanes[5].issued.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(table.met(dependency(5, 1)), Some(false));
    }
}
