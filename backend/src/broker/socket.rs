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
use super::vm::Vm;
use crate::config::Config;
use crate::identity::Identities;
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
}

/// A bound socket.
pub struct VmSocket {
    path: PathBuf,
    /// What its VM is shown of the devices.
    identities: Identities,
    accounts: Arc<Accounts>,
    listener: UnixListener,
}

impl VmSocket {
    /// Binds `path`; a socket that nobody listens on any more is replaced.
    pub fn bind(path: &Path, identities: Identities) -> Result<Self, SocketError> {
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
        let listener = UnixListener::bind(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => failed("its folder does not exist", e),
            ErrorKind::AddrInUse => SocketError::Busy(path.to_owned()),
            _ => failed("binding", e),
        })?;
        Ok(VmSocket { path: path.to_owned(), identities, accounts: Accounts::new()?, listener })
    }

    /// What its VM uses and may use.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves the socket on a thread of its own, for ever.
    pub fn serve(self, config: Arc<Config>, pool: Arc<Pool>) -> io::Result<()> {
        self.accounts.set_memory(&self.identities);
        pool.registry().add(&self.accounts);
        std::thread::Builder::new().name("vm".into()).spawn(move || {
            let mut listener = Listener::from(self.listener);
            let name = self.path.display().to_string();
            loop {
                let memory = GuestMemoryAtomic::new(GuestMemoryMmap::<()>::new());
                let (config, pool) = (Arc::clone(&config), Arc::clone(&pool));
                let (identities, accounts) = (self.identities.clone(), Arc::clone(&self.accounts));
                let vm = Vm::new(name.clone(), identities, accounts, config, pool, memory.clone());
                if let Err(error) = serve_one(&vm, memory, &mut listener) {
                    tracing::error!(vm = name, "serving the socket: {error}");
                    // Out of descriptors, for example: not in a busy loop.
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        })?;
        Ok(())
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
