//! Accounts: which slot of its VM's ledger belongs to which client.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::ledger::{Ledger, LedgerError, MAX_SLOTS, Slot};

/// A VM's ledger and who has which slot of it. Lives as long as the VM's socket: limits and use survive a reconnection.
pub struct Accounts {
    ledger: Ledger,
    /// Its file, for workers.
    file: OwnedFd,
    taken: Mutex<Vec<bool>>,
}

impl Accounts {
    pub fn new() -> Result<Arc<Self>, LedgerError> {
        let taken = Mutex::new(vec![false; MAX_SLOTS as usize]);
        let (ledger, file) = Ledger::new()?;
        Ok(Arc::new(Accounts { ledger, file, taken }))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A slot for a new client; `None` if all are taken, by workers that do not die for example.
    pub fn open(self: &Arc<Self>) -> Option<Arc<Account>> {
        let mut taken = lock(&self.taken);
        let slot = taken.iter().position(|&taken| !taken)?;
        taken[slot] = true;
        let slot = u32::try_from(slot).ok()?;
        self.ledger.open_slot(slot);
        Some(Arc::new(Account { accounts: Arc::clone(self), slot }))
    }
}

impl AsFd for Accounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A client's slot, until nobody has this any more. Whoever watches the worker keeps it until the worker has ended.
pub struct Account {
    accounts: Arc<Accounts>,
    slot: u32,
}

impl Account {
    pub fn number(&self) -> u32 {
        self.slot
    }

    pub fn slot(&self) -> Option<&Slot> {
        self.accounts.ledger.slot(self.slot)
    }

    /// The worker has ended: what it used is free.
    pub fn settle(&self) {
        self.accounts.ledger.close_slot(self.slot);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
        if let Some(taken) = lock(&self.accounts.taken).get_mut(self.slot as usize) {
            *taken = false;
        }
    }
}
