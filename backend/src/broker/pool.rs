//! The warm pool: workers started ahead, so that a guest's first CUDA call finds a context already made.

use std::collections::VecDeque;
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
use super::worker_link::Worker;
use crate::config::Config;
use crate::log::chain;

/// Workers being started at once; more only get in each other's way.
const MAX_STARTING: usize = 2;
/// Pause after a failed start; doubled up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(30);
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

/// Keeps `config.warm` workers ready, for all VMs together.
pub struct Pool {
    config: Config,
    monitor: Monitor,
    registry: Registry,
    suspender: Suspender,
    state: Mutex<State>,
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

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Worker>>,
    starting: usize,
    /// Callers of `take` that wait.
    waiting: usize,
    /// Counts starts that succeeded.
    starts: u64,
    /// Counts failed starts.
    failures: u64,
    last_error: String,
    pause: Duration,
    not_before: Option<Instant>,
    snapshot: Option<Arc<Snapshot>>,
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
        if self.config.warm == 0 {
            self.take(timeout, &never)?.kill();
        } else {
            // The pool starts them anyway: none is asked for in addition.
            self.wait_for(lock(&self.state), timeout, &never, |state| state.snapshot.as_ref().map(|_| ()))?;
        }
        self.snapshot().ok_or_else(|| PoolError::Start("no snapshot".into()))
    }

    /// What the host's devices are, as the latest worker saw them.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        lock(&self.state).snapshot.clone()
    }

    /// How it goes with starting workers.
    pub fn figures(&self) -> Figures {
        let state = lock(&self.state);
        let warm = state.ready.iter().filter(|worker| worker.is_alive()).count();
        Figures { warm, starting: state.starting, starts: state.starts, failures: state.failures }
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

    /// A worker that belongs to the caller from now on. Waits for one to start if none is warm.
    pub fn take(&self, timeout: Duration, cancelled: &AtomicBool) -> Result<Arc<Worker>, PoolError> {
        let mut state = lock(&self.state);
        // One who waits does not wait for the pause after failures.
        state.not_before = None;
        state.waiting += 1;
        self.changed.notify_all();
        // Counted off with the taking: else one more is started in between.
        let taken = |state: &mut State| {
            let worker = take_alive(state)?;
            state.waiting -= 1;
            Some(worker)
        };
        let result = self.wait_for(state, timeout, cancelled, taken);
        if result.is_err() {
            lock(&self.state).waiting -= 1;
        }
        self.changed.notify_all();
        result
    }

    /// Waits until `ready` gives something, a start fails, or there is no point in waiting.
    fn wait_for<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        timeout: Duration,
        cancelled: &AtomicBool,
        ready: impl Fn(&mut State) -> Option<T>,
    ) -> Result<T, PoolError> {
        let deadline = Instant::now() + timeout;
        let failures = state.failures;
        loop {
            if let Some(value) = ready(&mut state) {
                return Ok(value);
            }
            if state.failures > failures {
                return Err(PoolError::Start(state.last_error.clone()));
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

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        match self.changed.wait_timeout(state, time) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    fn run(self: &Arc<Self>) {
        loop {
            let mut state = lock(&self.state);
            state.ready.retain(|worker| worker.is_alive());
            let wanted = self.config.warm + state.waiting;
            let paused = state.not_before.is_some_and(|t| Instant::now() < t);
            let short = state.ready.len() + state.starting < wanted;
            if !short || paused || state.starting >= MAX_STARTING {
                // Bounded: a warm worker that dies is noticed without a signal.
                drop(self.wait(state, Duration::from_millis(500)));
                continue;
            }
            state.starting += 1;
            drop(state);
            match process::spawn(&self.config) {
                Ok(spawned) => self.watch(spawned),
                Err(error) => self.failed(chain(&error)),
            }
        }
    }

    /// A thread waits for the worker to be ready, puts it into the pool and watches it from then on.
    fn watch(self: &Arc<Self>, spawned: Spawned) {
        let pool = Arc::clone(self);
        let body = move || match Worker::start(spawned) {
            Ok((worker, child, snapshot)) => {
                let worker = Arc::new(worker);
                pool.ready(Arc::clone(&worker), snapshot);
                worker.watch(child);
                pool.changed.notify_all();
            }
            Err(error) => pool.failed(chain(&error)),
        };
        let thread = thread::Builder::new().name("worker-watch".into()).stack_size(WATCH_STACK);
        if let Err(error) = thread.spawn(body) {
            // The spawned worker sees its link close and exits.
            self.failed(format!("starting a thread: {error}"));
        }
    }

    fn ready(&self, worker: Arc<Worker>, snapshot: Snapshot) {
        tracing::debug!(pid = worker.pid, "worker ready");
        let mut state = lock(&self.state);
        state.starting -= 1;
        state.starts += 1;
        state.pause = Duration::ZERO;
        state.not_before = None;
        state.snapshot = Some(Arc::new(snapshot));
        state.ready.push_back(worker);
        drop(state);
        self.changed.notify_all();
    }

    fn failed(&self, error: String) {
        let mut state = lock(&self.state);
        state.starting -= 1;
        state.failures += 1;
        state.pause = (state.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        state.not_before = Some(Instant::now() + state.pause);
        // The first failure is main's to report, in one clear line.
        if state.snapshot.is_some() {
            tracing::error!(pause = ?state.pause, "starting a worker: {error}");
        }
        state.last_error = error;
        drop(state);
        self.changed.notify_all();
    }
}

fn take_alive(state: &mut State) -> Option<Arc<Worker>> {
    while let Some(worker) = state.ready.pop_front() {
        if worker.is_alive() {
            return Some(worker);
        }
    }
    None
}
