//! Accounts: which slot of its VM's ledger belongs to which client, and what the VM may take.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use rustix::event::{EventfdFlags, eventfd};

use super::lock;
use super::worker_link::Worker;
use crate::identity::Identities;
use crate::ledger::{DEVICES, Ledger, LedgerError, MAX_SLOTS, Slot};
use crate::limits::Limits;

/// A VM's ledger and who has which slot of it. Lives as long as the VM's socket: limits and use survive a reconnection.
pub struct Accounts {
    ledger: Ledger,
    /// Its file, for workers.
    file: OwnedFd,
    /// Written by workers when the scheduler should look at the ledger. The VM's own, so that no other VM's can be swallowed.
    bell: OwnedFd,
    limits: Mutex<Limits>,
    /// By slot: who has it.
    taken: Mutex<Vec<Option<Weak<Worker>>>>,
}

impl Accounts {
    pub fn new() -> Result<Arc<Self>, LedgerError> {
        let taken = Mutex::new(vec![None; MAX_SLOTS as usize]);
        let (ledger, file) = Ledger::new()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(LedgerError::Make)?;
        Ok(Arc::new(Accounts { ledger, file, bell, limits: Mutex::default(), taken }))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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
        let mut taken = lock(&self.taken);
        let slot = taken.iter().position(Option::is_none)?;
        *taken.get_mut(slot)? = Some(Arc::downgrade(worker));
        let slot = u32::try_from(slot).ok()?;
        self.ledger.open_slot(slot);
        self.ring();
        Some(Arc::new(Account { accounts: Arc::clone(self), slot }))
    }

    /// The slots of clients, and their workers.
    pub fn clients(&self) -> Vec<(u32, Arc<Worker>)> {
        let taken = lock(&self.taken);
        (0_u32..)
            .zip(taken.iter())
            .filter_map(|(slot, worker)| Some((slot, worker.as_ref()?.upgrade()?)))
            .collect()
    }

    /// The slots that clients have.
    pub fn slots(&self) -> Vec<u32> {
        (0_u32..)
            .zip(lock(&self.taken).iter())
            .filter(|(_, worker)| worker.is_some())
            .map(|(slot, _)| slot)
            .collect()
    }

    pub fn has_clients(&self) -> bool {
        lock(&self.taken).iter().any(Option::is_some)
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

    /// The worker has ended: what it used is free, and what it did is done.
    pub fn settle(&self) {
        self.accounts.ledger.close_slot(self.slot);
        self.accounts.ring();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle();
        let mut taken = lock(&self.accounts.taken);
        if let Some(taken) = taken.get_mut(self.slot as usize) {
            *taken = None;
        }
        // Under the lock: nobody takes a slot meanwhile.
        if taken.iter().all(Option::is_none) {
            self.accounts.ledger.forget_use();
        }
        drop(taken);
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
