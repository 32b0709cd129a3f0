//! Accounts: which slot of its VM's ledger belongs to which client, and what the VM may take.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::event::{EventfdFlags, eventfd};

use super::lock;
use super::presence::Presence;
use super::worker_link::Worker;
use crate::identity::Identities;
use crate::ledger::{COUNTERS, Counter, DEVICES, Ledger, LedgerError, MAX_SLOTS, Slot};
use crate::limits::Limits;

/// What the counters of several clients come to, by [`Counter`].
pub type Totals = [u64; COUNTERS];

/// A VM's ledger and who has which slot of it. Lives as long as the VM's socket: limits and use survive a reconnection.
pub struct Accounts {
    ledger: Ledger,
    /// Its file, for workers.
    file: OwnedFd,
    /// Written by workers when the scheduler should look at the ledger. The VM's own, so that no other VM's can be swallowed.
    bell: OwnedFd,
    limits: Mutex<Limits>,
    slots: Mutex<Slots>,
    presence: Presence,
}

struct Slots {
    /// By slot: who has it.
    taken: Vec<Option<Weak<Worker>>>,
    /// What clients did that have ended.
    ended: Totals,
    /// Clients that are leaving.
    leaving: u32,
}

impl Accounts {
    pub fn new() -> Result<Arc<Self>, LedgerError> {
        let slots = Slots { taken: vec![None; MAX_SLOTS as usize], ended: [0; COUNTERS], leaving: 0 };
        let (ledger, file) = Ledger::new()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(LedgerError::Make)?;
        Ok(Arc::new(Accounts {
            ledger,
            file,
            bell,
            limits: Mutex::default(),
            slots: Mutex::new(slots),
            presence: Presence::default(),
        }))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether the VM is on its devices.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    pub fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Counts from now on.
    pub fn set_limits(&self, limits: &Limits) {
        *lock(&self.limits) = *limits;
        self.ring();
    }

    /// What the VM is shown of devices' memory is what it may use.
    pub fn set_memory(&self, identities: &Identities) {
        for ordinal in 0..DEVICES {
            if let Some(device) = self.ledger.device(ordinal) {
                device.limit.store(identities.memory(ordinal).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        }
    }

    /// Has the scheduler look at the ledger.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// What is given to a worker: the ledger's file and the eventfd.
    pub fn files(&self) -> [BorrowedFd<'_>; 2] {
        [self.file.as_fd(), self.bell.as_fd()]
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// A slot for a new client; `None` if all are taken, by workers that do not die for example.
    pub fn open(self: &Arc<Self>, worker: &Arc<Worker>) -> Option<Arc<Account>> {
        self.open_for(Arc::downgrade(worker))
    }

    fn open_for(self: &Arc<Self>, worker: Weak<Worker>) -> Option<Arc<Account>> {
        let mut slots = lock(&self.slots);
        let slot = slots.taken.iter().position(Option::is_none)?;
        *slots.taken.get_mut(slot)? = Some(worker);
        let slot = u32::try_from(slot).ok()?;
        self.ledger.open_slot(slot);
        self.ring();
        Some(Arc::new(Account { accounts: Arc::clone(self), slot, leaves: AtomicBool::new(false) }))
    }

    /// What the VM's clients have done, those that have ended too.
    pub fn totals(&self) -> Totals {
        // Under the lock, so that a client that ends meanwhile counts once.
        let slots = lock(&self.slots);
        let mut totals = slots.ended;
        for (slot, _) in (0..).zip(&slots.taken).filter(|(_, taken)| taken.is_some()) {
            if let Some(slot) = self.ledger.slot(slot) {
                add(&mut totals, slot);
            }
        }
        totals
    }

    /// The slots of clients, and their workers.
    pub fn clients(&self) -> Vec<(u32, Arc<Worker>)> {
        let slots = lock(&self.slots);
        (0_u32..)
            .zip(&slots.taken)
            .filter_map(|(slot, worker)| Some((slot, worker.as_ref()?.upgrade()?)))
            .collect()
    }

    /// The slots that clients have.
    pub fn slots(&self) -> Vec<u32> {
        (0_u32..)
            .zip(&lock(&self.slots).taken)
            .filter(|(_, worker)| worker.is_some())
            .map(|(slot, _)| slot)
            .collect()
    }

    pub fn has_clients(&self) -> bool {
        lock(&self.slots).taken.iter().any(Option::is_some)
    }
}

/// The VM was removed: the scheduler is to forget it.
impl Drop for Accounts {
    fn drop(&mut self) {
        self.ring();
    }
}

/// SECURITY: the numbers are a worker's: they may be anything, and must not stop the broker.
fn add(totals: &mut Totals, slot: &Slot) {
    for (total, counter) in totals.iter_mut().zip(Counter::ALL) {
        *total = total.wrapping_add(slot.get(counter));
    }
}

/// A client's slot, until nobody has this any more. Whoever watches the worker keeps it until the worker has ended.
pub struct Account {
    accounts: Arc<Accounts>,
    slot: u32,
    /// Its process has ended, its worker has not.
    leaves: AtomicBool,
}

impl Account {
    pub fn number(&self) -> u32 {
        self.slot
    }

    pub fn slot(&self) -> Option<&Slot> {
        self.accounts.ledger.slot(self.slot)
    }

    /// The client's process has ended, or its worker has after that: workers of the VM that look for free memory know what is to come.
    pub fn set_leaving(&self, leaves: bool) {
        let mut slots = lock(&self.accounts.slots);
        if self.leaves.swap(leaves, Ordering::Relaxed) != leaves {
            slots.leaving = if leaves { slots.leaving + 1 } else { slots.leaving.saturating_sub(1) };
            self.accounts.ledger.leaving().store(slots.leaving, Ordering::Release);
        }
    }

    /// The worker has ended: what it used is free, and what it did is done.
    pub fn settle(&self) {
        self.set_leaving(false);
        self.accounts.ledger.close_slot(self.slot);
        self.accounts.ring();
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
            *taken = None;
        }
        // Under the lock: nobody takes a slot meanwhile.
        if slots.taken.iter().all(Option::is_none) {
            self.accounts.ledger.forget_use();
        }
        drop(slots);
        self.accounts.ring();
    }
}

/// The accounts of all VMs that there are.
pub struct Registry {
    all: Mutex<Vec<Weak<Accounts>>>,
    /// Written when there is another.
    bell: OwnedFd,
}

impl Registry {
    pub fn new() -> rustix::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Registry { all: Mutex::default(), bell })
    }

    pub fn add(&self, accounts: &Arc<Accounts>) {
        {
            let mut all = lock(&self.all);
            all.retain(|known| known.strong_count() > 0);
            all.push(Arc::downgrade(accounts));
        }
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub fn all(&self) -> Vec<Arc<Accounts>> {
        lock(&self.all).iter().filter_map(Weak::upgrade).collect()
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_clients_did_stays_in_the_totals() {
        let accounts = Accounts::new().unwrap();
        let (first, second) =
            (accounts.open_for(Weak::new()).unwrap(), accounts.open_for(Weak::new()).unwrap());
        first.slot().unwrap().add(Counter::Launches, 5);
        second.slot().unwrap().add(Counter::Launches, 7);
        let launches = || accounts.totals()[Counter::Launches as usize];
        assert_eq!(launches(), 12);
        drop(first);
        assert_eq!(launches(), 12);
        let third = accounts.open_for(Weak::new()).unwrap();
        assert_eq!((third.number(), launches()), (0, 12), "the slot is used again, from zero");
    }

    #[test]
    fn a_client_leaves_once() {
        let accounts = Accounts::new().unwrap();
        let leaving = || accounts.ledger().leaving().load(Ordering::Relaxed);
        let (first, second) =
            (accounts.open_for(Weak::new()).unwrap(), accounts.open_for(Weak::new()).unwrap());
        first.set_leaving(true);
        first.set_leaving(true);
        second.set_leaving(true);
        assert_eq!(leaving(), 2);
        first.settle();
        assert_eq!(leaving(), 1);
        drop((first, second));
        assert_eq!(leaving(), 0);
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
