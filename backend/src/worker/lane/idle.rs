//! How long an idle lane polls before it sleeps.
//!
//! Whoever sleeps begins 50 µs late, on a processor that has slowed down meanwhile. A program that computes for a millisecond between two
//! steps (a language model's sampler, say) would pay that at each step, so a lane whose program soon comes back polls for longer.

use std::time::Duration;

/// Of the shortest time of polling: the longest.
const LONGER: u32 = 8;

/// A lane's time of polling.
#[derive(Debug)]
pub struct Idle {
    least: Duration,
    now: Duration,
}

impl Idle {
    /// Polls for at least `least`; never, if that is zero.
    pub fn new(least: Duration) -> Idle {
        Idle { least, now: least }
    }

    /// The time to poll for.
    pub fn limit(&self) -> Duration {
        self.now
    }

    /// Learns from a time without messages, polling and sleep together, that polling alone did not cover.
    pub fn learn(&mut self, idle: Duration) {
        let most = self.least * LONGER;
        self.now = if idle <= most { most } else { self.least };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_micros(500);

    #[test]
    fn a_program_that_soon_comes_back_is_polled_for() {
        let mut idle = Idle::new(LEAST);
        assert_eq!(idle.limit(), LEAST);
        idle.learn(Duration::from_millis(1));
        assert!(idle.limit() >= Duration::from_millis(1), "the next time polling covers it");
    }

    #[test]
    fn a_program_that_stays_away_is_not() {
        let mut idle = Idle::new(LEAST);
        idle.learn(Duration::from_millis(1));
        idle.learn(Duration::from_millis(20));
        assert_eq!(idle.limit(), LEAST);
    }

    #[test]
    fn polling_that_is_off_stays_off() {
        let mut idle = Idle::new(Duration::ZERO);
        idle.learn(Duration::ZERO);
        idle.learn(Duration::from_micros(1));
        assert_eq!(idle.limit(), Duration::ZERO);
    }
}
