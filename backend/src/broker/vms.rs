//! The VMs that are served, which come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vgpu_spec::wire::snapshot::uuid_text;

use super::lock;
use super::pool::Pool;
use super::socket::{SocketError, VmSocket};
use super::suspend::SuspendError;
use super::tenant::Tenant;
use crate::config::reset::Reset;
use crate::config::settings::VmSettings;
use crate::config::{Config, ConfigError, VmConfig};
use crate::devices::{DeviceSet, DeviceSetError};
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
    #[error("vm {0}: it is being removed, but its workers have not ended yet")]
    Stuck(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Devices(#[from] DeviceSetError),
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

    /// Which of the host's devices a VM of these settings has, if the host can show what they say.
    pub fn check(&self, vm: &VmConfig) -> Result<DeviceSet, VmsError> {
        let host = self.pool.snapshot().ok_or(VmsError::NoSnapshot)?;
        let devices = DeviceSet::new(vm.devices.as_deref(), host.devices.len())?;
        vm.identities.check(&host, &devices)?;
        Ok(devices)
    }

    /// Serves a VM whose socket is bound already.
    pub fn serve(&self, vm: &VmConfig, socket: VmSocket) -> Result<(), VmsError> {
        match self.check(vm) {
            Ok(devices) => self.enter(vm, devices, || Ok(socket)),
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
        let devices = self.check(vm)?;
        self.enter(vm, devices, || Ok(VmSocket::bind(vm, None)?))
    }

    fn enter(
        &self,
        vm: &VmConfig,
        devices: DeviceSet,
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
        let devices = self.pool.devices(devices);
        self.log_shown(&vm.name, &vm.identities, &devices);
        let (config, pool) = (Arc::clone(&self.config), Arc::clone(&self.pool));
        let tenant = socket.serve(config, pool, devices).map_err(VmsError::Thread)?;
        self.pool.suspender().add(&tenant);
        served.insert(vm.name.clone(), tenant);
        Ok(())
    }

    pub fn get(&self, name: &str) -> Result<Arc<Tenant>, VmsError> {
        lock(&self.served).get(name).cloned().ok_or_else(|| VmsError::Unknown(name.to_owned()))
    }

    /// Takes back what `reset` names and changes what is said in `settings`; all of it or nothing.
    pub fn set(&self, name: &str, reset: &[Reset], settings: &VmSettings) -> Result<(), VmsError> {
        for (said, key) in [(settings.socket.is_some(), "socket"), (settings.queues.is_some(), "queues")] {
            if said {
                return Err(VmsError::Fixed(key));
            }
        }
        let tenant = self.get(name)?;
        let mut changed = VmConfig {
            name: name.to_owned(),
            socket: tenant.socket.clone(),
            limits: tenant.accounts.limits(),
            clients: tenant.clients(),
            queues: tenant.queues,
            devices: tenant.devices().ordinals(),
            identities: tenant.identities(),
        };
        reset.iter().for_each(|setting| setting.apply(&mut changed));
        changed.identities = settings.identities()?.over(&changed.identities);
        changed.limits = settings.limits(changed.limits);
        changed.clients = settings.clients.and_then(|n| u32::try_from(n).ok()).unwrap_or(changed.clients);
        changed.devices = settings.devices.clone().or(changed.devices);
        let clients = changed.clients;
        let devices = self.pool.devices(self.check(&changed)?);
        tenant.accounts.set_limits(&changed.limits);
        tenant.set_clients(clients);
        if changed.identities != tenant.identities() || devices != tenant.devices() {
            self.log_shown(name, &changed.identities, &devices);
            tenant.set_identities(changed.identities);
            tenant.set_devices(Arc::clone(&devices));
        }
        tracing::info!(vm = name, clients, limits = ?changed.limits, %devices, "changed");
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

    /// Says what a VM is shown, if that is not what the host says.
    fn log_shown(&self, name: &str, identities: &Identities, devices: &DeviceSet) {
        if identities.is_empty() && devices.is_all() {
            return;
        }
        // One default may be meant for several VMs; for one alone it is a mistake that would leave a device without its limit.
        for ordinal in identities.devices().filter(|&ordinal| !devices.has(ordinal)) {
            tracing::warn!(
                vm = name,
                "the VM does not have device {ordinal}: what is said of it counts for nothing"
            );
        }
        let Some(seen) = self.pool.snapshot_of(devices) else { return };
        let shown = identities.shown(&seen, devices);
        for (i, (device, ordinal)) in shown.devices.iter().zip(devices.host_ordinals()).enumerate() {
            tracing::info!(
                vm = name,
                "shown device {i}: {}, GPU-{}, {} MiB, the host's device {ordinal}",
                printable(device.name().as_bytes()),
                uuid_text(&device.record.uuid),
                device.record.total_memory >> 20
            );
        }
    }
}
