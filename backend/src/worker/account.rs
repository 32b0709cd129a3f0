//! This client's account: its slot of the VM's ledger.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::thread::futex;

use crate::devices::HostOrdinals;
use crate::ledger::{Counter, Device, Ledger, Slot, Turns, presence};

/// A lane that waits for its VM looks so often whether it is to stop, and says again that it waits.
const AGAIN: Duration = Duration::from_millis(50);

/// Sleeps while the word is `value`, which another process may change.
pub fn sleep_on(word: &AtomicU32, value: u32, most: Duration) {
    let time = Timespec {
        tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(most.subsec_nanos()),
    };
    let _ = futex::wait(word, futex::Flags::empty(), value, Some(&time));
}

/// A slot that exists, and the ledger that it is in.
///
/// The ledger is by the host's ordinals. Here devices have the numbers that the driver gives them in this process, which may see some of
/// the host's devices only; this is the one place where that is translated.
pub struct Account {
    ledger: Ledger,
    slot: u32,
    devices: HostOrdinals,
    /// An eventfd: the scheduler looks at the ledger when it is written.
    bell: OwnedFd,
}

impl Account {
    /// `None` if the ledger has no such slot.
    pub fn new(ledger: Ledger, slot: u32, bell: OwnedFd, devices: HostOrdinals) -> Option<Self> {
        ledger.slot(slot)?;
        Some(Account { ledger, slot, devices, bell })
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn slot(&self) -> Option<&Slot> {
        self.ledger.slot(self.slot)
    }

    /// Counts what the client did.
    pub fn add(&self, counter: Counter, value: u64) {
        if let Some(slot) = self.slot() {
            slot.add(counter, value);
        }
    }

    /// The host's ordinal of a device of this process.
    pub fn host_ordinal(&self, ordinal: u32) -> Option<u32> {
        self.devices.get(usize::try_from(ordinal).ok()?).copied()
    }

    /// What the VM has of the device.
    pub fn device(&self, ordinal: u32) -> Option<&Device> {
        self.ledger.device(self.host_ordinal(ordinal)?)
    }

    /// What this client does on the device, for turns.
    pub fn turns(&self, ordinal: u32) -> Option<&Turns> {
        self.slot()?.turns.get(self.host_ordinal(ordinal)? as usize)
    }

    /// Tells the scheduler that there is something to look at.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Whether calls have to wait because the VM is moved off its devices.
    pub fn is_away(&self) -> bool {
        self.ledger.presence().load(Ordering::Acquire) != presence::HERE
    }

    /// Says that a call waits, and waits until the VM is back; false if `stop` came first.
    #[cold]
    pub fn await_presence(&self, stop: &AtomicBool) -> bool {
        let (word, start) = (self.ledger.presence(), Instant::now());
        let Some(slot) = self.slot() else { return true };
        slot.held.fetch_add(1, Ordering::SeqCst);
        while self.is_away() && !stop.load(Ordering::Acquire) {
            self.ring();
            sleep_on(word, presence::AWAY, AGAIN);
        }
        slot.held.fetch_sub(1, Ordering::SeqCst);
        self.add(Counter::Throttled, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        !self.is_away()
    }

    /// Whether clients of the VM are about to give memory back: their processes have ended, their workers have not.
    pub fn others_leave(&self) -> bool {
        self.ledger.leaving().load(Ordering::Acquire) != 0
    }

    /// Takes `bytes` of the device's memory from what the VM may use; whether it may.
    #[must_use]
    pub fn take(&self, ordinal: u32, bytes: u64) -> bool {
        let taken = self.device(ordinal).is_none_or(|device| device.take(bytes));
        if taken {
            self.own(ordinal, |used| used.saturating_add(bytes));
        }
        taken
    }

    /// Counts memory that the client has got already.
    pub fn take_anyway(&self, ordinal: u32, bytes: u64) {
        if let Some(device) = self.device(ordinal) {
            device.used.fetch_add(bytes, Ordering::AcqRel);
            self.own(ordinal, |used| used.saturating_add(bytes));
        }
    }

    pub fn give_back(&self, ordinal: u32, bytes: u64) {
        if let Some(device) = self.device(ordinal) {
            self.own(ordinal, |used| used.saturating_sub(bytes));
            device.give_back(bytes);
        }
    }

    /// What the VM may still take; `u64::MAX` without a limit.
    pub fn left(&self, ordinal: u32) -> u64 {
        let left = |d: &Device| d.limit().map(|limit| limit.saturating_sub(d.used.load(Ordering::Acquire)));
        self.device(ordinal).and_then(left).unwrap_or(u64::MAX)
    }

    /// By how much the VM is beyond its limit.
    pub fn excess(&self, ordinal: u32) -> u64 {
        let excess =
            |d: &Device| d.used.load(Ordering::Acquire).saturating_sub(d.limit().unwrap_or(u64::MAX));
        self.device(ordinal).map_or(0, excess)
    }

    fn own(&self, ordinal: u32, change: impl Fn(u64) -> u64) {
        let host_ordinal = self.host_ordinal(ordinal);
        let word = self.slot().zip(host_ordinal).and_then(|(slot, host)| slot.used.get(host as usize));
        if let Some(word) = word {
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(change(used)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceSet;

    fn account(devices: &[u32]) -> (Account, Ledger) {
        let (theirs, file) = Ledger::new().unwrap();
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let devices = DeviceSet::new(Some(devices), 3).unwrap().host_ordinals();
        (Account::new(Ledger::open(&file).unwrap(), 1, bell, devices).unwrap(), theirs)
    }

    #[test]
    fn the_ledger_counts_by_the_hosts_ordinals() {
        let (account, ledger) = account(&[2, 0]);
        let used = |n: u32| ledger.device(n).unwrap().used.load(Ordering::Relaxed);
        let own = |n: usize| ledger.slot(1).unwrap().used[n].load(Ordering::Relaxed);
        ledger.device(2).unwrap().limit.store(100, Ordering::Relaxed);
        assert!(account.take(0, 60) && !account.take(0, 60), "the limit is the host's device 2's");
        account.take_anyway(1, 7);
        assert_eq!(([0, 1, 2].map(used), [0, 1, 2].map(own)), ([7, 0, 60], [7, 0, 60]));
        assert_eq!((account.left(0), account.left(1), account.excess(0)), (40, u64::MAX, 0));
        account.give_back(0, 20);
        assert_eq!(([0, 1, 2].map(used), own(2)), ([7, 0, 40], 40));
        assert!(std::ptr::eq(account.turns(0).unwrap(), &raw const account.slot().unwrap().turns[2]));
    }

    #[test]
    fn a_device_that_the_process_does_not_have_counts_nowhere() {
        let (account, ledger) = account(&[2, 0]);
        assert!(account.device(2).is_none() && account.turns(2).is_none() && account.take(2, 5));
        account.give_back(2, 5);
        assert!((0..3).all(|n| ledger.device(n).unwrap().used.load(Ordering::Relaxed) == 0));
    }
}
