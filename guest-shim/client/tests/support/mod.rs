//! The other side, for tests: a device that serves a lane by the virtio-queue crate, and an agent on a socket.
//! What they cannot show: anything of CUDA, of a VM or of the real agent and worker.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod agent;
pub mod device;

use std::time::{Duration, Instant};

/// A small generator of numbers that look random, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// Waits until `done`, and fails the test after 10 seconds.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}
