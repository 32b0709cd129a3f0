//! This client's account: its slot of the VM's ledger.

use crate::ledger::{Counter, Ledger};

/// A slot that exists, and the ledger that it is in.
pub struct Account {
    ledger: Ledger,
    slot: u32,
}

impl Account {
    /// `None` if the ledger has no such slot.
    pub fn new(ledger: Ledger, slot: u32) -> Option<Self> {
        ledger.slot(slot)?;
        Some(Account { ledger, slot })
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Counts what the client did.
    pub fn add(&self, counter: Counter, value: u64) {
        if let Some(slot) = self.ledger.slot(self.slot) {
            slot.add(counter, value);
        }
    }
}
