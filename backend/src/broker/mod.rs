//! The broker: sockets, VMs, workers. It does no CUDA, does little, and must not die: QEMU can abort when its device
//! process does.

pub mod accounts;
pub mod control;
pub mod events;
pub mod lanes;
pub mod lending;
pub mod monitor;
pub mod pool;
pub mod process;
pub mod reading;
pub mod request;
pub mod ring;
pub mod sharing;
pub mod socket;
pub mod vm;
pub mod windows;
pub mod worker_link;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgpu_spec::wire::snapshot::{Snapshot, uuid_text};

use crate::config::{Config, VmConfig};
use crate::identity::IdentityError;
use crate::log::{chain, printable};
use crate::sandbox::{self, SandboxError};
use pool::{Pool, PoolError};
use socket::{SocketError, VmSocket};

/// For the first worker to load CUDA.
const FIRST_TIMEOUT: Duration = Duration::from_secs(70);

/// Why the broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Worker(#[from] PoolError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("confining the broker")]
    Sandbox(#[from] SandboxError),
    #[error("waiting for signals")]
    Signals(#[source] std::io::Error),
}

/// Locks, whatever happened to another holder: a panic elsewhere must not spread to all VMs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until a signal; the process's exit code.
pub fn run(config: Config) -> ExitCode {
    crate::log::start(&config.log);
    match serve(config) {
        Ok(signal) => {
            tracing::info!("signal {signal}: workers are ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("vgpu-backend: {}", chain(&error));
            if matches!(error, BrokerError::Worker(_)) {
                eprintln!(
                    "vgpu-backend: CUDA is not usable on this machine; install NVIDIA's driver, name its folder with \
                     --cuda-dir, or use the software driver with --softgpu"
                );
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<i32, BrokerError> {
    // Before any thread, so that all inherit it and only `wait_signal` takes them.
    let signals = block_signals().map_err(BrokerError::Signals)?;
    raise_descriptor_limit();
    // Before it has given up what that takes.
    sandbox::prepare_devices();
    sandbox::enter_broker(&config.sandbox)?;
    let bind = |vm: &VmConfig| VmSocket::bind(&vm.socket, vm.identities.clone());
    let sockets = config.vms.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
    let config = Arc::new(config);
    let pool = Pool::start((*config).clone()).map_err(BrokerError::Thread)?;
    let snapshot = pool.first(FIRST_TIMEOUT).inspect_err(|_| remove(&config.vms))?;
    log_devices(&snapshot);
    for vm in &config.vms {
        vm.identities.check(&snapshot).inspect_err(|_| remove(&config.vms))?;
        log_shown(vm, &snapshot);
    }
    for socket in sockets {
        tracing::info!("listening on {}", socket.path().display());
        socket.serve(Arc::clone(&config), Arc::clone(&pool)).map_err(BrokerError::Thread)?;
    }
    let signal = wait_signal(&signals).map_err(BrokerError::Signals);
    remove(&config.vms);
    // Workers die with this process (PR_SET_PDEATHSIG).
    signal
}

/// Removes the sockets, all of which this process has bound.
fn remove(vms: &[VmConfig]) {
    for vm in vms {
        let _ = std::fs::remove_file(&vm.socket);
    }
}

fn log_devices(snapshot: &Snapshot) {
    let version = snapshot.header.driver_version;
    for (i, device) in snapshot.devices.iter().enumerate() {
        tracing::info!(
            "device {i}: {}, {} MiB, CUDA {}.{}",
            printable(device.name().as_bytes()),
            device.record.total_memory >> 20,
            version / 1000,
            version % 1000 / 10
        );
    }
}

/// Says what a VM is shown, if that is not what the host says.
fn log_shown(vm: &VmConfig, host: &Snapshot) {
    if vm.identities.is_empty() {
        return;
    }
    for (i, device) in vm.identities.shown(host).devices.iter().enumerate() {
        tracing::info!(
            vm = %vm.socket.display(),
            "shown device {i}: {}, GPU-{}, {} MiB",
            printable(device.name().as_bytes()),
            uuid_text(&device.record.uuid),
            device.record.total_memory >> 20
        );
    }
}

/// Each lane of each VM takes two descriptors and more while it is lent.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn block_signals() -> std::io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set lives on this stack and is initialised by sigemptyset before it is used.
    let (result, set) = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        (libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()), set)
    };
    match result {
        0 => Ok(set),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

fn wait_signal(set: &libc::sigset_t) -> std::io::Result<i32> {
    let mut signal = 0;
    // SAFETY: both pointers are to live values of the right types.
    match unsafe { libc::sigwait(set, &raw mut signal) } {
        0 => Ok(signal),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}
