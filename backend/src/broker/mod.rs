//! The broker: sockets, VMs, workers. It does no CUDA, does little, and must not die: QEMU can abort when its device
//! process does.

pub mod accounts;
mod assign;
pub mod control;
pub mod events;
pub mod handovers;
pub mod lanes;
pub mod lending;
pub mod meter;
pub mod monitor;
pub mod pool;
pub mod presence;
pub mod process;
pub mod reading;
pub mod request;
pub mod ring;
pub mod room;
pub mod scheduler;
pub mod sharing;
pub mod socket;
pub mod status;
pub mod suspend;
pub mod systemd;
pub mod tenant;
pub mod turns;
pub mod vm;
pub mod vms;
pub mod windows;
pub mod worker_link;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgpu_spec::wire::snapshot::Snapshot;

use crate::config::Config;
use crate::log::{chain, printable};
use crate::operator::{File, Http, Server};
use crate::sandbox::{self, SandboxError};
use pool::{Pool, PoolError};
use socket::{SocketError, VmSocket};
use vms::{Vms, VmsError};

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
    #[error("vm {name}")]
    Vm { name: String, source: VmsError },
    #[error("serving metrics at {address}")]
    Metrics { address: String, source: std::io::Error },
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
    let mut bound = systemd::sockets();
    raise_descriptor_limit();
    status::start_clock();
    // Before it has given up what that takes.
    sandbox::prepare_devices();
    sandbox::enter_broker(&config.sandbox)?;
    let operator = Server::bind(&config.operator, bound.remove("operator"))?;
    let metrics = config.metrics.as_ref().map(Http::bind).transpose()?;
    let mut sockets = Vec::new();
    for vm in &config.vms {
        let socket = VmSocket::bind(vm, bound.remove(&vm.name)).inspect_err(|_| discard(&mut sockets))?;
        sockets.push(socket);
    }
    let config = Arc::new(config);
    let pool = Pool::start((*config).clone()).map_err(BrokerError::Thread);
    let pool = pool.inspect_err(|_| discard(&mut sockets))?;
    let snapshot = pool.first(FIRST_TIMEOUT).inspect_err(|_| discard(&mut sockets))?;
    log_devices(&snapshot);
    share(&config, &pool).inspect_err(|_| discard(&mut sockets))?;
    let vms = Vms::new(Arc::clone(&config), pool);
    let result = serve_all(&config, &vms, sockets, (operator, metrics)).and_then(|_files| {
        systemd::ready();
        wait_signal(&signals).map_err(BrokerError::Signals)
    });
    vms.unlink();
    // Workers die with this process (PR_SET_PDEATHSIG).
    result
}

/// Begins to serve everything; the files of the sockets that are the operator's.
fn serve_all(
    config: &Config,
    vms: &Arc<Vms>,
    sockets: Vec<VmSocket>,
    (operator, metrics): (Option<Server>, Option<Http>),
) -> Result<[Option<File>; 2], BrokerError> {
    let mut sockets = sockets.into_iter();
    for (vm, socket) in config.vms.iter().zip(&mut sockets) {
        if let Err(source) = vms.serve(vm, socket) {
            sockets.for_each(VmSocket::discard);
            return Err(BrokerError::Vm { name: vm.name.clone(), source });
        }
    }
    let operator = operator.map(|server| server.serve(Arc::clone(vms))).transpose();
    let metrics = metrics.map(|http| http.serve(Arc::clone(vms))).transpose();
    Ok([operator.map_err(BrokerError::Thread)?.flatten(), metrics.map_err(BrokerError::Thread)?.flatten()])
}

/// Starts to measure what VMs use, and to give them their turns.
fn share(config: &Config, pool: &Arc<Pool>) -> Result<(), BrokerError> {
    meter::Meter::start(Arc::clone(pool)).map_err(BrokerError::Thread)?;
    let measured = Arc::clone(pool);
    let free = move || suspend::free_memory(measured.snapshot().as_deref(), measured.monitor());
    pool.suspender().run(config.clone(), free).map_err(BrokerError::Thread)?;
    if config.turns {
        scheduler::Scheduler::start(Arc::clone(pool), config.turn).map_err(BrokerError::Thread)?;
    }
    Ok(())
}

fn discard(sockets: &mut Vec<VmSocket>) {
    sockets.drain(..).for_each(VmSocket::discard);
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
