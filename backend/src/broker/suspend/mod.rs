//! Suspending VMs: by command, and where `oversubscribe` is set, when another VM needs the memory.
//!
//! One thread does one thing after the other, since a move takes seconds and two at once would be no faster. It hears the operator's
//! commands, workers to which the driver gave no memory, and the bells of VMs that are away and may come back by themselves.
//!
//! SECURITY: a worker can ask for room at any time. What that costs others is bounded: VMs that never may be moved are not, idle ones are
//! moved once, and those that work have their time between two moves.

mod checkpointer;
mod engine;
mod mover;
mod policy;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use vgpu_spec::wire::snapshot::Snapshot;

use super::lock;
use super::tenant::Tenant;
use crate::config::Config;
use crate::link::message::status;
use engine::Engine;
pub use mover::MoveError;

/// For a command: several large workers are moved one after the other.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
/// Requests for room that may wait at once.
const MAX_ROOMS: usize = 256;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error("vm {0}: it is resumed when there is enough device memory, which may take long")]
    Waits(String),
    #[error("vm {0}: it was suspended again")]
    Again(String),
    #[error("the thread that suspends VMs does not run")]
    NoThread,
}

type Done = SyncSender<Result<(), SuspendError>>;

/// What is asked of the thread.
enum Order {
    Suspend {
        tenant: Arc<Tenant>,
        hold: bool,
        done: Done,
    },
    Resume {
        tenant: Arc<Tenant>,
        done: Done,
    },
    /// Memory of the host's `device`. `answer` is told whether it is worth trying again.
    Room {
        tenant: Weak<Tenant>,
        device: u32,
        answer: Box<dyn FnOnce(bool) + Send>,
    },
}

/// What the rest of the broker has of it.
pub struct Suspender {
    orders: Sender<Order>,
    /// Written when there is an order.
    bell: Arc<OwnedFd>,
    tenants: Arc<Mutex<Vec<Weak<Tenant>>>>,
    rooms: Arc<AtomicUsize>,
    oversubscribe: bool,
    /// Until the thread takes it.
    start: Mutex<Option<Receiver<Order>>>,
}

impl Suspender {
    pub fn new(config: &Config) -> std::io::Result<Self> {
        let (orders, receiver) = channel();
        Ok(Suspender {
            orders,
            bell: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            tenants: Arc::default(),
            rooms: Arc::default(),
            oversubscribe: config.oversubscribe,
            start: Mutex::new(Some(receiver)),
        })
    }

    /// Starts the thread. `free` tells how much memory each device has free, or nothing.
    pub fn run(&self, config: Config, free: impl Fn() -> Vec<u64> + Send + 'static) -> std::io::Result<()> {
        let Some(orders) = lock(&self.start).take() else { return Ok(()) };
        let (bell, tenants) = (Arc::clone(&self.bell), Arc::clone(&self.tenants));
        let engine = Engine::new(config, orders, bell, tenants, Box::new(free))?;
        // The checkpointer dies with the thread that forked it (PR_SET_PDEATHSIG).
        std::thread::Builder::new().name("suspender".into()).spawn(move || engine.run())?;
        Ok(())
    }

    /// A VM is served.
    pub fn add(&self, tenant: &Arc<Tenant>) {
        let mut tenants = lock(&self.tenants);
        tenants.retain(|known| known.strong_count() > 0);
        tenants.push(Arc::downgrade(tenant));
    }

    fn order(&self, order: Order) -> Result<(), SuspendError> {
        self.orders.send(order).map_err(|_| SuspendError::NoThread)?;
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
        Ok(())
    }

    fn command(&self, name: &str, order: impl FnOnce(Done) -> Order) -> Result<(), SuspendError> {
        let (done, wait) = sync_channel(1);
        self.order(order(done))?;
        match wait.recv_timeout(COMMAND_TIMEOUT) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(SuspendError::Waits(name.to_owned())),
            Err(RecvTimeoutError::Disconnected) => Err(SuspendError::NoThread),
        }
    }

    /// Moves a VM to the host's memory. With `hold` only [`Self::resume`] brings it back.
    pub fn suspend(&self, tenant: &Arc<Tenant>, hold: bool) -> Result<(), SuspendError> {
        let tenant = Arc::clone(tenant);
        let name = tenant.name.clone();
        self.command(&name, |done| Order::Suspend { tenant, hold, done })
    }

    /// Moves it back; waits for room.
    pub fn resume(&self, tenant: &Arc<Tenant>) -> Result<(), SuspendError> {
        let tenant = Arc::clone(tenant);
        let name = tenant.name.clone();
        self.command(&name, |done| Order::Resume { tenant, done })
    }

    /// Has others make room for a VM on a device; `answer` is told whether it is worth trying again.
    fn ask_room(&self, tenant: &Arc<Tenant>, device: u32, answer: impl FnOnce(bool) + Send + 'static) {
        let rooms = Arc::clone(&self.rooms);
        // SECURITY: each that waits costs memory here.
        if !self.oversubscribe || self.rooms.fetch_add(1, Ordering::AcqRel) >= MAX_ROOMS {
            if self.oversubscribe {
                self.rooms.fetch_sub(1, Ordering::AcqRel);
            }
            return answer(false);
        }
        let answer = Box::new(move |room| {
            rooms.fetch_sub(1, Ordering::AcqRel);
            answer(room);
        });
        let _ = self.order(Order::Room { tenant: Arc::downgrade(tenant), device, answer });
    }

    /// As a worker's request; waits for it.
    pub fn make_room(&self, tenant: &Arc<Tenant>, device: u32, timeout: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.ask_room(tenant, device, move |room| {
            let _ = done.try_send(room);
        });
        wait.recv_timeout(timeout).unwrap_or(false)
    }
}

/// Answers a worker that asks for room on a device, later.
pub fn serve(
    suspender: &Suspender,
    tenant: &Arc<Tenant>,
    device: u32,
    reply: impl FnOnce(u32) + Send + 'static,
) {
    suspender.ask_room(tenant, device, move |room| reply(if room { 0 } else { status::NO_ROOM }));
}

/// How much memory each device has free, by ordinal; nothing if the host does not tell of one.
pub fn free_memory(snapshot: Option<&Snapshot>, monitor: &super::monitor::Monitor) -> Vec<u64> {
    /// `nvmlMemory_v2_t`: version, total, reserved, free, used.
    const FREE: usize = 24;
    let id = vgpu_spec::wire::lane::function_id("nvmlDeviceGetMemoryInfo_v2");
    let of = |uuid| {
        let reading = monitor.read_now(uuid)?;
        let figure = reading.figures.iter().find(|f| f.function == id && f.status == 0)?;
        let bytes = figure.bytes.get(FREE..FREE + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let devices = snapshot.map_or(&[][..], |s| &s.devices);
    devices.iter().map(|device| of(device.record.uuid)).collect::<Option<_>>().unwrap_or_default()
}
