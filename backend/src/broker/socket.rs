//! A VM's socket: bound once, served for one front end after another.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vhost::vhost_user::Listener;
use vhost_user_backend::{VhostUserDaemon, VringEpollHandler};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap};

use super::accounts::Accounts;
use super::pool::Pool;
use super::ring::Memory;
use super::tenant::Tenant;
use super::vm::Vm;
use crate::config::{Config, VmConfig};
use crate::devices::DeviceSet;
use crate::ledger::LedgerError;

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("listening on {0}: already served by another process")]
    Busy(PathBuf),
    #[error("listening on {0}: the path exists and is not a socket")]
    NotSocket(PathBuf),
    #[error("listening on {path}: {hint}")]
    Bind { path: PathBuf, hint: &'static str, source: io::Error },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("making an eventfd")]
    Eventfd(#[source] rustix::io::Errno),
}

/// Binds `path`; a socket that nobody listens on any more is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |hint, source| SocketError::Bind { path: path.to_owned(), hint, source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotSocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::Busy(path.to_owned())),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|e| failed("removing the stale socket", e))?;
            }
            // Somebody else's socket, or one with a full backlog: not ours to remove.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                return Err(SocketError::Busy(path.to_owned()));
            }
            Err(e) => return Err(failed("probing the socket that is there", e)),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(failed("looking at the path", e)),
    }
    UnixListener::bind(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => failed("its folder does not exist", e),
        ErrorKind::AddrInUse => SocketError::Busy(path.to_owned()),
        _ => failed("binding", e),
    })
}

/// A VM's bound socket. It is removed at the end, unless another process has bound it.
pub struct VmSocket {
    tenant: Arc<Tenant>,
    listener: UnixListener,
}

impl VmSocket {
    /// Binds the VM's socket, or takes the one that is bound.
    pub fn bind(vm: &VmConfig, bound: Option<UnixListener>) -> Result<Self, SocketError> {
        let adopted = bound.is_some();
        let tenant = Tenant::new(vm, Accounts::new()?, adopted).map_err(SocketError::Eventfd)?;
        let listener = bound.map_or_else(|| listen(&vm.socket), Ok)?;
        Ok(VmSocket { tenant, listener })
    }

    /// Removes it, if it is not to be served.
    pub fn discard(self) {
        self.tenant.unlink();
    }

    /// Serves the socket on a thread of its own, until the VM is removed. It is given `devices` of the host's.
    pub fn serve(
        self,
        config: Arc<Config>,
        pool: Arc<Pool>,
        devices: Arc<DeviceSet>,
    ) -> io::Result<Arc<Tenant>> {
        self.tenant.set_devices(devices);
        pool.registry().add(&self.tenant.accounts);
        let tenant = Arc::clone(&self.tenant);
        std::thread::Builder::new().name("vm".into()).spawn(move || {
            let watched = self.listener.try_clone();
            let mut listener = Listener::from(self.listener);
            let tenant = self.tenant;
            // Without a second descriptor the first is waited at by the library, which removal then cannot end.
            while watched.as_ref().map_or_else(|_| !tenant.is_stopping(), |fd| tenant.wait(fd)) {
                let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
                let (config, pool) = (Arc::clone(&config), Arc::clone(&pool));
                let vm = Vm::new(Arc::clone(&tenant), config, pool, memory.clone());
                if let Err(error) = serve_one(&vm, memory, &mut listener) {
                    tracing::error!(vm = tenant.name, "serving the socket: {error}");
                    // Out of descriptors, for example: not in a busy loop.
                    std::thread::sleep(Duration::from_secs(1));
                }
                tenant.disconnected();
            }
            tenant.unlink();
            tenant.has_ended();
        })?;
        Ok(tenant)
    }
}
/// Serves one front end until it disconnects, and cleans up after it.
fn serve_one(vm: &Arc<Vm>, memory: Memory, listener: &mut Listener) -> Result<(), String> {
    let name = &vm.name;
    // A new daemon for each: the library refuses a second SET_OWNER.
    let mut daemon =
        VhostUserDaemon::new("vhost-user".into(), Arc::clone(vm), memory).map_err(|e| e.to_string())?;
    let handlers = daemon.get_epoll_handlers();
    let started = adopt_epoll(vm, &handlers).and_then(|()| daemon.start(listener).map_err(|e| e.to_string()));
    if started.is_ok() {
        vm.tenant.connected(vm, daemon.shutdown_handle());
        tracing::info!(vm = name, "front end connected");
        match daemon.wait() {
            // A front end that goes away in the middle of a message is an ordinary end.
            Ok(()) => tracing::info!(vm = name, "front end disconnected"),
            Err(error) if without_memory(vm, &error.to_string()) => tracing::warn!(
                vm = name,
                "front end disconnected: {error}: it gave no shared memory; QEMU needs \
                 -object memory-backend-memfd,id=mem,size=SIZE,share=on -numa node,memdev=mem"
            ),
            Err(error) => tracing::info!(vm = name, "front end disconnected: {error}"),
        }
    }
    vm.closing.store(true, Ordering::Release);
    vm.drop_clients("the front end is gone");
    end_ring_thread(vm, handlers);
    // What the ring thread had begun meanwhile.
    vm.drop_clients("the front end is gone");
    started
}

/// Whether a front end failed for want of memory that can be shared: its memory table was refused or never came.
fn without_memory(vm: &Vm, error: &str) -> bool {
    vm.memory.memory().num_regions() == 0 && !error.contains("disconnected")
}

fn adopt_epoll(vm: &Vm, handlers: &[Arc<VringEpollHandler<Arc<Vm>>>]) -> Result<(), String> {
    let handler = handlers.first().ok_or("the ring thread is missing")?;
    // SAFETY: the handler owns the descriptor and is alive.
    let epoll = unsafe { BorrowedFd::borrow_raw(handler.as_raw_fd()) };
    vm.set_epoll(
        epoll.as_fd().try_clone_to_owned().map_err(|e| format!("duplicating an epoll descriptor: {e}"))?,
    );
    Ok(())
}

/// Ends the ring thread and closes the descriptor that the library would leak with it.
fn end_ring_thread(vm: &Vm, handlers: Vec<Arc<VringEpollHandler<Arc<Vm>>>>) {
    handlers.iter().for_each(|handler| handler.send_exit_event());
    let deadline = Instant::now() + Duration::from_secs(60);
    // The thread holds one reference, the daemon another, and `handlers` the third.
    while handlers.iter().any(|handler| Arc::strong_count(handler) > 2) {
        if Instant::now() > deadline {
            tracing::error!(vm = vm.name, "the ring thread does not end");
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let fd = vm.take_exit_fd();
    if fd >= 0 {
        // SAFETY: the library gave up this descriptor's ownership, and the only thread that used it is gone.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}
