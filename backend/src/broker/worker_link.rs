//! A worker as the broker sees it: a process, and a link to it.
//!
//! SECURITY: a worker counts as the guest's. Whatever it sends is bounded, checked, and can at most fail the request
//! of its own client; a worker that breaks the protocol is killed.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vgpu_spec::wire::Range;
use vgpu_spec::wire::snapshot::Snapshot;
use vgpu_spec::wire::split;

use super::lock;
use super::process::Spawned;
use super::sharing::Asked;
use crate::link::message::{Header, Ready, kind, status};
use crate::link::{Link, LinkError, Packet, wait_readable};

/// How long a worker may take to load CUDA and make its context.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a killed process may take until it can be reaped; its GPU context is torn down meanwhile.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(20);

/// A failed request to a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the worker is gone")]
    Gone,
    #[error("the worker did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the worker refused with status {status}: {text}")]
    Refused { status: u32, text: String },
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A worker that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The worker's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the worker was not ready within {START_TIMEOUT:?}")]
    Timeout,
    #[error("the worker ended before it was ready ({0})")]
    Ended(String),
    #[error("the worker's first message is malformed")]
    Malformed,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit {
    /// The signal that killed it, or 0.
    pub signal: u32,
    /// Its exit code if no signal killed it.
    pub code: u32,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.signal {
            0 => write!(f, "exit code {}", self.code),
            signal => write!(f, "signal {signal}"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let word = |value: Option<i32>| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(0);
        Exit { signal: word(status.signal()), code: word(status.code()) }
    }
}

type OnExit = Box<dyn FnOnce(Exit) + Send>;
type OnRequest = Box<dyn Fn(u32, Packet) -> Asked + Send + Sync>;

/// A started worker. One thread of the broker watches it ([`Worker::watch`]).
pub struct Worker {
    pub pid: u32,
    pub device_ranges: [Range; 4],
    link: Link,
    pidfd: OwnedFd,
    next_seq: AtomicU32,
    waiting: Mutex<HashMap<u32, SyncSender<Packet>>>,
    life: Mutex<Life>,
    ended: Condvar,
    /// Answers what the worker asks, once it has a client.
    on_request: OnceLock<OnRequest>,
}

#[derive(Default)]
struct Life {
    exit: Option<Exit>,
    on_exit: Option<OnExit>,
}

impl Worker {
    /// Waits until a spawned worker is ready; on failure it is killed and reaped.
    pub fn start(spawned: Spawned) -> Result<(Worker, Child, Snapshot), StartError> {
        let Spawned { mut child, pidfd, link } = spawned;
        match first_message(&link) {
            Ok((ready, snapshot)) => {
                let worker = Worker {
                    pid: child.id(),
                    device_ranges: ready.device_ranges,
                    link,
                    pidfd,
                    next_seq: AtomicU32::new(1),
                    waiting: Mutex::default(),
                    life: Mutex::default(),
                    ended: Condvar::new(),
                    on_request: OnceLock::new(),
                };
                Ok((worker, child, snapshot))
            }
            Err(error) => {
                if !matches!(error, StartError::Ended(_)) {
                    let _ = child.kill();
                }
                match (error, child.wait()) {
                    (StartError::Ended(_), Ok(status)) => {
                        Err(StartError::Ended(Exit::from(status).to_string()))
                    }
                    (error, _) => Err(error),
                }
            }
        }
    }

    /// Receives replies until the worker is gone, then reaps it and says so.
    pub fn watch(&self, mut child: Child) {
        loop {
            match self.link.receive() {
                Ok(packet) if packet.header.kind == kind::REPLY => {
                    let waiter = lock(&self.waiting).remove(&packet.header.seq);
                    if let Some(waiter) = waiter {
                        let _ = waiter.try_send(packet);
                    }
                    // SECURITY: answers that nobody waits for (late or made up) are dropped.
                }
                Ok(packet) => {
                    let kind = packet.header.kind;
                    if !self.answer(packet) {
                        tracing::error!(pid = self.pid, kind, "worker broke the protocol: killed");
                        self.kill();
                        break;
                    }
                }
                Err(LinkError::Closed) => break,
                Err(error) => {
                    tracing::error!(pid = self.pid, "worker's link failed: {}", crate::log::chain(&error));
                    self.kill();
                    break;
                }
            }
        }
        // A worker without a link is of no use; a normal one is exiting already and wins this race harmlessly.
        if !wait_readable(self.pidfd.as_fd(), Some(Duration::from_millis(500))).unwrap_or(false) {
            self.kill();
        }
        let exit = match child.wait() {
            Ok(status) => Exit::from(status),
            Err(_) => Exit { signal: 0, code: 255 },
        };
        let on_exit = {
            let mut life = lock(&self.life);
            life.exit = Some(exit);
            life.on_exit.take()
        };
        // Nobody gets an answer any more.
        lock(&self.waiting).clear();
        self.ended.notify_all();
        if let Some(on_exit) = on_exit {
            on_exit(exit);
        }
    }

    /// Answers a request of the worker's; false if it broke the protocol.
    fn answer(&self, packet: Packet) -> bool {
        let Some(on_request) = self.on_request.get() else { return false };
        let seq = packet.header.seq;
        match on_request(self.pid, packet) {
            Asked::Broken => false,
            Asked::Nothing => true,
            Asked::Answer(answer) => {
                let header = Header { kind: kind::REPLY, seq, status: answer.status, len: 0 };
                // SECURITY: a worker that asks without reading answers must not make the broker wait.
                self.link.send_now(header, &answer.body, &answer.fds()).is_ok()
            }
        }
    }

    /// Answers a request that could not be answered at once.
    pub fn reply(&self, seq: u32, status: u32) {
        let header = Header { kind: kind::REPLY, seq, status, len: 0 };
        if self.link.send_now(header, &[], &[]).is_err() {
            // SECURITY: as above; one that does not read its answers cannot go on.
            self.kill();
        }
    }

    /// Has `f` answer what the worker asks. Only the first caller's counts.
    pub fn on_request(&self, f: impl Fn(u32, Packet) -> Asked + Send + Sync + 'static) {
        let _ = self.on_request.set(Box::new(f));
    }

    /// Calls `f` when the worker has ended (at once if it has).
    pub fn on_exit(&self, f: impl FnOnce(Exit) + Send + 'static) {
        let mut life = lock(&self.life);
        match life.exit {
            Some(exit) => {
                drop(life);
                f(exit);
            }
            None => life.on_exit = Some(Box::new(f)),
        }
    }

    pub fn is_alive(&self) -> bool {
        lock(&self.life).exit.is_none()
    }

    /// Sends a request and waits for its answer's body, for `timeout` at most. A worker that does not answer is killed.
    pub fn request(
        &self,
        kind: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Vec<u8>, WorkerError> {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        {
            let life = lock(&self.life);
            if life.exit.is_some() {
                return Err(WorkerError::Gone);
            }
            lock(&self.waiting).insert(seq, sender);
        }
        if let Err(error) = self.link.send(Header { kind, seq, ..Header::default() }, body, fds) {
            lock(&self.waiting).remove(&seq);
            return Err(error.into());
        }
        match receiver.recv_timeout(timeout) {
            Ok(packet) if packet.header.status == 0 => Ok(packet.body),
            Ok(packet) => {
                let text = match packet.header.status {
                    status::FAILED => crate::log::printable(&packet.body),
                    _ => String::from("a CUresult"),
                };
                Err(WorkerError::Refused { status: packet.header.status, text })
            }
            Err(RecvTimeoutError::Disconnected) => Err(WorkerError::Gone),
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.waiting).remove(&seq);
                self.kill();
                Err(WorkerError::Timeout(timeout))
            }
        }
    }

    /// SIGKILL. Goes by pidfd, so it cannot hit another process.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Asks the worker to exit; one that cannot be asked is killed.
    pub fn ask_to_exit(&self) {
        if self.link.send(Header { kind: kind::EXIT, ..Header::default() }, &[], &[]).is_err() {
            self.kill();
        }
    }

    /// Kills the worker and waits until it is reaped. False if it still is not.
    pub fn end(&self) -> bool {
        self.kill();
        self.wait_ended(REAP_TIMEOUT)
    }

    /// Whether the worker is reaped within `timeout`.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut life = lock(&self.life);
        while life.exit.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            life = match self.ended.wait_timeout(life, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// A worker's first message: that it is ready, and what devices it saw.
pub fn first_message(link: &Link) -> Result<(Ready, Snapshot), StartError> {
    match wait_readable(link.as_fd(), Some(START_TIMEOUT)) {
        Ok(true) => {}
        Ok(false) => return Err(StartError::Timeout),
        Err(error) => return Err(StartError::Ended(error.to_string())),
    }
    let packet = match link.receive() {
        Ok(packet) => packet,
        Err(LinkError::Malformed) => return Err(StartError::Malformed),
        Err(error) => return Err(StartError::Ended(crate::log::chain(&error))),
    };
    match packet.header.kind {
        kind::READY => {
            let (ready, rest) = split::<Ready>(&packet.body).ok_or(StartError::Malformed)?;
            let snapshot = Snapshot::decode(rest).ok_or(StartError::Malformed)?;
            Ok((ready, snapshot))
        }
        kind::FAILED => Err(StartError::Refused(String::from_utf8_lossy(&packet.body).into_owned())),
        _ => Err(StartError::Malformed),
    }
}
