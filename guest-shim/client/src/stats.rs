//! Counters of a client's traffic.
//!
//! Each lane has its own, written by the one thread that uses the lane: plain loads and stores, no locked instruction. They
//! are summed when they are read, so lanes of ended threads count.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Environment variable: `1` prints the line at exit.
pub const VARIABLE: &str = "VGPU_STATS";

/// A counter with one writer at a time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. One thread at a time: not a read-modify-write.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one lane.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LaneStats {
    /// Messages that nobody waits for.
    pub async_calls: Counter,
    /// Messages whose reply was waited for.
    pub round_trips: Counter,
    /// Writes to the kick eventfd: exits of a VM.
    pub kicks: Counter,
    /// Reads of the completion eventfd: interrupts of a VM.
    pub interrupts: Counter,
    /// Bytes copied between the program's memory and windows; counted by the shim.
    pub bytes_copied: Counter,
}

/// Counters, summed. `calls` are those that crossed a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub calls: u64,
    pub async_calls: u64,
    pub round_trips: u64,
    pub kicks: u64,
    pub interrupts: u64,
    pub bytes_copied: u64,
}

impl Totals {
    /// Adds a lane's counters.
    pub fn add(&mut self, lane: &LaneStats) {
        let (async_calls, round_trips) = (lane.async_calls.get(), lane.round_trips.get());
        self.calls += async_calls + round_trips;
        self.async_calls += async_calls;
        self.round_trips += round_trips;
        self.kicks += lane.kicks.get();
        self.interrupts += lane.interrupts.get();
        self.bytes_copied += lane.bytes_copied.get();
    }

    /// Prints the line on stderr if [`VARIABLE`] is `1`.
    pub fn print_if_wanted(&self) {
        if std::env::var_os(VARIABLE).is_some_and(|value| value == "1") {
            crate::log::write_all(rustix::stdio::stderr(), format!("{self}\n").as_bytes());
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { calls, async_calls, round_trips, kicks, interrupts, bytes_copied } = self;
        write!(
            f,
            "vgpu-stats {{\"calls\":{calls},\"async_calls\":{async_calls},\"round_trips\":{round_trips},"
        )?;
        write!(f, "\"kicks\":{kicks},\"interrupts\":{interrupts},\"bytes_copied\":{bytes_copied}}}")
    }
}
