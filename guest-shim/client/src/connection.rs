//! The agent's socket: handshake, and requests for lanes and windows.
//!
//! The connection is the client: when it ends, the agent takes everything back and the worker ends.

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use vgpu_spec::wire::control::{PciAddress, status};
use vgpu_spec::wire::reading::Reading;
use vgpu_spec::wire::share::Token;
use vgpu_spec::wire::snapshot::Snapshot;
use vgpu_spec::wire::socket::{self, HelloReply, LaneReply, ReplyHeader, Request, WindowReply, hello, kind};
use vgpu_spec::wire::{Range, SMALL_PAGE, VERSION, split};
use zerocopy::IntoBytes;

/// How long the agent may take to answer. Starting a worker is the longest thing that it does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that wait for the VM to be on its devices.
const NEED_DEVICES: [u32; 3] = [kind::WINDOW_ALLOC, kind::WINDOW_ADOPT, kind::WINDOW_FREE];
/// The most descriptors in a reply.
const MAX_FDS: usize = 3;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A client with a worker of its own.
    Full,
    /// Only the snapshot: no worker is taken.
    SnapshotOnly,
}

/// Why the agent could not be reached or did not do what was asked.
#[derive(Debug, Error)]
pub enum ConnectionError {
    #[error(
        "vgpu: no agent at {}: start vgpu-agent as root, or set {} to its socket",
        path.display(), socket::PATH_VARIABLE
    )]
    NoAgent { path: PathBuf, source: io::Error },
    #[error("vgpu: no permission for the agent's socket {}: add this user to the socket's group", path.display())]
    Permission { path: PathBuf, source: io::Error },
    #[error("vgpu: connecting to the agent at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error(
        "vgpu: the agent speaks protocol version {theirs}, this library {ours}: install the same release of both"
    )]
    Version { ours: u16, theirs: u16 },
    #[error("vgpu: asking the agent for {what}: {}", status::describe(*status))]
    Refused { what: &'static str, status: u32 },
    #[error("vgpu: asking the agent for {what}: it closed the connection")]
    Closed { what: &'static str },
    #[error("vgpu: asking the agent for {what}: no answer within {} s", PATIENCE.as_secs())]
    Timeout { what: &'static str },
    #[error("vgpu: asking the agent for {what}: its answer is malformed ({detail})")]
    Malformed { what: &'static str, detail: &'static str },
    #[error("vgpu: asking the agent for {what}")]
    Socket { what: &'static str, source: io::Error },
    #[error("vgpu: asking the agent for {what}: this process was forked from one that uses the GPU")]
    Forked { what: &'static str },
}

/// A lane as the agent lends it.
#[derive(Debug)]
pub struct LaneGrant {
    pub reply: LaneReply,
    /// 2 MiB at offset 0.
    pub page: OwnedFd,
    /// Wakes the worker.
    pub kick: OwnedFd,
    /// Signalled by the worker.
    pub completion: OwnedFd,
}

/// A window as the agent gives it, to be mapped.
#[derive(Debug)]
pub struct WindowGrant {
    /// The agent's number of it.
    pub window: u32,
    pub file: OwnedFd,
    /// Where in `file` the window starts.
    pub offset: u64,
}

/// A connection to the agent, after the handshake.
#[derive(Debug)]
pub struct Connection {
    /// The agent's number of this client; 0 for [`Mode::SnapshotOnly`].
    pub client: u32,
    /// The host's devices.
    pub snapshot: Snapshot,
    /// The address of the guest's device, if it is to be shown to programs (`present`).
    pub pci: PciAddress,
    /// Ranges in which the worker places device memory, to be kept free here. Without empty ones.
    pub device_ranges: Vec<Range>,
    /// The socket in `channel`, for looking at it without the lock.
    watched: RawFd,
    channel: Mutex<Channel>,
}

#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    /// A request failed half way: answers would no longer match.
    broken: bool,
}

struct Answer {
    status: u32,
    body: Vec<u8>,
    files: Vec<OwnedFd>,
}

/// Path of the agent's socket: from the environment, else the default.
pub fn socket_path() -> PathBuf {
    match std::env::var_os(socket::PATH_VARIABLE) {
        Some(path) if !path.is_empty() => path.into(),
        _ => socket::DEFAULT_PATH.into(),
    }
}

impl Connection {
    /// Connects to the agent at [`socket_path`].
    pub fn open(mode: Mode) -> Result<Self, ConnectionError> {
        Self::open_at(&socket_path(), mode)
    }

    /// Connects to the agent at `path`.
    pub fn open_at(path: &Path, mode: Mode) -> Result<Self, ConnectionError> {
        let what = "a connection";
        if mode == Mode::Full {
            if crate::fork::forked() {
                return Err(ConnectionError::Forked { what });
            }
            crate::fork::install();
        }
        let mut channel = Channel { socket: connect(path)?, broken: false };
        let flags = if mode == Mode::SnapshotOnly { hello::SNAPSHOT_ONLY } else { 0 };
        let hello = Request { kind: kind::HELLO, arg2: 0, arg0: flags, arg1: u64::from(VERSION) };
        let answer = channel.request(what, hello, None)?.accept(what, 0)?;
        let malformed = |detail| ConnectionError::Malformed { what, detail };
        let (reply, snapshot) = split::<HelloReply>(&answer.body).ok_or(malformed("too short"))?;
        if reply.version != VERSION {
            return Err(ConnectionError::Version { ours: VERSION, theirs: reply.version });
        }
        let snapshot = Snapshot::decode(snapshot).ok_or(malformed("the snapshot"))?;
        if mode == Mode::Full {
            crate::fork::remember_socket(&channel.socket);
        }
        crate::info!(
            "connected to {} as client {}: {} device(s), driver {}",
            path.display(),
            reply.client,
            snapshot.devices.len(),
            snapshot.header.driver_version
        );
        Ok(Connection {
            client: reply.client,
            snapshot,
            pci: reply.pci,
            device_ranges: reply.device_ranges.into_iter().filter(|range| range.len != 0).collect(),
            watched: channel.socket.as_raw_fd(),
            channel: Mutex::new(channel),
        })
    }

    /// The agent's socket, for waiting on its end together with something else (`POLLHUP`).
    pub fn watch(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket lives in `channel` as long as this value.
        unsafe { BorrowedFd::borrow_raw(self.watched) }
    }

    /// Asks for a lane. [`ConnectionError::Refused`] with [`status::LIMIT`] when they have run out.
    pub fn lane(&self) -> Result<LaneGrant, ConnectionError> {
        let what = "a lane";
        let answer = self.request(what, kind::LANE, 0, 0)?.accept(what, 3)?;
        let (reply, _) = split::<LaneReply>(&answer.body)
            .ok_or(ConnectionError::Malformed { what, detail: "too short" })?;
        let [page, kick, completion] = <[OwnedFd; 3]>::try_from(answer.files)
            .map_err(|_| ConnectionError::Malformed { what, detail: "the count of descriptors" })?;
        Ok(LaneGrant { reply, page, kick, completion })
    }

    /// Asks for a window of `len` bytes (a multiple of 2 MiB) that will be mapped at `address`.
    pub fn window_alloc(&self, len: u64, address: u64) -> Result<WindowGrant, ConnectionError> {
        let what = "a window";
        let answer = self.request(what, kind::WINDOW_ALLOC, len, address)?.accept(what, 1)?;
        let (reply, _) = split::<WindowReply>(&answer.body)
            .ok_or(ConnectionError::Malformed { what, detail: "too short" })?;
        let [file] = <[OwnedFd; 1]>::try_from(answer.files)
            .map_err(|_| ConnectionError::Malformed { what, detail: "the count of descriptors" })?;
        Ok(WindowGrant { window: reply.window, file, offset: reply.offset })
    }

    /// Makes a window of `len` bytes of `file` from `offset` on, which are mapped at `address` already.
    pub fn window_adopt(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        len: u64,
        address: u64,
    ) -> Result<u32, ConnectionError> {
        let what = "a window of shared memory";
        let page = u32::try_from(offset / SMALL_PAGE)
            .map_err(|_| ConnectionError::Refused { what, status: status::LIMIT })?;
        let request = Request { kind: kind::WINDOW_ADOPT, arg2: page, arg0: len, arg1: address };
        let answer = self.request_with(what, request, Some(file))?.accept(what, 0)?;
        let (reply, _) = split::<WindowReply>(&answer.body)
            .ok_or(ConnectionError::Malformed { what, detail: "too short" })?;
        Ok(reply.window)
    }

    /// Gives a window back, after it was unmapped.
    pub fn window_free(&self, window: u32) -> Result<(), ConnectionError> {
        let what = "taking back a window";
        self.request(what, kind::WINDOW_FREE, u64::from(window), 0)?.accept(what, 0).map(drop)
    }

    /// A descriptor for a file that this client's worker has exported, which other processes may have.
    pub fn share_fd(&self, token: Token) -> Result<OwnedFd, ConnectionError> {
        let what = "a descriptor of an exported file";
        let answer = self.request(what, kind::SHARE_FD, token.low, token.high)?.accept(what, 1)?;
        let mut files = answer.files.into_iter();
        files.next().ok_or(ConnectionError::Malformed { what, detail: "the count of descriptors" })
    }

    /// What device `device` of the snapshot does at the moment.
    pub fn reading(&self, device: u32) -> Result<Reading, ConnectionError> {
        let what = "what a device does";
        let answer = self.request(what, kind::READING, u64::from(device), 0)?.accept(what, 0)?;
        Reading::decode(&answer.body).ok_or(ConnectionError::Malformed { what, detail: "the reading" })
    }

    fn request(
        &self,
        what: &'static str,
        kind: u32,
        arg0: u64,
        arg1: u64,
    ) -> Result<Answer, ConnectionError> {
        self.request_with(what, Request { kind, arg2: 0, arg0, arg1 }, None)
    }

    fn request_with(
        &self,
        what: &'static str,
        request: Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ConnectionError> {
        if crate::fork::forked() {
            return Err(ConnectionError::Forked { what });
        }
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).request(what, request, file)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let channel = self.channel.get_mut().unwrap_or_else(PoisonError::into_inner);
        crate::fork::forget_socket(&channel.socket);
    }
}

fn connect(path: &Path) -> Result<OwnedFd, ConnectionError> {
    let error = |source: rustix::io::Errno| {
        let (path, error) = (path.to_path_buf(), io::Error::from(source));
        match source {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::CONNREFUSED => {
                ConnectionError::NoAgent { path, source: error }
            }
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => {
                ConnectionError::Permission { path, source: error }
            }
            _ => ConnectionError::Connect { path, source: error },
        }
    };
    let address = SocketAddrUnix::new(path).map_err(error)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(error)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(error)?;
    for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(&socket, direction, Some(PATIENCE)).map_err(error)?;
    }
    Ok(socket)
}

impl Channel {
    fn request(
        &mut self,
        what: &'static str,
        request: Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ConnectionError> {
        if self.broken {
            return Err(ConnectionError::Closed { what });
        }
        let answer = self.exchange(what, request, file);
        self.broken = answer.is_err();
        answer
    }

    fn exchange(
        &self,
        what: &'static str,
        request: Request,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Answer, ConnectionError> {
        let failed = |error: rustix::io::Errno| match error {
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => ConnectionError::Closed { what },
            rustix::io::Errno::AGAIN => ConnectionError::Timeout { what },
            _ => ConnectionError::Socket { what, source: error.into() },
        };
        rustix::io::retry_on_intr(|| send(&self.socket, &request, file)).map_err(failed)?;
        let mut body = vec![0; socket::MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut parts = [IoSliceMut::new(&mut body)];
            match rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // The host may have moved the VM off its devices for as long as it likes. An agent that ends closes the connection.
                Err(rustix::io::Errno::AGAIN) if NEED_DEVICES.contains(&request.kind) => {}
                done => break done.map_err(failed)?,
            }
        };
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
        if message.bytes == 0 {
            return Err(ConnectionError::Closed { what });
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ConnectionError::Malformed { what, detail: "too long" });
        }
        body.truncate(message.bytes);
        let malformed = ConnectionError::Malformed { what, detail: "its length" };
        match split::<ReplyHeader>(&body) {
            Some((header, rest)) if rest.len() == header.len as usize => {
                Ok(Answer { status: header.status, body: rest.to_vec(), files })
            }
            _ => Err(malformed),
        }
    }
}

fn send(socket: &OwnedFd, request: &Request, file: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = file.as_slice();
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(rustix::io::Errno::INVAL);
    }
    let parts = [IoSlice::new(request.as_bytes())];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}

impl Answer {
    /// The answer, if the agent did what was asked and sent `files` descriptors.
    fn accept(self, what: &'static str, files: usize) -> Result<Self, ConnectionError> {
        if self.status != status::OK {
            return Err(ConnectionError::Refused { what, status: self.status });
        }
        if self.files.len() != files {
            return Err(ConnectionError::Malformed { what, detail: "the count of descriptors" });
        }
        Ok(self)
    }
}
