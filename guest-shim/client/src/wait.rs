//! How long a thread polls before it sleeps.
//!
//! The end of a sleep comes tens of microseconds late: a wait that is polled to its end does not pay that. The driver itself polls without
//! end by default (CU_CTX_SCHED_AUTO); here a thread gives its CPU up after a bounded time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Environment variable: microseconds of polling before sleep.
pub const VARIABLE: &str = "VGPU_SPIN_US";
/// With CPUs to spare: longer than most steps of a program take on the GPU, and than a copy of 256 MiB; of what takes longer, a sleep that ends
/// 80 µs late is less than half a per cent.
const MANY_CPUS: Duration = Duration::from_millis(20);
const FEW_CPUS: Duration = Duration::from_micros(50);
/// With one CPU, polling keeps the other side from running: long enough for a reply that is there already, no more.
const SINGLE_CPU: Duration = Duration::from_micros(2);
/// From so many CPUs on, one is to spare beside those of the program's thread and of its worker.
const MANY: u32 = 4;
/// A thread that has polled for so long lets others run between looks.
const ALONE: Duration = Duration::from_micros(50);
/// Looks without a pause instruction, which takes as long as a short reply's last part: a few microseconds.
const EAGER: u32 = 2000;
/// Looks between two looks at the clock.
const LOOKS: u32 = 32;
/// With so many messages before the one that is waited for, looking takes the index's line from the worker for nothing: then there are
/// that many pauses between two looks, about ten microseconds.
pub(crate) const FAR: u64 = 32;
const RARELY: u32 = 256;

/// Polling time, adapted to how long waits take: between a quarter of the limit and the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spin {
    limit: Duration,
    now: Duration,
}

impl Spin {
    /// The limit from the environment and the CPUs that this thread may use.
    pub fn from_environment() -> Self {
        static LIMIT: OnceLock<Duration> = OnceLock::new();
        let limit = *LIMIT.get_or_init(|| {
            let wanted = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
            let wanted = wanted.map(|us: u64| Duration::from_micros(us.min(1_000_000)));
            match rustix::thread::sched_getaffinity(None).map_or(2, |set| set.count()) {
                ..=1 => wanted.unwrap_or(SINGLE_CPU).min(SINGLE_CPU),
                2..MANY => wanted.unwrap_or(FEW_CPUS),
                _ => wanted.unwrap_or(MANY_CPUS),
            }
        });
        Spin { limit, now: limit }
    }

    /// Polls until `left`, the count of messages to wait for, is 0, for a bounded time; whether it was.
    pub fn until(&mut self, mut left: impl FnMut() -> u64) -> bool {
        if self.now > SINGLE_CPU {
            for _ in 0..EAGER {
                match left() {
                    0 => return true,
                    FAR.. => break,
                    _ => {}
                }
            }
        }
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                match left() {
                    0 => return true,
                    FAR.. => {
                        (0..RARELY).for_each(|_| std::hint::spin_loop());
                        break;
                    }
                    _ => std::hint::spin_loop(),
                }
            }
            let waited = start.elapsed();
            if waited >= self.now {
                return left() == 0;
            }
            if waited > ALONE {
                std::thread::yield_now();
            }
        }
    }

    /// Learns from a wait that took `total`, polling and sleep together: waits that polling could have covered lengthen it,
    /// waits far beyond shorten it.
    pub fn learn(&mut self, total: Duration) {
        if total <= self.limit * 2 {
            self.now = (self.now * 2).min(self.limit);
        } else if total > self.limit * 8 {
            self.now = (self.now / 2).max(self.limit / 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_shrinks_under_long_waits_and_recovers() {
        let limit = Duration::from_micros(40);
        let mut spin = Spin { limit, now: limit };
        for _ in 0..10 {
            spin.learn(Duration::from_millis(5));
        }
        assert_eq!(spin.now, limit / 4);
        for _ in 0..10 {
            spin.learn(Duration::from_micros(60));
        }
        assert_eq!(spin.now, limit);
    }

    #[test]
    fn polling_ends() {
        let mut spin = Spin { limit: Duration::from_micros(50), now: Duration::from_micros(50) };
        assert!(!spin.until(|| 1));
        assert!(!spin.until(|| FAR));
        let patient = Duration::from_secs(10);
        let mut spin = Spin { limit: patient, now: patient };
        let mut left = 2 * FAR;
        assert!(spin.until(|| {
            left -= 1;
            left
        }));
    }
}
