//! The VMs that are served, which come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vgpu_spec::wire::snapshot::{Snapshot, uuid_text};

use super::lock;
use super::pool::Pool;
use super::socket::{SocketError, VmSocket};
use super::suspend::SuspendError;
use super::tenant::Tenant;
use crate::config::settings::VmSettings;
use crate::config::{Config, ConfigError, VmConfig};
use crate::identity::{Identities, IdentityError};
use crate::log::printable;

/// For a VM's workers to end; the driver tears down their contexts meanwhile.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// More sockets than a host has VMs.
const MAX_VMS: usize = 1024;

/// Why a VM was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum VmsError {
    #[error("vm {0}: there is one already")]
    Exists(String),
    #[error("vm {0}: there is none of that name")]
    Unknown(String),
    #[error("there are {MAX_VMS} VMs already")]
    TooMany,
    #[error("{0}: it cannot be changed while the VM is there; remove the VM and add it again")]
    Fixed(&'static str),
    #[error(
        "devices: {asked:?} are not all of the host's devices (0 to {last}); a VM sees all of them: leave devices out"
    )]
    Devices { asked: Vec<u32>, last: usize },
    #[error("vm {0}: it is being removed, but its workers have not ended yet")]
    Stuck(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Suspend(#[from] SuspendError),
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    #[error("no worker has told yet what the host's devices are")]
    NoSnapshot,
}

/// All VMs of this broker.
pub struct Vms {
    config: Arc<Config>,
    pool: Arc<Pool>,
    served: Mutex<BTreeMap<String, Arc<Tenant>>>,
}

impl Vms {
    pub fn new(config: Arc<Config>, pool: Arc<Pool>) -> Arc<Self> {
        Arc::new(Vms { config, pool, served: Mutex::default() })
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn all(&self) -> Vec<Arc<Tenant>> {
        lock(&self.served).values().cloned().collect()
    }

    /// Whether the host can show what these settings say.
    pub fn check(&self, vm: &VmConfig) -> Result<Arc<Snapshot>, VmsError> {
        let host = self.pool.snapshot().ok_or(VmsError::NoSnapshot)?;
        vm.identities.check(&host)?;
        if let Some(asked) = &vm.devices {
            let mut sorted = asked.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if !sorted.iter().map(|&n| n as usize).eq(0..host.devices.len()) {
                let last = host.devices.len().saturating_sub(1);
                return Err(VmsError::Devices { asked: asked.clone(), last });
            }
        }
        Ok(host)
    }

    /// Serves a VM whose socket is bound already.
    pub fn serve(&self, vm: &VmConfig, socket: VmSocket) -> Result<(), VmsError> {
        match self.check(vm) {
            Ok(host) => self.enter(vm, &host, || Ok(socket)),
            Err(error) => {
                socket.discard();
                Err(error)
            }
        }
    }

    /// Removes all sockets: the broker ends.
    pub fn unlink(&self) {
        self.all().iter().for_each(|tenant| tenant.unlink());
    }

    /// Binds a socket for a VM, and serves it.
    pub fn add(&self, vm: &VmConfig) -> Result<(), VmsError> {
        let host = self.check(vm)?;
        self.enter(vm, &host, || Ok(VmSocket::bind(vm, None)?))
    }

    fn enter(
        &self,
        vm: &VmConfig,
        host: &Snapshot,
        socket: impl FnOnce() -> Result<VmSocket, VmsError>,
    ) -> Result<(), VmsError> {
        let mut served = lock(&self.served);
        if served.contains_key(&vm.name) {
            return Err(VmsError::Exists(vm.name.clone()));
        }
        if served.len() >= MAX_VMS {
            return Err(VmsError::TooMany);
        }
        let socket = socket()?;
        tracing::info!(vm = vm.name, "listening on {}", vm.socket.display());
        log_shown(&vm.name, &vm.identities, host);
        let (config, pool) = (Arc::clone(&self.config), Arc::clone(&self.pool));
        let tenant = socket.serve(config, pool).map_err(VmsError::Thread)?;
        self.pool.suspender().add(&tenant);
        served.insert(vm.name.clone(), tenant);
        Ok(())
    }

    pub fn get(&self, name: &str) -> Result<Arc<Tenant>, VmsError> {
        lock(&self.served).get(name).cloned().ok_or_else(|| VmsError::Unknown(name.to_owned()))
    }

    /// Changes what is said in `settings`; all of it or nothing.
    pub fn set(&self, name: &str, settings: &VmSettings) -> Result<(), VmsError> {
        for (said, key) in [(settings.socket.is_some(), "socket"), (settings.queues.is_some(), "queues")] {
            if said {
                return Err(VmsError::Fixed(key));
            }
        }
        let tenant = self.get(name)?;
        let identities = settings.identities()?.over(&tenant.identities());
        let clients = settings.clients.and_then(|n| u32::try_from(n).ok()).unwrap_or(tenant.clients());
        let changed = VmConfig {
            name: name.to_owned(),
            socket: tenant.socket.clone(),
            limits: settings.limits(tenant.accounts.limits()),
            clients,
            queues: tenant.queues,
            devices: settings.devices.clone(),
            identities,
        };
        let host = self.check(&changed)?;
        tenant.accounts.set_limits(&changed.limits);
        tenant.set_clients(clients);
        if changed.identities != tenant.identities() {
            log_shown(name, &changed.identities, &host);
            tenant.set_identities(changed.identities);
        }
        tracing::info!(vm = name, clients, limits = ?changed.limits, "changed");
        Ok(())
    }

    /// Moves a VM's device memory to the host's.
    pub fn suspend(&self, name: &str, hold: bool) -> Result<(), VmsError> {
        Ok(self.pool.suspender().suspend(&self.get(name)?, hold)?)
    }

    /// Moves it back.
    pub fn resume(&self, name: &str) -> Result<(), VmsError> {
        Ok(self.pool.suspender().resume(&self.get(name)?)?)
    }

    /// Ends a VM's clients, disconnects its front end and removes its socket.
    pub fn remove(&self, name: &str) -> Result<(), VmsError> {
        let tenant = self.get(name)?;
        tracing::info!(vm = name, "removing");
        tenant.set_clients(0);
        if let Some(vm) = tenant.vm() {
            vm.lose_clients();
        }
        tenant.stop();
        if !tenant.wait_ended(END_TIMEOUT) {
            return Err(VmsError::Stuck(name.to_owned()));
        }
        let mut served = lock(&self.served);
        // Two may remove it at once, and a third may have added another.
        if served.get(name).is_some_and(|there| Arc::ptr_eq(there, &tenant)) {
            served.remove(name);
            tracing::info!(vm = name, "removed");
        }
        Ok(())
    }
}

/// Says what a VM is shown, if that is not what the host says.
fn log_shown(name: &str, identities: &Identities, host: &Snapshot) {
    if identities.is_empty() {
        return;
    }
    for (i, device) in identities.shown(host).devices.iter().enumerate() {
        tracing::info!(
            vm = name,
            "shown device {i}: {}, GPU-{}, {} MiB",
            printable(device.name().as_bytes()),
            uuid_text(&device.record.uuid),
            device.record.total_memory >> 20
        );
    }
}
