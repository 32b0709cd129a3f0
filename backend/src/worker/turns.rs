//! What a client does with its VM's turns on devices.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A client's part in turns.
#[derive(Default)]
pub struct Turns {
    /// The driver's streams in which a capture was begun and has not ended.
    capturing: Mutex<HashSet<u64>>,
    captures: AtomicUsize,
}

impl Turns {
    /// Whether the client records something: the driver must be asked nothing then that would end it.
    pub fn captures(&self) -> bool {
        self.captures.load(Ordering::Acquire) != 0
    }

    /// A capture in `stream` begins or has ended.
    pub fn capture(&self, stream: u64, begins: bool) {
        let mut capturing = self.capturing.lock().unwrap_or_else(PoisonError::into_inner);
        if begins {
            capturing.insert(stream);
        } else {
            capturing.remove(&stream);
        }
        self.captures.store(capturing.len(), Ordering::Release);
    }
}
