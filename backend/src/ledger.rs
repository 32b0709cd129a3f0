//! A VM's ledger: memory that the broker shares with the VM's workers, in which they count what they do and use.
//!
//! SECURITY: a worker counts as the guest's, so the broker takes nothing that stands here for more than a hint about this one VM: what
//! it reads decides about that VM only. No address, length or index is read from here.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags};
use vgpu_spec::wire::snapshot::MAX_DEVICES;

/// Clients that a ledger has room for: `--clients` at most.
pub const MAX_SLOTS: u32 = 1024;
/// Devices that a ledger has room for.
pub const DEVICES: u32 = MAX_DEVICES;
const ROOM: usize = MAX_DEVICES as usize;

/// What a worker counts. Each counter only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Messages executed, of either sort.
    Messages,
    /// Those that the guest waited for.
    RoundTrips,
    /// Calls that failed.
    Errors,
    /// Kernels and graphs launched.
    Launches,
    /// Bytes of copies to a device.
    BytesToDevice,
    /// Bytes of copies from a device.
    BytesFromDevice,
    /// Nanoseconds for which the client's work had a device, as far as measured.
    DeviceTime,
    /// Nanoseconds for which lanes were held back in favour of others.
    Throttled,
}

/// How many there are.
pub const COUNTERS: usize = Counter::Throttled as usize + 1;

impl Counter {
    /// In the order of their numbers.
    pub const ALL: [Counter; COUNTERS] = [
        Counter::Messages,
        Counter::RoundTrips,
        Counter::Errors,
        Counter::Launches,
        Counter::BytesToDevice,
        Counter::BytesFromDevice,
        Counter::DeviceTime,
        Counter::Throttled,
    ];
}

/// `Device::gate`: whether lanes may issue work.
pub mod gate {
    /// Nobody else wants the device: pass, and leave no trace.
    pub const OPEN: u32 = 0;
    /// The VM's turn: pass, and keep track.
    pub const TURN: u32 = 1;
    /// Others' turn, or the VM has not asked for one: say so, and wait.
    pub const CLOSED: u32 = 2;
}

/// `Presence::word`: whether the VM's calls reach the driver.
pub mod presence {
    /// They do.
    pub const HERE: u32 = 0;
    /// The VM is moved off its devices, or about to be: every call waits.
    pub const AWAY: u32 = 1;
}

/// Of the whole VM. The broker writes it; lanes sleep on it.
#[repr(C, align(64))]
pub struct Presence {
    /// [`presence`].
    pub word: AtomicU32,
    /// Clients whose process has ended and whose worker, with their memory, has not.
    pub leaving: AtomicU32,
}

/// One device, for the whole VM.
#[repr(C, align(64))]
pub struct Device {
    /// Bytes that the VM may use; `u64::MAX` for no limit. The broker writes it.
    pub limit: AtomicU64,
    /// Bytes that its clients use. Workers add and subtract; the broker takes off what an ended one has left.
    pub used: AtomicU64,
    /// Nanoseconds of turns that the VM has had. The broker writes it.
    pub time: AtomicU64,
    gate: Gate,
}

/// Lanes look at it for each launch: what changes often is on another cache line.
#[repr(C, align(64))]
struct Gate(AtomicU32);

/// One client. Its worker writes, the broker reads.
#[repr(C, align(64))]
pub struct Slot {
    counters: [AtomicU64; COUNTERS],
    /// Its part of `Device::used`, but for `overhead`.
    pub used: [AtomicU64; ROOM],
    /// What the driver says that the client uses beyond that: contexts, code, the driver's own. The broker measures and writes it.
    pub overhead: [AtomicU64; ROOM],
    pub turns: [Turns; ROOM],
    /// Lanes that wait because the VM is away.
    pub held: AtomicU32,
}

/// The host's monotonic clock, which broker and workers share.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.cast_unsigned())
}

/// What a client does on a device, for turns. Its worker writes.
#[repr(C)]
pub struct Turns {
    /// Lanes that wait at the closed gate.
    pub waiting: AtomicU32,
    /// Lanes that are issuing work.
    pub inside: AtomicU32,
    /// The gate's word under which the client last issued work; 0 for none.
    pub active: AtomicU32,
    /// The gate's word of the turn whose work is all done, as far as the worker can tell.
    pub done: AtomicU32,
    /// The gate's word of the turn that is over and whose work is about to be done.
    pub near: AtomicU32,
    pub reserved: AtomicU32,
    /// When the client first issued work in its last turn, and when it said that this was about to be done: nanoseconds of the host's
    /// monotonic clock, for who asks what handovers take.
    pub begun: AtomicU64,
    pub said: AtomicU64,
}

impl Turns {
    fn clear(&self) {
        [&self.waiting, &self.inside, &self.active, &self.done, &self.near]
            .iter()
            .for_each(|w| w.store(0, Ordering::Relaxed));
        [&self.begun, &self.said].iter().for_each(|w| w.store(0, Ordering::Relaxed));
    }
}

impl Device {
    /// [`gate`] and, from bit 2 on, the turn's number. The broker writes it; lanes sleep on it.
    #[inline]
    pub fn gate(&self) -> &AtomicU32 {
        &self.gate.0
    }

    /// Takes `bytes` if the limit allows it.
    pub fn take(&self, bytes: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let within = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).is_ok()
    }

    /// Gives back what was taken; never below 0, whatever a worker has written.
    pub fn give_back(&self, bytes: u64) {
        let _ = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| Some(used.saturating_sub(bytes)));
    }

    /// Whether there is a limit, and it.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|&limit| limit != u64::MAX)
    }
}

impl Slot {
    pub fn add(&self, counter: Counter, value: u64) {
        self.counters[counter as usize].fetch_add(value, Ordering::Relaxed);
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// What the client uses of a device.
    pub fn memory(&self, ordinal: u32) -> u64 {
        let word =
            |words: &[AtomicU64; ROOM]| words.get(ordinal as usize).map_or(0, |w| w.load(Ordering::Relaxed));
        word(&self.used).saturating_add(word(&self.overhead))
    }

    fn clear(&self) {
        let words = self.counters.iter().chain(&self.used).chain(&self.overhead);
        words.for_each(|word| word.store(0, Ordering::Relaxed));
        self.clear_lanes();
    }

    /// No lane does anything.
    fn clear_lanes(&self) {
        self.turns.iter().for_each(Turns::clear);
        self.held.store(0, Ordering::Relaxed);
    }

    /// Lanes wait: for the VM to be back, or for a turn.
    pub fn wants(&self) -> bool {
        let turn = |turns: &Turns| turns.waiting.load(Ordering::SeqCst) > 0;
        self.held.load(Ordering::SeqCst) > 0 || self.turns.iter().any(turn)
    }
}

#[repr(C)]
struct Page {
    presence: Presence,
    devices: [Device; ROOM],
    slots: [Slot; MAX_SLOTS as usize],
}

/// Why there is no ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("making a VM's ledger")]
    Make(#[source] rustix::io::Errno),
    #[error("mapping a VM's ledger")]
    Map(#[source] rustix::io::Errno),
    #[error("a VM's ledger is not sealed, or has another size")]
    Foreign,
}

/// A mapping of a ledger.
#[derive(Debug)]
pub struct Ledger {
    page: NonNull<Page>,
}

// SAFETY: what is in the page is atomic, and the page stays mapped as long as this lives.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

impl Ledger {
    /// A new one, without limits, and its file for workers.
    pub fn new() -> Result<(Self, OwnedFd), LedgerError> {
        let make = || {
            let file = memfd_create("vgpu-ledger", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&file, size_of::<Page>() as u64)?;
            // SECURITY: a worker that could truncate it would make the broker's reading a fault.
            fcntl_add_seals(&file, seals())?;
            Ok(file)
        };
        let file = make().map_err(LedgerError::Make)?;
        let ledger = Self::map(&file)?;
        ledger.page().devices.iter().for_each(|device| device.limit.store(u64::MAX, Ordering::Relaxed));
        Ok((ledger, file))
    }

    /// One that the other side has made.
    pub fn open(file: &OwnedFd) -> Result<Self, LedgerError> {
        let size = rustix::fs::fstat(file).map_err(LedgerError::Map)?.st_size;
        let sealed = fcntl_get_seals(file).is_ok_and(|s| s.contains(seals()));
        if !sealed || size != i64::try_from(size_of::<Page>()).unwrap_or(i64::MAX) {
            return Err(LedgerError::Foreign);
        }
        Self::map(file)
    }

    fn map(file: &OwnedFd) -> Result<Self, LedgerError> {
        let (len, prot) = (size_of::<Page>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) };
        let page = NonNull::new(page.map_err(LedgerError::Map)?.cast());
        Ok(Ledger { page: page.ok_or(LedgerError::Foreign)? })
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped with this size until drop, sealed against shrinking, zeros are valid, and all of it is atomic.
        unsafe { self.page.as_ref() }
    }

    /// Whether the VM's calls reach the driver.
    pub fn presence(&self) -> &AtomicU32 {
        &self.page().presence.word
    }

    /// How many clients are about to give their memory back.
    pub fn leaving(&self) -> &AtomicU32 {
        &self.page().presence.leaving
    }

    /// By the host's ordinal.
    pub fn device(&self, ordinal: u32) -> Option<&Device> {
        self.page().devices.get(ordinal as usize)
    }

    pub fn slot(&self, slot: u32) -> Option<&Slot> {
        self.page().slots.get(slot as usize)
    }

    /// For a new client: nothing counted, nothing used.
    pub fn open_slot(&self, slot: u32) {
        if let Some(slot) = self.slot(slot) {
            slot.clear();
        }
    }

    /// After a client's worker has ended: gives back what it used.
    pub fn close_slot(&self, slot: u32) {
        let Some(slot) = self.slot(slot) else { return };
        slot.clear_lanes();
        for (device, (used, overhead)) in self.page().devices.iter().zip(slot.used.iter().zip(&slot.overhead))
        {
            // SECURITY: the numbers are the worker's: they must not wrap.
            let left = used.swap(0, Ordering::Relaxed).saturating_add(overhead.swap(0, Ordering::Relaxed));
            device.give_back(left);
        }
    }

    /// Nobody has a slot: whatever is still counted was lost by workers that were killed while they counted.
    pub fn forget_use(&self) {
        self.page().devices.iter().for_each(|device| device.used.store(0, Ordering::Relaxed));
    }

    /// What the driver says that a client uses of a device beyond what its worker has counted.
    pub fn set_overhead(&self, slot: u32, ordinal: u32, bytes: u64) {
        let (Some(slot), Some(device)) = (self.slot(slot), self.device(ordinal)) else { return };
        let Some(word) = slot.overhead.get(ordinal as usize) else { return };
        let before = word.swap(bytes, Ordering::Relaxed);
        if bytes > before {
            device.used.fetch_add(bytes - before, Ordering::AcqRel);
        } else {
            device.give_back(before - bytes);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and nobody has a reference any more.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_ledger_and_an_ended_client_leaves_nothing() {
        let (ours, file) = Ledger::new().unwrap();
        let theirs = Ledger::open(&file).unwrap();
        let slot = theirs.slot(3).unwrap();
        slot.add(Counter::Launches, 7);
        slot.used[0].store(100, Ordering::Relaxed);
        theirs.device(0).unwrap().used.store(150, Ordering::Relaxed);
        assert_eq!(ours.slot(3).unwrap().get(Counter::Launches), 7);
        ours.close_slot(3);
        assert_eq!(theirs.device(0).unwrap().used.load(Ordering::Relaxed), 50);
        // A number that is too large takes nothing from others.
        slot.used[0].store(u64::MAX, Ordering::Relaxed);
        ours.close_slot(3);
        assert_eq!(theirs.device(0).unwrap().used.load(Ordering::Relaxed), 0);
        ours.open_slot(3);
        assert_eq!(slot.get(Counter::Launches), 0);
        assert!(ours.slot(MAX_SLOTS).is_none());
    }

    #[test]
    fn a_file_that_could_be_cut_short_is_no_ledger() {
        let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, size_of::<Page>() as u64).unwrap();
        assert!(matches!(Ledger::open(&file), Err(LedgerError::Foreign)));
    }
}
