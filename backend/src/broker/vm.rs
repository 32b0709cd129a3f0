//! A VM: one connection of a vhost-user front end, its clients and its lanes.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use vgpu_spec::wire::control::{CONTROL_QUEUE, EVENT_QUEUE, Event};
use vhost::vhost_user::VhostUserVirtioFeatures;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::accounts::{Account, Accounts};
use super::lanes::LanePage;
use super::lock;
use super::pool::Pool;
use super::ring::{Memory, Ring, RingChange, RingSettings};
use super::sharing::Shares;
use super::tenant::Tenant;
use super::windows::Windows;
use super::worker_link::Worker;
use super::{control, events, lending};
use crate::config::Config;
use crate::devices::DeviceSet;
use crate::log::Limit;

/// The most entries of a queue.
const MAX_QUEUE_SIZE: usize = vgpu_spec::wire::lane::MAX_QUEUE_SIZE as usize;
/// Configuration space of the generic carrier, which the broker answers. (The fs carrier's belongs to QEMU.)
const CONFIG_SPACE: usize = 64;
const CONFIG_MAGIC: &[u8; 8] = b"vgpu-dev";
/// A stopped device may be a paused VM that goes on, or a guest that was reset and in which the old driver's memory
/// has new owners. Both look the same here, so the workers are ended after this time.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// For killed workers to be seen to have ended: the driver tears down their contexts meanwhile.
const LOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A client: one guest process.
pub struct Client {
    pub worker: Arc<Worker>,
    pub windows: Windows,
    pub account: Arc<Account>,
    /// Its number in the guest.
    pub pid: u32,
    /// For the log.
    pub label: String,
    /// Its worker ended by itself.
    pub lost: bool,
    /// Since when it is being closed: its worker's end is no event.
    pub closing: Option<Instant>,
}

/// A lane that is lent.
pub struct Lent {
    pub client: u32,
    pub page: LanePage,
    /// File (device, inode) and offset of the page, to notice a changed memory table.
    pub place: (u64, u64, u64),
    /// The ring is running, and served by the worker if it lives.
    pub running: bool,
    /// Where it stopped, if it is not running.
    pub next: u16,
}

/// What changes under the lock. Not held during requests to workers.
#[derive(Default)]
pub struct State {
    /// The agent said hello.
    pub greeted: bool,
    /// What it is shown of the host's devices since.
    pub devices: Option<Arc<DeviceSet>>,
    pub clients: HashMap<u32, Client>,
    /// What clients share with each other.
    pub shares: Shares,
    /// By queue number.
    pub lanes: Vec<Option<Lent>>,
    /// Events for which the agent has posted no buffer yet.
    pub events: VecDeque<Event>,
    /// Grows when all clients are dropped: what was begun before must not be finished.
    pub epoch: u64,
    /// Grows when the control queue stops: replies to what was taken before are not written.
    pub control_epoch: u64,
    /// The control queue when it stopped.
    stopped: Option<RingSettings>,
}

pub struct Vm {
    /// For the log.
    pub name: String,
    pub tenant: Arc<Tenant>,
    pub accounts: Arc<Accounts>,
    pub config: Arc<Config>,
    pub pool: Arc<Pool>,
    pub memory: Memory,
    pub state: Mutex<State>,
    /// The front end is gone, or the device was reset: waits end.
    pub closing: AtomicBool,
    pub complaints: Limit,
    /// Workers that wait for others of this VM to end.
    pub rooms: AtomicU32,
    me: Weak<Vm>,
    rings: OnceLock<Vec<Ring>>,
    epoll: OnceLock<OwnedFd>,
    exit_fd: AtomicI32,
}

impl Vm {
    pub fn new(tenant: Arc<Tenant>, config: Arc<Config>, pool: Arc<Pool>, memory: Memory) -> Arc<Self> {
        let lanes = (0..tenant.queues).map(|_| None).collect();
        Arc::new_cyclic(|me| Vm {
            name: tenant.name.clone(),
            accounts: Arc::clone(&tenant.accounts),
            tenant,
            config,
            pool,
            memory,
            state: Mutex::new(State { lanes, ..State::default() }),
            closing: AtomicBool::new(false),
            complaints: Limit::new(),
            rooms: AtomicU32::new(0),
            me: me.clone(),
            rings: OnceLock::new(),
            epoll: OnceLock::new(),
            exit_fd: AtomicI32::new(-1),
        })
    }

    /// The host's devices that its agent is shown, if it has said hello.
    pub fn devices(&self) -> Option<Arc<DeviceSet>> {
        lock(&self.state).devices.clone()
    }

    /// Takes the epoll descriptor of the ring thread (a duplicate).
    pub fn set_epoll(&self, epoll: OwnedFd) {
        let _ = self.epoll.set(epoll);
    }

    /// The eventfd by which the ring thread is told to exit; to be closed when that thread has ended.
    pub fn take_exit_fd(&self) -> RawFd {
        self.exit_fd.swap(-1, Ordering::AcqRel)
    }

    pub fn weak(&self) -> Weak<Vm> {
        self.me.clone()
    }

    /// Ring of queue `queue`, if the front end has started any.
    pub fn ring(&self, queue: u16) -> Option<&Ring> {
        self.rings.get()?.get(usize::from(queue))
    }

    /// Logs what a guest did wrong, within limits.
    pub fn complain(&self, what: &dyn std::fmt::Display) {
        if let Some(left_out) = self.complaints.pass() {
            tracing::warn!(vm = self.name, left_out, "{what}");
        }
    }

    /// Ends all clients as if their workers had crashed, while the guest can still be told: its calls fail, rather than wait for ever.
    pub fn lose_clients(&self) {
        let unaware = |state: &State| state.clients.values().any(|c| !c.lost && c.closing.is_none());
        let state = lock(&self.state);
        state.clients.values().for_each(|client| client.worker.kill());
        drop(state);
        let deadline = Instant::now() + LOSE_TIMEOUT;
        while unaware(&lock(&self.state)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends all clients: kills and reaps their workers and forgets their lanes.
    pub fn drop_clients(&self, why: &str) {
        let (clients, shares): (Vec<Client>, Shares) = {
            let mut state = lock(&self.state);
            state.epoch += 1;
            state.greeted = false;
            state.devices = None;
            state.events.clear();
            state.lanes.iter_mut().for_each(|lane| *lane = None);
            let clients = state.clients.drain().map(|(_, client)| client).collect();
            (clients, std::mem::take(&mut state.shares))
        };
        // Closes files: not under the lock.
        drop(shares);
        if clients.is_empty() {
            return;
        }
        tracing::info!(vm = self.name, clients = clients.len(), "ending all workers: {why}");
        clients.iter().for_each(|client| client.worker.kill());
        for client in clients {
            if !client.worker.end() {
                tracing::error!(vm = self.name, pid = client.worker.pid, "worker does not die");
            }
        }
    }

    fn take_rings(&self, vrings: &[Ring]) {
        self.rings.get_or_init(|| {
            for (queue, ring) in (0_u16..).zip(vrings) {
                let vm = self.weak();
                ring.observe(move |change| {
                    if let Some(vm) = vm.upgrade() {
                        vm.ring_changed(queue, change);
                    }
                });
            }
            vrings.to_vec()
        });
    }

    fn ring_changed(&self, queue: u16, change: RingChange) {
        match change {
            RingChange::Disabled => self.ring_stopped(queue),
            RingChange::Eventfds => lending::forward_eventfds(self, queue),
        }
    }

    fn ring_stopped(&self, queue: u16) {
        match queue {
            CONTROL_QUEUE => self.control_stopped(),
            EVENT_QUEUE => {}
            _ => lending::stop(self, queue),
        }
    }

    fn control_stopped(&self) {
        let Some(settings) = self.ring(CONTROL_QUEUE).map(Ring::settings) else { return };
        let mut state = lock(&self.state);
        state.control_epoch += 1;
        state.stopped = Some(settings);
        if state.clients.is_empty() {
            return;
        }
        let (epoch, vm) = (state.control_epoch, self.weak());
        drop(state);
        let _ = std::thread::Builder::new().name("stopped".into()).spawn(move || {
            std::thread::sleep(STOP_GRACE);
            let Some(vm) = vm.upgrade() else { return };
            let still = {
                let state = lock(&vm.state);
                state.stopped.is_some() && state.control_epoch == epoch
            };
            if still {
                vm.drop_clients("the guest stopped the device");
            }
        });
    }

    /// The control queue runs again after a stop: the same driver, or a new one that knows nothing of our clients.
    fn control_started(&self) {
        let Some(ring) = self.ring(CONTROL_QUEUE) else { return };
        let Some(stopped) = lock(&self.state).stopped.take() else { return };
        let now = ring.settings();
        let same = |s: &RingSettings| (s.size, s.desc, s.avail, s.used, s.next_avail);
        if same(&now) != same(&stopped) {
            self.drop_clients("the guest started the device anew");
        }
    }

    fn event(&self, queue: u16) {
        match queue {
            CONTROL_QUEUE => {
                self.control_started();
                control::serve(self);
            }
            EVENT_QUEUE => events::flush(self, &mut lock(&self.state)),
            _ => {
                self.leave_kick(queue);
                lending::resume(self, queue);
            }
        }
    }

    /// Takes a lane's kick out of the ring thread's epoll: it has one reader only, the worker. A lane that is not lent
    /// is not served, so its kick need not be heard either.
    fn leave_kick(&self, queue: u16) {
        let (Some(ring), Some(epoll)) = (self.ring(queue), self.epoll.get()) else { return };
        ring.with_kick(|kick| {
            let _ = rustix::event::epoll::delete(epoll, kick);
            if lock(&self.state).lanes.get(usize::from(queue)).is_some_and(Option::is_some) {
                // The ring thread may just have read a kick that was meant for the worker: give it back.
                signal(kick);
            }
        });
    }
}

/// Adds 1 to an eventfd.
pub fn signal(fd: BorrowedFd<'_>) {
    let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
}

impl VhostUserBackend for Vm {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        usize::from(self.tenant.queues)
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.drop_clients("the front end reset the device");
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut space = [0_u8; CONFIG_SPACE];
        space[..8].copy_from_slice(CONFIG_MAGIC);
        space[8..10].copy_from_slice(&vgpu_spec::wire::VERSION.to_le_bytes());
        // Zeros beyond its end: the library cannot answer with fewer bytes than asked for. It bounds `size` to 4096.
        let bytes = space.iter().copied().chain(std::iter::repeat(0));
        bytes.skip(offset.min(CONFIG_SPACE as u32) as usize).take(size as usize).collect()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        lending::memory_changed(self, &memory);
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // One thread for all: `device_event` is the queue's number then.
        vec![u64::MAX >> (64 - self.tenant.queues)]
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let pair = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()?;
        // The library never closes the consumer: remembered, to be closed after the thread.
        self.exit_fd.store(pair.0.as_raw_fd(), Ordering::Release);
        Some(pair)
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        if let Ok(queue) = u16::try_from(queue) {
            self.ring_stopped(queue);
        }
        Ok(())
    }

    /// Never fails: an error would end the ring thread, and with it the device, for something that a guest did.
    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Ring], _thread: usize) -> io::Result<()> {
        self.take_rings(vrings);
        if usize::from(event) < vrings.len() && !self.closing.load(Ordering::Acquire) {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.event(event)));
            if result.is_err() {
                tracing::error!(vm = self.name, queue = event, "handling a queue panicked; this is a defect");
            }
        }
        Ok(())
    }
}

/// Device and inode of a file, to tell whether two descriptors are the same file.
pub fn identity(fd: impl AsFd) -> Option<(u64, u64)> {
    rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}
