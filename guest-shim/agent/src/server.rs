//! The unix socket that shims connect to: one thread per shim.

use crate::client::packet::{self, Refusal};
use crate::client::peer::Peer;
use crate::client::session::Session;
use crate::service::Service;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections at once, those that only want the snapshot included.
const MAX_CONNECTIONS: usize = 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("opening the socket {}: another vgpu-agent serves it; stop that one or choose another --socket", .0.display())]
    Served(PathBuf),
    #[error("opening the socket {}: there is a file of that name which is no socket", .0.display())]
    NotASocket(PathBuf),
    #[error("opening the socket {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Fails if something serves `path` already; removes what a dead agent left there.
pub fn check_path(path: &Path) -> Result<(), ServerError> {
    let failed = |source: io::Error| ServerError::Open { path: path.into(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ServerError::NotASocket(path.into())),
        Ok(_) => {}
    }
    let socket = new_socket().map_err(failed)?;
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    match rustix::net::connect(&socket, &address) {
        // A socket of another type is served too, by somebody else.
        Ok(()) | Err(rustix::io::Errno::PROTOTYPE) => Err(ServerError::Served(path.into())),
        Err(rustix::io::Errno::CONNREFUSED) => {
            tracing::info!("removing the socket {} that nobody serves", path.display());
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sessions that run, by a number of the server's own, with a descriptor to end each.
#[derive(Debug, Default)]
struct Sessions {
    sockets: Mutex<HashMap<u64, Arc<OwnedFd>>>,
    ended: Condvar,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<OwnedFd>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: Arc<OwnedFd>,
    sessions: Arc<Sessions>,
}

impl Server {
    /// Listens at `path` with permissions `mode`. Call [`check_path`] before.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, ServerError> {
        let failed = |source: io::Error| ServerError::Open { path: path.into(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let listener = new_socket().map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
        rustix::net::bind(&listener, &address).map_err(|e| failed(e.into()))?;
        let server = Self { path: path.into(), listener: Arc::new(listener), sessions: Arc::default() };
        // Before it listens: nobody connects with other permissions.
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        rustix::net::listen(&server.listener, BACKLOG).map_err(|e| failed(e.into()))?;
        Ok(server)
    }

    /// Accepts shims in a thread of its own.
    pub fn start(&self, service: Arc<Service>) -> io::Result<()> {
        let (listener, sessions) = (self.listener.clone(), self.sessions.clone());
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&listener, &sessions, &service))?;
        Ok(())
    }

    /// Ends all sessions and waits for their clean-up, at most `limit`. Returns how many are left.
    pub fn stop(&self, limit: Duration) -> usize {
        // Wakes the accepting thread too.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        let sockets = self.sessions.lock();
        for socket in sockets.values() {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
        let wait = self.sessions.ended.wait_timeout_while(sockets, limit, |sockets| !sockets.is_empty());
        let (sockets, _) = wait.unwrap_or_else(PoisonError::into_inner);
        sockets.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("removing {}: {error}", self.path.display());
        }
    }
}

fn accept(listener: &OwnedFd, sessions: &Arc<Sessions>, service: &Arc<Service>) {
    for number in 0_u64.. {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => spawn(number, socket, sessions, service),
            // The listener was shut down.
            Err(rustix::io::Errno::INVAL) => return,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => {
                // Out of descriptors or memory: that may pass.
                tracing::warn!("accepting a shim: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn spawn(number: u64, socket: OwnedFd, sessions: &Arc<Sessions>, service: &Arc<Service>) {
    let socket = Arc::new(socket);
    {
        let mut sockets = sessions.lock();
        if sockets.len() >= MAX_CONNECTIONS {
            tracing::warn!("refusing a shim: {MAX_CONNECTIONS} are connected");
            return;
        }
        sockets.insert(number, socket.clone());
    }
    let (all, service) = (sessions.clone(), service.clone());
    let thread = std::thread::Builder::new().name(format!("shim {number}")).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(&socket, &service)));
        if result.is_err() {
            tracing::error!("serving a shim ended by a defect of this agent, see above");
        }
        all.lock().remove(&number);
        all.ended.notify_all();
    });
    if let Err(error) = thread {
        tracing::warn!("refusing a shim: starting a thread: {error}");
        sessions.lock().remove(&number);
    }
}

/// Serves a shim until it goes.
fn serve(socket: &OwnedFd, service: &Arc<Service>) {
    let peer = match Peer::of(socket) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!("refusing a shim: asking the kernel who it is: {error}");
            return;
        }
    };
    tracing::debug!("{peer}: connected");
    let mut session = Session::new(service.clone(), peer);
    if let Err(error) = answer_all(socket, &mut session) {
        tracing::debug!("{}: {error}", session.peer());
    }
}

fn answer_all(socket: &OwnedFd, session: &mut Session) -> io::Result<()> {
    // One byte more than a request has, so that a longer packet is seen as such.
    let mut buffer = [0_u8; size_of::<vgpu_spec::wire::socket::Request>() + 1];
    loop {
        if !wait_for_packet(socket, session.peer())? {
            return Ok(());
        }
        let (len, file) = receive(socket, &mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let mut sent = Ok(());
        let packet = buffer.get(..len.min(buffer.len())).unwrap_or_default();
        let handled = packet::parse(packet).and_then(|request| {
            session.handle(request, file, |reply| {
                sent = packet::send(socket, &packet::encode(Ok(&reply.body)), &reply.fds);
            })
        });
        sent?;
        if let Err(refusal) = handled {
            refuse(socket, session.peer(), &refusal)?;
            if refusal.last {
                return Ok(());
            }
        }
    }
}

/// A packet's length, and its descriptor. The kernel closes those for which there is no room.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    // All are taken out, so that those that are not wanted are closed.
    let file = files.flatten().collect::<Vec<_>>().into_iter().next();
    Ok((message.bytes, file))
}

fn refuse(socket: &OwnedFd, peer: &Peer, refusal: &Refusal) -> io::Result<()> {
    tracing::warn!("{peer}: refused: {refusal}");
    packet::send(socket, &packet::encode(Err(refusal.status)), &[])
}

/// Waits for a packet or the end of the connection; false if the process is gone, though a child of it may hold the socket.
fn wait_for_packet(socket: &OwnedFd, peer: &Peer) -> io::Result<bool> {
    let Some(process) = &peer.process else { return Ok(true) };
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("vgpu-agent-test-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_live_socket_is_told_from_a_stale_one() {
        let path = path("live");
        assert!(check_path(&path).is_ok(), "nothing is there");
        let server = Server::bind(&path, 0o600).unwrap();
        assert!(matches!(check_path(&path), Err(ServerError::Served(_))));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(server);
        assert!(!path.exists());

        let socket = new_socket().unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(socket);
        assert!(path.exists());
        assert!(check_path(&path).is_ok());
        assert!(!path.exists(), "the stale socket is removed");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let path = path("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(check_path(&path), Err(ServerError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }
}
