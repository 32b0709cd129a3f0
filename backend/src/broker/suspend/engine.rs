//! The thread: carries out orders, brings VMs back that want to go on, and has VMs make room for others.

mod waits;

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::mover::{MoveError, Mover};
use super::policy::Key;
use super::{Done, Order, SuspendError};
use crate::broker::lock;
use crate::broker::presence::Place;
use crate::broker::status::queue_depth;
use crate::broker::tenant::Tenant;
use crate::config::Config;
use crate::ledger::Counter;
use crate::log::chain;

/// Between two looks at what VMs do, and at VMs that wait.
const LOOK: Duration = Duration::from_millis(500);
/// The least time between two looks, whoever rings.
const BREATH: Duration = Duration::from_millis(5);

/// A VM that was seen.
struct Vm {
    tenant: Weak<Tenant>,
    /// In the epoll: it may come back by itself.
    bell: Option<OwnedFd>,
    /// What its clients had done when it was last looked at.
    messages: u64,
    active: u64,
    since: u64,
    failed: Option<u64>,
    /// It is to come back; since when, and who is to be told.
    coming: Option<(u64, Vec<Done>)>,
    /// Its wait for room was logged.
    said: bool,
    /// The driver had no room for it: when that was, and how many had been moved off then.
    full: Option<(u64, u64)>,
}

/// A worker that waits for room.
struct Waiting {
    key: Key,
    /// The host's ordinal.
    device: u32,
    since: u64,
    /// How many VMs had been moved off when it asked.
    moves: u64,
    answer: Box<dyn FnOnce(bool) + Send>,
}

/// The thread's state.
pub struct Engine {
    oversubscribe: bool,
    mover: Mover,
    orders: Receiver<Order>,
    epoll: OwnedFd,
    tenants: Arc<Mutex<Vec<Weak<Tenant>>>>,
    free: Box<dyn Fn() -> Vec<u64> + Send>,
    vms: HashMap<Key, Vm>,
    rooms: Vec<Waiting>,
    /// VMs moved off so far.
    moves: u64,
    start: Instant,
}

fn key(tenant: &Arc<Tenant>) -> Key {
    Arc::as_ptr(tenant) as Key
}

impl Engine {
    pub fn new(
        config: Config,
        orders: Receiver<Order>,
        bell: Arc<OwnedFd>,
        tenants: Arc<Mutex<Vec<Weak<Tenant>>>>,
        free: Box<dyn Fn() -> Vec<u64> + Send>,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &*bell)?;
        Ok(Engine {
            oversubscribe: config.oversubscribe,
            mover: Mover::new(config),
            orders,
            epoll,
            tenants,
            free,
            vms: HashMap::new(),
            rooms: Vec::new(),
            moves: 0,
            start: Instant::now(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Until the broker ends.
    pub fn run(mut self) {
        loop {
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.look()));
            match looked {
                Ok(Some(next)) => self.wait(next),
                Ok(None) => return,
                Err(_) => {
                    tracing::error!("suspending VMs panicked, which is a defect");
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// Sleeps until a bell, or for `most` if that is bounded.
    fn wait(&self, most: Option<Duration>) {
        let timeout = most.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        // Edge-triggered, and never read: as the scheduler does.
        let mut events = [const { MaybeUninit::uninit() }; 16];
        let _ = epoll::wait(&self.epoll, &mut events, timeout.as_ref());
        std::thread::sleep(BREATH);
    }

    /// Does what there is to do; for how long to sleep then. `None` if the broker is gone.
    fn look(&mut self) -> Option<Option<Duration>> {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        self.meet();
        self.watch_activity();
        self.note_wishes();
        self.serve_waits();
        let busy =
            self.oversubscribe || !self.rooms.is_empty() || self.vms.values().any(|vm| vm.coming.is_some());
        Some(busy.then_some(LOOK))
    }

    /// The VMs that there are.
    fn meet(&mut self) {
        let epoll = &self.epoll;
        self.vms.retain(|_, vm| {
            let lives = vm.tenant.strong_count() > 0;
            if !lives && let Some(bell) = &vm.bell {
                // Workers that are ending may have it still.
                let _ = epoll::delete(epoll, bell);
            }
            lives
        });
        let now = self.now();
        for tenant in lock(&self.tenants).iter().filter_map(Weak::upgrade) {
            self.vms.entry(key(&tenant)).or_insert_with(|| Vm {
                tenant: Arc::downgrade(&tenant),
                bell: None,
                messages: 0,
                active: now,
                since: now,
                failed: None,
                coming: None,
                said: false,
                full: None,
            });
        }
    }

    fn obey(&mut self, order: Order) {
        // It may speak of one that has just come.
        self.meet();
        match order {
            Order::Suspend { tenant, hold, done } => {
                let result = self.suspend(&tenant, hold).map_err(SuspendError::from);
                let _ = done.try_send(result);
            }
            Order::Resume { tenant, done } => {
                let now = self.now();
                let here = tenant.accounts.presence().place() == Place::Here;
                match self.vms.get_mut(&key(&tenant)) {
                    Some(vm) if !here => vm.coming.get_or_insert((now, Vec::new())).1.push(done),
                    _ => {
                        let _ = done.try_send(Ok(()));
                    }
                }
            }
            Order::Room { tenant, device, answer } => match tenant.upgrade() {
                Some(tenant) => {
                    let (since, moves) = (self.now(), self.moves);
                    self.rooms.push(Waiting { key: key(&tenant), device, since, moves, answer });
                }
                None => answer(false),
            },
        }
    }

    fn suspend(&mut self, tenant: &Arc<Tenant>, hold: bool) -> Result<(), MoveError> {
        if let Place::Away { .. } = tenant.accounts.presence().place() {
            tenant.accounts.put(Place::Away { hold });
            let coming = self.vms.get_mut(&key(tenant)).and_then(|vm| vm.coming.take());
            for done in coming.map(|(_, told)| told).unwrap_or_default() {
                let _ = done.try_send(Err(SuspendError::Again(tenant.name.clone())));
            }
            self.listen(tenant, !hold);
            return Ok(());
        }
        let start = Instant::now();
        let result = self.mover.leave(tenant, hold, &self.free);
        match &result {
            Ok(()) => {
                self.moves += 1;
                tracing::info!(vm = tenant.name, hold, took = ?start.elapsed(), "suspended");
                self.listen(tenant, !hold);
            }
            Err(error) => {
                tracing::warn!("suspending: {}", chain(error));
                tenant.accounts.presence().state().failure = Some(chain(error));
                let now = self.now();
                if let Some(vm) = self.vms.get_mut(&key(tenant)) {
                    vm.failed = Some(now);
                }
            }
        }
        result
    }

    /// Hears the VM's bell from now on, or no longer.
    fn listen(&mut self, tenant: &Arc<Tenant>, listens: bool) {
        let Some(vm) = self.vms.get_mut(&key(tenant)) else { return };
        if let Some(bell) = vm.bell.take() {
            let _ = epoll::delete(&self.epoll, &bell);
        }
        if listens && let Ok(bell) = tenant.accounts.bell().try_clone_to_owned() {
            if watch(&self.epoll, &bell).is_ok() {
                vm.bell = Some(bell);
            }
            if tenant.accounts.wants_back() || tenant.vm().is_some_and(|vm| queue_depth(&vm) > 0) {
                // It wanted to go on before anybody listened, or waits in the driver, where nobody hears it.
                let now = self.now();
                if let Some(vm) = self.vms.get_mut(&key(tenant)) {
                    vm.coming.get_or_insert((now, Vec::new()));
                }
            }
        }
    }

    /// When VMs last did something.
    fn watch_activity(&mut self) {
        if !self.oversubscribe {
            return;
        }
        let now = self.now();
        for vm in self.vms.values_mut() {
            let Some(tenant) = vm.tenant.upgrade() else { continue };
            let messages = tenant.accounts.totals().get(Counter::Messages as usize).copied().unwrap_or(0);
            if messages != vm.messages || tenant.vm().is_some_and(|vm| queue_depth(&vm) > 0) {
                (vm.messages, vm.active) = (messages, now);
            }
        }
    }

    /// VMs that want to go on.
    fn note_wishes(&mut self) {
        let now = self.now();
        for vm in self.vms.values_mut() {
            let Some(tenant) = vm.tenant.upgrade() else { continue };
            let away = tenant.accounts.presence().place() == Place::Away { hold: false };
            if away && vm.coming.is_none() && tenant.accounts.wants_back() {
                vm.coming = Some((now, Vec::new()));
            }
        }
    }
}

fn watch(epoll: &OwnedFd, bell: impl std::os::fd::AsFd) -> rustix::io::Result<()> {
    epoll::add(epoll, bell, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)
}
