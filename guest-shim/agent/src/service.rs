//! What all shims share: the device, its control queue and lanes, and the way to stop the agent.

use crate::carrier::Carrier;
use crate::control::{Control, ControlError};
use crate::lanes::Lanes;
use crate::readings::Readings;
use crate::shares::Shares;
use std::collections::HashSet;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// Why the agent ends.
#[derive(Debug)]
pub enum Stop {
    /// SIGTERM or SIGINT.
    Signal(i32),
    /// The device is of no use any more; says why.
    Device(String),
}

/// Shared by all sessions.
#[derive(Debug)]
pub struct Service {
    carrier: Arc<dyn Carrier>,
    control: Control,
    lanes: Arc<Lanes>,
    shares: Shares,
    readings: Readings,
    snapshot: Vec<u8>,
    client_limit: u32,
    numbers: Mutex<Numbers>,
    stop: Sender<Stop>,
}

/// Client numbers in use. Numbers are used again as late as possible.
#[derive(Debug, Default)]
struct Numbers {
    used: HashSet<u32>,
    last: u32,
}

impl Numbers {
    fn take(&mut self, limit: u32) -> Option<u32> {
        if self.used.len() >= limit as usize {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if self.used.insert(self.last) {
                return Some(self.last);
            }
        }
    }
}

impl Service {
    pub fn new(
        carrier: Arc<dyn Carrier>,
        control: Control,
        lanes: Arc<Lanes>,
        snapshot: Vec<u8>,
        client_limit: u32,
        stop: Sender<Stop>,
    ) -> Self {
        let (shares, readings, numbers) = (Shares::default(), Readings::default(), Mutex::default());
        Self { carrier, control, lanes, shares, readings, snapshot, client_limit, numbers, stop }
    }

    pub fn carrier(&self) -> &dyn Carrier {
        &*self.carrier
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// What a device does at the moment.
    pub fn reading(&self, device: u32) -> Result<Arc<[u8]>, ControlError> {
        self.readings.get(device, || self.control.reading(device))
    }

    pub fn snapshot(&self) -> &[u8] {
        &self.snapshot
    }

    /// Clients that the broker serves at once.
    pub fn client_limit(&self) -> u32 {
        self.client_limit
    }

    /// A number for a new client, or `None` at the limit.
    pub fn take_number(&self) -> Option<u32> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).take(self.client_limit)
    }

    /// Gives a client's number back after the broker has closed it.
    pub fn give_number(&self, number: u32) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&number);
    }

    /// Ends the agent: the device does not answer as it must.
    pub fn fail(&self, error: &ControlError) {
        self.stop(Stop::Device(crate::error::chain(error)));
    }

    pub fn stop(&self, stop: Stop) {
        // Nobody listens any more when the agent is ending already.
        let _ = self.stop.send(stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_limited_and_start_at_one() {
        let mut numbers = Numbers { last: u32::MAX - 1, ..Numbers::default() };
        assert_eq!(numbers.take(3), Some(u32::MAX));
        assert_eq!(numbers.take(3), Some(1), "0 stands for no client");
        numbers.last = u32::MAX - 1;
        assert_eq!(numbers.take(3), Some(2), "numbers in use are skipped");
        assert_eq!(numbers.take(3), None);
    }
}
