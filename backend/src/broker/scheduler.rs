//! The thread that gives VMs their turns: looks at ledgers when a VM's bell rings or a turn is over, and opens and closes gates.
//!
//! SECURITY: what stands in a ledger decides about that VM only, and no wait is for a worker. A VM that rings without end wakes this thread
//! no more often than [`BREATH`] allows.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::thread::futex;

use super::accounts::Accounts;
use super::handovers::{Handovers, Noted};
use super::pool::Pool;
use super::turns::{Key, Turns, View};
use crate::ledger::{Counter, DEVICES, Device, Turns as Slot, gate, monotonic};

/// Steps on one device before others are looked at: a gate that was closed shows at once whether work is under way.
const STEPS: usize = 4;
/// Nanoseconds.
const SOON: u64 = 20_000;
/// The most wake-ups in [`SPAN`]; with more, each waits for [`BREATH`].
const MOST: u32 = 1000;
const SPAN: Duration = Duration::from_millis(50);
const BREATH: Duration = Duration::from_micros(200);
/// The registry's own bell.
const REGISTRY: u64 = 0;

/// A VM that there is, and the slots of its clients.
type Present = (Key, Arc<Accounts>, Vec<u32>);

/// A VM that was seen.
struct Vm {
    accounts: Weak<Accounts>,
    /// A duplicate, to take it out of the epoll when the VM is gone: workers may have it still.
    bell: OwnedFd,
}

/// The thread's state.
pub struct Scheduler {
    pool: Arc<Pool>,
    epoll: OwnedFd,
    vms: HashMap<Key, Vm>,
    next_key: Key,
    /// By the host's ordinals.
    turns: Vec<Turns>,
    handovers: Vec<Handovers>,
    start: Instant,
    woken: (Instant, u32),
}

impl Scheduler {
    /// Starts the thread, with turns of this length.
    pub fn start(pool: Arc<Pool>, turn: Duration) -> std::io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        add(&epoll, pool.registry().bell(), REGISTRY)?;
        let turn = u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX);
        let now = Instant::now();
        let mut scheduler = Scheduler {
            pool,
            epoll,
            vms: HashMap::new(),
            next_key: 1,
            turns: (0..DEVICES).map(|_| Turns::new(turn)).collect(),
            handovers: (0..DEVICES).map(|_| Handovers::default()).collect(),
            start: now,
            woken: (now, 0),
        };
        std::thread::Builder::new().name("scheduler".into()).spawn(move || {
            // Without turns VMs go on; with gates that nobody opens they would not.
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                loop {
                    let next = scheduler.look();
                    scheduler.wait(next);
                }
            }));
            if looked.is_err() {
                tracing::error!("the scheduler panicked, which is a defect: VMs take no turns any more");
                loop {
                    scheduler.open_all();
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        })?;
        Ok(())
    }

    fn open_all(&self) {
        for accounts in self.pool.registry().all() {
            let devices = (0..DEVICES).filter_map(|ordinal| accounts.ledger().device(ordinal));
            devices.for_each(|device| set_gate(device, gate::OPEN));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Sleeps until a bell or the time `next`.
    fn wait(&mut self, next: Option<u64>) {
        if self.woken.0.elapsed() >= SPAN {
            self.woken = (Instant::now(), 0);
        }
        self.woken.1 += 1;
        if self.woken.1 > MOST {
            std::thread::sleep(BREATH);
        }
        let timeout = next.map(|at| {
            let left = at.saturating_sub(self.now());
            Timespec {
                tv_sec: (left / 1_000_000_000).cast_signed(),
                tv_nsec: (left % 1_000_000_000).cast_signed(),
            }
        });
        // Edge-triggered, and never read: reading could wait for ever, since a worker may change how the eventfd is read.
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 16];
        if let Err(error) = epoll::wait(&self.epoll, &mut events, timeout.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!("waiting for bells: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Looks at all devices; when to look again.
    fn look(&mut self) -> Option<u64> {
        let present = self.meet();
        let count = self.pool.snapshot().map_or(0, |s| s.devices.len());
        (0..DEVICES).zip(0..count).filter_map(|(ordinal, _)| self.turn(ordinal, &present)).min()
    }

    /// The VMs that there are, and the slots of their clients.
    fn meet(&mut self) -> Vec<Present> {
        let epoll = &self.epoll;
        self.vms.retain(|_, vm| {
            let lives = vm.accounts.strong_count() > 0;
            if !lives {
                let _ = epoll::delete(epoll, &vm.bell);
            }
            lives
        });
        for accounts in self.pool.registry().all() {
            let weak = Arc::downgrade(&accounts);
            if self.vms.values().any(|vm| vm.accounts.ptr_eq(&weak)) {
                continue;
            }
            let Ok(bell) = accounts.bell().try_clone_to_owned() else { continue };
            if add(&self.epoll, &bell, self.next_key).is_err() {
                continue;
            }
            for device in (0..DEVICES).filter_map(|ordinal| accounts.ledger().device(ordinal)) {
                set_gate(device, gate::CLOSED);
            }
            self.vms.insert(self.next_key, Vm { accounts: weak, bell });
            self.next_key += 1;
        }
        let live = self.vms.iter().filter_map(|(&key, vm)| Some((key, vm.accounts.upgrade()?)));
        live.map(|(key, accounts)| (key, Arc::clone(&accounts), accounts.slots())).collect()
    }

    fn turn(&mut self, ordinal: u32, present: &[Present]) -> Option<u64> {
        let mut next = None;
        for _ in 0..STEPS {
            let now = self.now();
            let turns = self.turns.get_mut(ordinal as usize)?;
            let with_clients = present.iter().filter(|(.., slots)| !slots.is_empty());
            let views: Vec<_> = with_clients
                .map(|(key, accounts, slots)| (*key, view(accounts, slots, ordinal, turns.word(*key))))
                .collect();
            let step = turns.step(now, &views);
            next = step.next;
            let vm = |key: Key| present.iter().find(|(known, ..)| *known == key);
            for (key, nanoseconds) in step.had {
                if let Some((_, accounts, slots)) = vm(key) {
                    count(accounts, slots, ordinal, nanoseconds);
                }
            }
            for &(key, word) in &step.gates {
                tracing::trace!(device = ordinal, vm = key, turn = word >> 2, gate = word & 3);
                if let Some(device) = vm(key).and_then(|(_, accounts, _)| accounts.ledger().device(ordinal)) {
                    set_gate(device, word);
                }
            }
            if Handovers::are_told() {
                self.note(ordinal, &views, &step.gates, present);
            }
            if step.gates.is_empty() {
                break;
            }
            // If this was the last step: soon again.
            next = Some(next.map_or(now + SOON, |at| at.min(now + SOON)));
        }
        // A VM without clients finds its gate closed when it comes back.
        for (key, accounts, _) in present.iter().filter(|(.., slots)| slots.is_empty()) {
            let turns = self.turns.get(ordinal as usize)?;
            if let Some(device) = accounts.ledger().device(ordinal) {
                set_gate(device, turns.word(*key));
            }
        }
        next
    }
}

impl Scheduler {
    /// For the summary of what handovers take.
    fn note(&mut self, ordinal: u32, views: &[(Key, View)], gates: &[(Key, u32)], present: &[Present]) {
        let Some(handovers) = self.handovers.get_mut(ordinal as usize) else { return };
        let noted = |key: Key| {
            let vm = present.iter().find(|(known, ..)| *known == key);
            vm.map_or(Noted::default(), |(_, accounts, slots)| noted(accounts, slots, ordinal))
        };
        for (key, _) in views.iter().filter(|(_, view)| view.drained) {
            handovers.done(*key, noted(*key).said);
        }
        let now = monotonic();
        // Who ends before who begins.
        for begins in [false, true] {
            for &(key, word) in gates.iter().filter(|(_, word)| (word & 3 == gate::TURN) == begins) {
                handovers.gate(key, word, now, noted);
            }
        }
        handovers.tell(ordinal, now);
    }
}

/// What a VM's workers noted last.
fn noted(accounts: &Accounts, slots: &[u32], ordinal: u32) -> Noted {
    let of = |&slot: &u32| accounts.ledger().slot(slot)?.turns.get(ordinal as usize);
    let latest = |time: fn(&Slot) -> &AtomicU64| {
        slots.iter().filter_map(of).map(|slot| time(slot).load(Ordering::Relaxed)).max().unwrap_or(0)
    };
    Noted { begun: latest(|slot| &slot.begun), said: latest(|slot| &slot.said) }
}

fn add(epoll: &OwnedFd, bell: impl std::os::fd::AsFd, key: u64) -> rustix::io::Result<()> {
    epoll::add(epoll, bell, epoll::EventData::new_u64(key), epoll::EventFlags::IN | epoll::EventFlags::ET)
}

/// Writes a gate's word if it is another, and wakes who sleeps on it.
fn set_gate(device: &Device, word: u32) {
    if device.gate().load(Ordering::Relaxed) != word {
        device.gate().store(word, Ordering::SeqCst);
        let _ = futex::wake(device.gate(), futex::Flags::empty(), i32::MAX.cast_unsigned());
    }
}

/// What a VM's ledger says of a device, if its gate is `word`.
fn view(accounts: &Accounts, slots: &[u32], ordinal: u32, word: u32) -> View {
    let limits = accounts.limits();
    let mut view = View {
        weight: limits.weight,
        cap: limits.cap,
        wants: false,
        calls: false,
        drained: true,
        near: true,
        worked: false,
    };
    if accounts.presence().is_away() {
        // Its lanes wait for that to end first, and nothing of it is on the device.
        return view;
    }
    let of = |&slot: &u32| accounts.ledger().slot(slot)?.turns.get(ordinal as usize);
    for slot in slots.iter().filter_map(of) {
        view.wants |= slot.waiting.load(Ordering::SeqCst) > 0;
        view.calls |= slot.inside.load(Ordering::SeqCst) > 0;
        let done = is_done(slot);
        view.drained &= done;
        view.near &= done || slot.near.load(Ordering::SeqCst) == slot.active.load(Ordering::SeqCst);
        view.worked |= slot.active.load(Ordering::Relaxed) == word;
    }
    view
}

fn is_done(slot: &Slot) -> bool {
    // In this order: a lane says what it does before it leaves.
    let inside = slot.inside.load(Ordering::SeqCst);
    let active = slot.active.load(Ordering::SeqCst);
    inside == 0 && (active == 0 || slot.done.load(Ordering::SeqCst) == active)
}

/// Enters the time that a VM had a device, with it and with those of its clients that used the turn.
fn count(accounts: &Accounts, slots: &[u32], ordinal: u32, nanoseconds: u64) {
    let Some(device) = accounts.ledger().device(ordinal) else { return };
    device.time.fetch_add(nanoseconds, Ordering::Relaxed);
    let turn = device.gate().load(Ordering::Relaxed) >> 2;
    for slot in slots.iter().filter_map(|&slot| accounts.ledger().slot(slot)) {
        let active = slot.turns.get(ordinal as usize).map_or(0, |t| t.active.load(Ordering::Relaxed));
        if active != 0 && active >> 2 == turn {
            slot.add(Counter::DeviceTime, nanoseconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_done_when_no_lane_issues_and_its_last_turn_is_marked_done() {
        let accounts = Accounts::new().unwrap();
        let slot = &accounts.ledger().slot(0).unwrap().turns[0];
        assert!(is_done(slot), "it never did anything");
        slot.active.store(5, Ordering::Relaxed);
        assert!(!is_done(slot));
        slot.done.store(5, Ordering::Relaxed);
        assert!(is_done(slot));
        slot.inside.store(1, Ordering::Relaxed);
        assert!(!is_done(slot));
        let seen = view(&accounts, &[0], 0, 5);
        assert!(seen.worked && seen.calls && !seen.drained && !seen.near && !seen.wants);
        // As after the end of its worker.
        slot.near.store(5, Ordering::Relaxed);
        let seen = view(&accounts, &[0], 0, 5);
        assert!(seen.near && seen.calls && !seen.drained);
        accounts.ledger().close_slot(0);
        assert!(view(&accounts, &[0], 0, 5).drained);
    }

    #[test]
    fn time_goes_to_the_clients_that_used_the_turn() {
        let accounts = Accounts::new().unwrap();
        set_gate(accounts.ledger().device(1).unwrap(), 7 << 2 | gate::TURN);
        accounts.ledger().slot(2).unwrap().turns[1].active.store(7 << 2 | gate::TURN, Ordering::Relaxed);
        count(&accounts, &[1, 2], 1, 50);
        assert_eq!(accounts.ledger().device(1).unwrap().time.load(Ordering::Relaxed), 50);
        let times = [1, 2].map(|slot| accounts.ledger().slot(slot).unwrap().get(Counter::DeviceTime));
        assert_eq!(times, [0, 50]);
    }
}
