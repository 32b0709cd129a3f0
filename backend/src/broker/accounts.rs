//! Accounts: which slot of its VM's ledger belongs to which client, and what the VM may use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use vgpu_spec::wire::snapshot::MAX_DEVICES;

use super::lock;
use crate::identity::Identities;
use crate::ledger::{COUNTERS, Counter, Ledger, LedgerError, MAX_SLOTS, Slot};
use crate::limits::Limits;

/// What the counters of several clients come to, by [`Counter`].
pub type Totals = [u64; COUNTERS];

/// A VM's ledger and who has which slot of it. Lives as long as the VM's socket: limits and use survive a reconnection.
pub struct Accounts {
    ledger: Ledger,
    /// Its file, for workers.
    file: OwnedFd,
    slots: Mutex<Slots>,
    limits: Mutex<Limits>,
}

struct Slots {
    taken: Vec<bool>,
    /// Of clients that have ended.
    ended: Totals,
}

impl Accounts {
    pub fn new() -> Result<Arc<Self>, LedgerError> {
        let slots = Slots { taken: vec![false; MAX_SLOTS as usize], ended: [0; COUNTERS] };
        let (ledger, file) = Ledger::new()?;
        let (slots, limits) = (Mutex::new(slots), Mutex::default());
        Ok(Arc::new(Accounts { ledger, file, slots, limits }))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Counts from now on, for running clients too.
    pub fn set_limits(&self, limits: &Limits) {
        *lock(&self.limits) = *limits;
    }

    /// What the VM is shown of the devices' memory is what it may use.
    pub fn set_memory(&self, identities: &Identities) {
        for ordinal in 0..MAX_DEVICES {
            if let Some(device) = self.ledger.device(ordinal) {
                let limit = identities.memory(ordinal).unwrap_or(u64::MAX);
                device.limit.store(limit, Ordering::Relaxed);
            }
        }
    }

    /// A slot for a new client; `None` if all are taken, by workers that do not die for example.
    pub fn open(self: &Arc<Self>) -> Option<Arc<Account>> {
        let mut slots = lock(&self.slots);
        let slot = slots.taken.iter().position(|&taken| !taken)?;
        let number = u32::try_from(slot).ok()?;
        *slots.taken.get_mut(slot)? = true;
        self.ledger.open_slot(number);
        Some(Arc::new(Account { accounts: Arc::clone(self), slot: number }))
    }

    /// What the VM's clients have done, those that have ended too.
    pub fn totals(&self) -> Totals {
        // Under the lock, so that a client that ends meanwhile counts once.
        let slots = lock(&self.slots);
        let mut totals = slots.ended;
        for (slot, _) in (0..).zip(&slots.taken).filter(|(_, taken)| **taken) {
            if let Some(slot) = self.ledger.slot(slot) {
                add(&mut totals, slot);
            }
        }
        totals
    }
}

/// SECURITY: the numbers are a worker's: they may be anything, and must not stop the broker.
fn add(totals: &mut Totals, slot: &Slot) {
    for (total, counter) in totals.iter_mut().zip(Counter::ALL) {
        *total = total.wrapping_add(slot.get(counter));
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
        let mut slots = lock(&self.accounts.slots);
        if let Some(slot) = self.slot() {
            add(&mut slots.ended, slot);
        }
        if let Some(taken) = slots.taken.get_mut(self.slot as usize) {
            *taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_clients_did_stays_in_the_totals() {
        let accounts = Accounts::new().unwrap();
        let (first, second) = (accounts.open().unwrap(), accounts.open().unwrap());
        first.slot().unwrap().add(Counter::Launches, 5);
        second.slot().unwrap().add(Counter::Launches, 7);
        let launches = || accounts.totals()[Counter::Launches as usize];
        assert_eq!(launches(), 12);
        drop(first);
        assert_eq!(launches(), 12);
        let third = accounts.open().unwrap();
        assert_eq!((third.number(), launches()), (0, 12), "the slot is used again, from zero");
    }

    #[test]
    fn shown_memory_is_the_limit() {
        let accounts = Accounts::new().unwrap();
        let limit = |n| accounts.ledger().device(n).unwrap().limit.load(Ordering::Relaxed);
        let mut identities = Identities::default();
        identities.set_memory(crate::identity::parse_memory("1=512").unwrap()).unwrap();
        accounts.set_memory(&identities);
        assert_eq!((limit(0), limit(1)), (u64::MAX, 512 << 20));
        accounts.set_memory(&Identities::default());
        assert_eq!(limit(1), u64::MAX);
    }
}
