//! The warm pool: workers started ahead, so that a guest's first CUDA call finds a context already made. One that was given to a client is
//! replaced a moment later, when the client's program has started.
//!
//! A worker sees the devices of one set, from its start on: VMs that have the same devices share theirs.

mod shelves;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use vgpu_spec::wire::snapshot::Snapshot;

use super::accounts::Registry;
use super::lock;
use super::monitor::Monitor;
use super::process::{self, Spawned};
use super::suspend::Suspender;
use super::worker_link::{StartError, Worker};
use crate::config::Config;
use crate::devices::DeviceSet;
use crate::log::chain;
use shelves::{Shelf, Shelves};

/// Workers being started at once; more only get in each other's way.
const MAX_STARTING: usize = 2;
/// Pause after a failed start; doubled up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// After which the pool looks again: a warm worker that dies is noticed without a signal, and so is a set of devices that no VM has any more.
const IDLE: Duration = Duration::from_millis(500);
/// Stack of a thread that watches a worker.
const WATCH_STACK: usize = 512 << 10;

/// No worker.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("starting a worker: {0}")]
    Start(String),
    #[error("starting a worker: none was ready within {0:?}")]
    Timeout(Duration),
    #[error("starting a worker: the VM is gone")]
    Cancelled,
}

/// Keeps `config.warm` workers ready for each set of devices that a VM has, for all such VMs together.
pub struct Pool {
    config: Config,
    monitor: Monitor,
    registry: Registry,
    suspender: Suspender,
    state: Mutex<Shelves>,
    changed: Condvar,
}

/// What the pool has done, and does.
pub struct Figures {
    /// Workers that wait for a client.
    pub warm: usize,
    pub starting: usize,
    /// Starts so far, that succeeded and that did not.
    pub starts: u64,
    pub failures: u64,
}

impl Pool {
    /// A pool; its thread starts workers from now on, and lives as long as the process.
    pub fn start(config: Config) -> std::io::Result<Arc<Pool>> {
        let monitor = Monitor::start(config.clone())?;
        let suspender = Suspender::new(&config)?;
        let pool = Arc::new(Pool {
            config,
            suspender,
            monitor,
            registry: Registry::new()?,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let runner = Arc::clone(&pool);
        // Workers die with the thread that forked them (PR_SET_PDEATHSIG), so all are forked on this one.
        thread::Builder::new().name("pool".into()).spawn(move || runner.run())?;
        Ok(pool)
    }

    /// Waits for the first worker, keeps it if any are to be kept warm, and returns what devices it saw.
    pub fn first(&self, timeout: Duration) -> Result<Arc<Snapshot>, PoolError> {
        let never = AtomicBool::new(false);
        let all = self.devices(DeviceSet::default());
        if self.config.warm == 0 {
            self.take(&all, timeout, &never)?.kill();
        } else {
            // The pool starts them anyway: none is asked for in addition.
            let seen = |shelf: &mut Shelf| shelf.snapshot.as_ref().map(|_| ());
            self.wait_for(lock(&self.state), &all, timeout, &never, seen)?;
        }
        self.snapshot().ok_or_else(|| PoolError::Start("no snapshot".into()))
    }

    /// What the host's devices are, as the latest worker saw them that sees all.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        lock(&self.state).host.clone()
    }

    /// What a worker of these devices sees.
    pub fn snapshot_of(&self, devices: &DeviceSet) -> Option<Arc<Snapshot>> {
        let state = lock(&self.state);
        let shelf = state.shelves.iter().find(|shelf| *shelf.devices == *devices);
        let seen = shelf.and_then(|shelf| shelf.snapshot.clone());
        // Before the first has started.
        seen.or_else(|| Some(Arc::new(devices.of(state.host.as_deref()?))))
    }

    /// Has workers kept ready for VMs with these devices, as long as the caller or another has what is returned.
    pub fn devices(&self, devices: DeviceSet) -> Arc<DeviceSet> {
        let devices = Arc::clone(&lock(&self.state).shelf(&Arc::new(devices)).devices);
        self.changed.notify_all();
        devices
    }

    /// How it goes with starting workers.
    pub fn figures(&self) -> Figures {
        let state = lock(&self.state);
        let ready = state.shelves.iter().flat_map(|shelf| &shelf.ready);
        let warm = ready.filter(|worker| worker.is_alive()).count();
        Figures { warm, starting: state.starting(), starts: state.starts, failures: state.failures }
    }

    /// What the host's devices do at the moment.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The VMs that are served.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Moves VMs off devices and back.
    pub fn suspender(&self) -> &Suspender {
        &self.suspender
    }

    /// A worker of these devices, which belongs to the caller from now on. Waits for one to start if none is warm.
    pub fn take(
        &self,
        devices: &Arc<DeviceSet>,
        timeout: Duration,
        cancelled: &AtomicBool,
    ) -> Result<Arc<Worker>, PoolError> {
        let mut state = lock(&self.state);
        let shelf = state.shelf(devices);
        // One who waits does not wait for the pause after failures.
        shelf.not_before = None;
        shelf.waiting += 1;
        self.changed.notify_all();
        // Counted off with the taking: else one more is started in between.
        let taken = |shelf: &mut Shelf| {
            let worker = shelf.take_alive()?;
            shelf.waiting -= 1;
            shelf.gives(Instant::now());
            Some(worker)
        };
        let result = self.wait_for(state, devices, timeout, cancelled, taken);
        if result.is_err() {
            lock(&self.state).shelf(devices).waiting -= 1;
        }
        self.changed.notify_all();
        result
    }

    /// Waits until `ready` gives something, a start fails for a reason, or there is no point in waiting.
    fn wait_for<T>(
        &self,
        mut state: MutexGuard<'_, Shelves>,
        devices: &Arc<DeviceSet>,
        timeout: Duration,
        cancelled: &AtomicBool,
        ready: impl Fn(&mut Shelf) -> Option<T>,
    ) -> Result<T, PoolError> {
        let deadline = Instant::now() + timeout;
        let failures = state.shelf(devices).failures;
        loop {
            let shelf = state.shelf(devices);
            if let Some(value) = ready(shelf) {
                return Ok(value);
            }
            if let Some(error) = shelf.reason_to_give_up(failures) {
                return Err(PoolError::Start(error.into()));
            }
            if cancelled.load(Ordering::Acquire) {
                return Err(PoolError::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PoolError::Timeout(timeout));
            }
            state = self.wait(state, left.min(Duration::from_millis(100)));
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, Shelves>, time: Duration) -> MutexGuard<'a, Shelves> {
        match self.changed.wait_timeout(state, time) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    fn run(self: &Arc<Self>) {
        loop {
            let mut state = lock(&self.state);
            let idle = state.tidy(self.config.warm);
            let now = Instant::now();
            let next = state.next(self.config.warm, now).filter(|_| state.starting() < MAX_STARTING);
            let Some(devices) = next else {
                if idle.is_empty() {
                    let refill = state.until_refill(now).unwrap_or(IDLE);
                    drop(self.wait(state, refill.min(IDLE)));
                } else {
                    drop(state);
                    idle.iter().for_each(|worker| worker.ask_to_exit());
                }
                continue;
            };
            state.shelf(&devices).starting += 1;
            let host = state.host.clone();
            drop(state);
            idle.iter().for_each(|worker| worker.ask_to_exit());
            let visible = host.as_deref().and_then(|host| devices.visible(host));
            match process::spawn(&self.config, visible.as_deref()) {
                Ok(spawned) => self.watch(devices, spawned),
                Err(error) => self.failed(&devices, chain(&error), false),
            }
        }
    }

    /// A thread waits for the worker to be ready, puts it into the pool and watches it from then on.
    fn watch(self: &Arc<Self>, devices: Arc<DeviceSet>, spawned: Spawned) {
        let (pool, of) = (Arc::clone(self), Arc::clone(&devices));
        let body = move || match Worker::start(spawned) {
            Ok((worker, child, snapshot)) => {
                let worker = Arc::new(worker);
                pool.started(&of, &worker, snapshot);
                // It would seem that a VM has the devices.
                drop(of);
                worker.watch(child);
                pool.changed.notify_all();
            }
            Err(error) => pool.failed(&of, chain(&error), matches!(error, StartError::Ended(_))),
        };
        let thread = thread::Builder::new().name("worker-watch".into()).stack_size(WATCH_STACK);
        if let Err(error) = thread.spawn(body) {
            // The spawned worker sees its link close and exits.
            self.failed(&devices, format!("starting a thread: {error}"), false);
        }
    }

    /// A worker says that it is ready: it is, if it sees what it is to see.
    fn started(&self, devices: &Arc<DeviceSet>, worker: &Arc<Worker>, snapshot: Snapshot) {
        let host = self.snapshot();
        let right = |host: &Arc<Snapshot>| devices.are_those_of(&snapshot, host);
        if !devices.is_all() && !host.as_ref().is_some_and(right) {
            worker.kill();
            let count = snapshot.devices.len();
            let why =
                format!("devices {devices}: the driver shows a worker {count} devices, which are not these");
            return self.failed(devices, why, false);
        }
        self.ready(devices, Arc::clone(worker), Arc::new(snapshot));
    }

    fn ready(&self, devices: &Arc<DeviceSet>, worker: Arc<Worker>, snapshot: Arc<Snapshot>) {
        tracing::debug!(pid = worker.pid, %devices, "worker ready");
        let mut state = lock(&self.state);
        state.starts += 1;
        if devices.is_all() {
            state.host = Some(Arc::clone(&snapshot));
        }
        let shelf = state.shelf(devices);
        shelf.starting -= 1;
        shelf.pause = Duration::ZERO;
        shelf.not_before = None;
        shelf.snapshot = Some(snapshot);
        shelf.ready.push_back(worker);
        drop(state);
        self.changed.notify_all();
    }

    /// A start failed; an `accident` is one that ended without a word.
    fn failed(&self, devices: &Arc<DeviceSet>, error: String, accident: bool) {
        let mut state = lock(&self.state);
        state.failures += 1;
        let known = state.host.is_some();
        let shelf = state.shelf(devices);
        shelf.starting -= 1;
        shelf.failures.said += u64::from(!accident);
        shelf.failures.accidents += u64::from(accident);
        shelf.pause = (shelf.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        shelf.not_before = Some(Instant::now() + shelf.pause);
        // The first failure is main's to report, in one clear line.
        if known {
            tracing::error!(pause = ?shelf.pause, %devices, "starting a worker: {error}");
        }
        shelf.last_error = error;
        drop(state);
        self.changed.notify_all();
    }
}
