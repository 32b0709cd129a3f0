//! The broker's vring: vhost-user-backend's own, less two traps, plus notice of changes.
//!
//! - That library ends its ring thread when reading a kick fails. A lane's kick eventfd is read by a worker too, so a
//!   kick that is gone already (EAGAIN) must not be an error here.
//! - QEMU may exchange the call eventfd (interrupt masked or unmasked) or disable a ring at any time: a worker that
//!   serves the ring has to learn of it before the request is answered.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, RwLockReadGuard, RwLockWriteGuard};

use vhost_user_backend::{VringRwLock, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Guest memory as the broker sees it.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// What the front end changed about a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingChange {
    Disabled,
    /// Kick or call eventfd.
    Eventfds,
}

type Observer = Box<dyn Fn(RingChange) + Send + Sync>;

/// A vring.
#[derive(Clone)]
pub struct Ring {
    inner: VringRwLock,
    observer: Arc<OnceLock<Observer>>,
}

/// A ring's configuration at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSettings {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub next_avail: u16,
    pub event_idx: bool,
    /// Started and enabled.
    pub running: bool,
}

impl Ring {
    /// Sets who is told of changes; only the first call counts.
    pub fn observe(&self, observer: impl Fn(RingChange) + Send + Sync + 'static) {
        let _ = self.observer.set(Box::new(observer));
    }

    fn tell(&self, change: RingChange) {
        if let Some(observer) = self.observer.get() {
            observer(change);
        }
    }

    pub fn settings(&self) -> RingSettings {
        let state = self.inner.get_ref();
        let queue = state.get_queue();
        RingSettings {
            size: queue.size(),
            desc: queue.desc_table(),
            avail: queue.avail_ring(),
            used: queue.used_ring(),
            next_avail: queue.next_avail(),
            event_idx: queue.event_idx_enabled(),
            running: queue.ready() && state.is_enabled() && state.get_kick().is_some(),
        }
    }

    /// Duplicates of the kick and call eventfds.
    pub fn eventfds(&self) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        let state = self.inner.get_ref();
        let kick = state.get_kick().as_ref().map(|k| duplicate(k.as_raw_fd())).transpose()?;
        let call = state.get_call().as_ref().map(|c| duplicate(c.as_raw_fd())).transpose()?;
        Ok((kick, call))
    }

    /// Calls `f` with the kick's descriptor, if there is one.
    pub fn with_kick<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let state = self.inner.get_ref();
        state.get_kick().as_ref().map(|kick| {
            // SAFETY: the descriptor belongs to `state`, which is locked during the call.
            f(unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) })
        })
    }
}

fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the caller holds the lock of the ring that owns `fd`.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fd.try_clone_to_owned()
}

/// Kicks are drained without blocking the ring's thread, whatever the front end made the eventfd like.
fn nonblocking(file: &File) {
    if let Ok(flags) = rustix::fs::fcntl_getfl(file) {
        let _ = rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK);
    }
}

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = RwLockReadGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = RwLockWriteGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Ring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        Ok(Ring { inner: VringRwLock::new(mem, max_queue_size)?, observer: Arc::default() })
    }

    fn get_ref(&self) -> RwLockReadGuard<'_, VringState<Memory>> {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> RwLockWriteGuard<'_, VringState<Memory>> {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.inner.set_enabled(enabled);
        if !enabled {
            self.tell(RingChange::Disabled);
        }
    }

    fn set_queue_info(&self, desc: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.inner.set_queue_info(desc, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.inner.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.inner.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.inner.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.inner.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        let some = file.is_some();
        if let Some(file) = &file {
            nonblocking(file);
        }
        self.inner.set_kick(file);
        if some {
            self.tell(RingChange::Eventfds);
        }
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.inner.read_kick() {
            Ok(enabled) => Ok(enabled),
            // Gone already, or unreadable: either way nothing that may end the ring's thread.
            Err(_) => Ok(self.inner.get_ref().is_enabled()),
        }
    }

    fn set_call(&self, file: Option<File>) {
        let some = file.is_some();
        self.inner.set_call(file);
        if some {
            self.tell(RingChange::Eventfds);
        }
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}
