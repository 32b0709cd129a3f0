//! Whether a VM is on its devices, or moved to the host's memory: what the broker knows, and what lanes see of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::thread::futex;

use super::accounts::Accounts;
use super::lock;
use super::worker_link::Worker;
use crate::ledger::presence;

/// How often who waits looks whether there is still a point in it.
const LOOK: Duration = Duration::from_millis(5);

/// Where a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    #[default]
    Here,
    Leaving,
    /// In the host's memory. With `hold` only a command brings it back.
    Away {
        hold: bool,
    },
    Returning,
}

/// What is known of it.
#[derive(Default)]
pub struct State {
    pub place: Place,
    /// Since when it is there.
    pub since: Option<Instant>,
    /// Requests to its workers that are under way and need the driver.
    users: u32,
    /// Such that wait for it to be back.
    waiting: u32,
    /// Its workers that were moved, and must be moved back.
    pub saved: Vec<Arc<Worker>>,
    /// What they need of devices to be back, by ordinal; empty if nobody tells.
    pub needs: Vec<u64>,
    /// Times that it was moved off.
    pub times: u64,
    /// Why it could not be moved the last time that this was tried.
    pub failure: Option<String>,
}

#[derive(Default)]
pub struct Presence {
    state: Mutex<State>,
    changed: Condvar,
    /// `State::place` is not `Here`, for a quick look.
    away: AtomicBool,
}

impl Presence {
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn place(&self) -> Place {
        lock(&self.state).place
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Whether somebody of the broker's waits for it.
    pub fn is_awaited(&self) -> bool {
        lock(&self.state).waiting > 0
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        match self.changed.wait_timeout(state, LOOK) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

/// A request to a worker that needs the driver: the VM stays as long as this lives.
pub struct Use<'a>(&'a Presence);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).users -= 1;
        self.0.changed.notify_all();
    }
}

impl Accounts {
    /// Waits until the VM is on its devices, and keeps it there. `None` if there is no point in it any more.
    pub fn use_devices(&self, pointless: impl Fn() -> bool) -> Option<Use<'_>> {
        let presence = self.presence();
        let mut state = presence.state();
        if state.place != Place::Here {
            state.waiting += 1;
            while state.place != Place::Here && !pointless() {
                self.ring();
                state = presence.wait(state);
            }
            state.waiting -= 1;
        }
        if state.place != Place::Here {
            return None;
        }
        state.users += 1;
        Some(Use(presence))
    }

    /// Changes where the VM is. Lanes that wait go on if it is here again.
    pub fn put(&self, place: Place) {
        let presence = self.presence();
        let mut state = presence.state();
        if matches!(place, Place::Away { .. }) && matches!(state.place, Place::Leaving) {
            state.times += 1;
        }
        if place == Place::Here {
            state.saved.clear();
            state.needs.clear();
        }
        (state.place, state.since) = (place, Some(Instant::now()));
        presence.away.store(place != Place::Here, Ordering::Release);
        let word = if place == Place::Here { presence::HERE } else { presence::AWAY };
        self.ledger().presence().store(word, Ordering::SeqCst);
        drop(state);
        let _ = futex::wake(self.ledger().presence(), futex::Flags::empty(), i32::MAX.cast_unsigned());
        presence.changed.notify_all();
        self.ring();
    }

    /// Has everybody wait from now on. False if what is under way does not end within `timeout`; then nothing has changed.
    pub fn leave(&self, timeout: Duration) -> bool {
        self.put(Place::Leaving);
        let deadline = Instant::now() + timeout;
        let mut state = self.presence().state();
        while state.users > 0 {
            if Instant::now() >= deadline {
                drop(state);
                self.put(Place::Here);
                return false;
            }
            state = self.presence().wait(state);
        }
        true
    }

    /// Whether something of the VM waits for it to be back.
    pub fn wants_back(&self) -> bool {
        let slots = self.slots();
        let mut slots = slots.iter().filter_map(|&slot| self.ledger().slot(slot));
        self.presence().is_awaited() || slots.any(|slot| slot.wants())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_the_devices_keeps_the_vm_there() {
        let accounts = Accounts::new().unwrap();
        let word = || accounts.ledger().presence().load(Ordering::Relaxed);
        let using = accounts.use_devices(|| false).unwrap();
        assert!(!accounts.leave(Duration::from_millis(10)));
        assert_eq!((accounts.presence().place(), word()), (Place::Here, presence::HERE));
        drop(using);
        assert!(accounts.leave(Duration::ZERO));
        assert_eq!(word(), presence::AWAY);
        accounts.put(Place::Away { hold: true });
        assert!(accounts.presence().is_away() && accounts.use_devices(|| true).is_none());
        assert!(!accounts.wants_back());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| accounts.use_devices(|| false).is_some());
            while !accounts.wants_back() {
                std::thread::yield_now();
            }
            accounts.put(Place::Returning);
            accounts.put(Place::Here);
            assert!(waits.join().unwrap());
        });
        let state = accounts.presence().state();
        assert_eq!((state.times, state.users, state.waiting), (1, 0, 0));
    }
}
