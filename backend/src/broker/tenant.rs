//! A VM as the operator knows it: its name, socket and settings. Lives from its addition to its removal, over any number of connections.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost_user_backend::ShutdownHandle;

use super::accounts::Accounts;
use super::lock;
use super::vm::Vm;
use crate::config::VmConfig;
use crate::devices::DeviceSet;
use crate::identity::Identities;

/// A VM's name, settings and whereabouts.
pub struct Tenant {
    pub name: String,
    pub socket: PathBuf,
    pub queues: u16,
    pub accounts: Arc<Accounts>,
    /// Another process has bound the socket, and removes it.
    adopted: bool,
    live: Mutex<Live>,
    connection: Mutex<Connection>,
    stopping: AtomicBool,
    /// Ends the wait for a front end.
    wake: OwnedFd,
    ended: Mutex<bool>,
    changed: Condvar,
}

/// What can be changed while it runs.
struct Live {
    identities: Identities,
    devices: Arc<DeviceSet>,
    clients: u32,
}

/// The front end of the moment.
#[derive(Default)]
struct Connection {
    vm: Weak<Vm>,
    end: Option<ShutdownHandle>,
}

impl Tenant {
    pub fn new(
        config: &VmConfig,
        accounts: Arc<Accounts>,
        adopted: bool,
    ) -> Result<Arc<Self>, rustix::io::Errno> {
        accounts.set_limits(&config.limits);
        accounts.set_memory(&config.identities);
        Ok(Arc::new(Tenant {
            name: config.name.clone(),
            socket: config.socket.clone(),
            queues: config.queues,
            accounts,
            adopted,
            live: Mutex::new(Live {
                identities: config.identities.clone(),
                devices: Arc::default(),
                clients: config.clients,
            }),
            connection: Mutex::default(),
            stopping: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: Mutex::new(false),
            changed: Condvar::new(),
        }))
    }

    /// What it is shown of the devices.
    pub fn identities(&self) -> Identities {
        lock(&self.live).identities.clone()
    }

    /// Which of the host's devices an agent is shown that says hello next.
    pub fn devices(&self) -> Arc<DeviceSet> {
        Arc::clone(&lock(&self.live).devices)
    }

    /// Which it has at the moment: what its agent was shown, if there is one.
    pub fn devices_in_use(&self) -> Arc<DeviceSet> {
        self.vm().and_then(|vm| vm.devices()).unwrap_or_else(|| self.devices())
    }

    /// Seen by an agent that says hello next: what runs has opened the devices that it has.
    pub fn set_devices(&self, devices: Arc<DeviceSet>) {
        lock(&self.live).devices = devices;
    }

    /// Guest processes that it may have at once.
    pub fn clients(&self) -> u32 {
        lock(&self.live).clients
    }

    /// Memory counts at once; the rest is seen by an agent that asks next.
    pub fn set_identities(&self, identities: Identities) {
        self.accounts.set_memory(&identities);
        lock(&self.live).identities = identities;
    }

    /// Clients that are there stay, even if they are more.
    pub fn set_clients(&self, clients: u32) {
        lock(&self.live).clients = clients;
    }

    /// The VM while a front end is connected.
    pub fn vm(&self) -> Option<Arc<Vm>> {
        let vm = lock(&self.connection).vm.upgrade()?;
        (!vm.closing.load(Ordering::Acquire)).then_some(vm)
    }

    /// A front end is connected; `end` disconnects it.
    pub fn connected(&self, vm: &Arc<Vm>, end: Option<ShutdownHandle>) {
        let mut connection = lock(&self.connection);
        *connection = Connection { vm: Arc::downgrade(vm), end };
        // `stop` came between the front end and this.
        if self.is_stopping()
            && let Some(end) = &connection.end
        {
            end.shutdown();
        }
    }

    pub fn disconnected(&self) {
        *lock(&self.connection) = Connection::default();
    }

    /// Waits for a front end at `listener`; false if there is none to be served any more.
    pub fn wait(&self, listener: impl AsFd) -> bool {
        while !self.is_stopping() {
            let mut polled = [
                PollFd::new(&self.wake, PollFlags::IN),
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            ];
            let ready = poll(&mut polled, None).is_ok();
            if ready && !self.is_stopping() && !polled[1].revents().is_empty() {
                return true;
            }
        }
        false
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Disconnects the front end, and has no other one served.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        if let Some(end) = &lock(&self.connection).end {
            end.shutdown();
        }
    }

    /// Removes the socket, at the end.
    pub fn unlink(&self) {
        if !self.adopted {
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// It is not served any more.
    pub fn has_ended(&self) {
        *lock(&self.ended) = true;
        self.changed.notify_all();
    }

    /// Whether it has ended within `timeout`.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut ended = lock(&self.ended);
        while !*ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            ended = match self.changed.wait_timeout(ended, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}
