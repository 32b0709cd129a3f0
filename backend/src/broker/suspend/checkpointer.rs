//! The broker's side of the checkpointer: starts the process when it is needed, and asks it, never for longer than is bounded.

use std::os::fd::AsFd;
use std::time::Duration;

use zerocopy::IntoBytes;

use crate::broker::process::{self, SpawnError, Spawned};
use crate::broker::worker_link::Worker;
use crate::config::Config;
use crate::link::message::{Checkpoint, Header, kind, status};
use crate::link::{LinkError, Packet, wait_readable};
use crate::log::printable;

/// For the process to load the driver.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For what a worker has under way to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// For the driver beyond that, and for what is quick.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// To copy a worker's memory: 80 GiB took 100 s at worst.
const COPY_TIMEOUT: Duration = Duration::from_secs(300);

/// CUresults.
const OUT_OF_MEMORY: u32 = 2;
const NOT_READY: u32 = 600;

/// Why a worker was not moved.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The driver's own words, or the loader's.
    #[error("{0}")]
    NoDriver(String),
    #[error("starting the checkpointer")]
    Spawn(#[from] SpawnError),
    #[error("asking the checkpointer")]
    Link(#[from] LinkError),
    #[error("waiting for the checkpointer")]
    Wait(#[source] std::io::Error),
    #[error("the checkpointer did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the checkpointer's answer is malformed")]
    Malformed,
    #[error("{what} worker {pid}: {text}")]
    Refused { what: &'static str, pid: u32, code: u32, text: String },
}

impl CheckpointError {
    /// The driver had no room on a device.
    pub fn is_full(&self) -> bool {
        matches!(self, CheckpointError::Refused { code: OUT_OF_MEMORY, .. })
    }
}

/// Where the driver says that a process is: `CUprocessState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    Running,
    Locked,
    Checkpointed,
    Failed,
}

/// The process, if it runs. To be used on a thread that lives as long as the broker.
pub struct Checkpointer {
    config: Config,
    process: Option<Spawned>,
    /// The driver cannot do it: not tried again.
    hopeless: Option<String>,
}

impl Checkpointer {
    pub fn new(config: Config) -> Self {
        Checkpointer { config, process: None, hopeless: None }
    }

    /// Starts the process if it does not run.
    pub fn start(&mut self) -> Result<(), CheckpointError> {
        if let Some(why) = &self.hopeless {
            return Err(CheckpointError::NoDriver(why.clone()));
        }
        if self.process.is_some() {
            return Ok(());
        }
        let spawned = process::spawn_checkpointer(&self.config)?;
        let process = self.process.insert(spawned);
        let first = receive(process, START_TIMEOUT);
        match first {
            Ok(packet) if packet.header.kind == kind::READY => Ok(()),
            Ok(packet) if packet.header.kind == kind::FAILED => {
                self.end();
                let why = String::from_utf8_lossy(&packet.body).into_owned();
                self.hopeless = Some(why.clone());
                Err(CheckpointError::NoDriver(why))
            }
            other => Err(self.broken(other)),
        }
    }

    /// Ends a process that answered with something else, or not at all.
    fn broken(&mut self, answer: Result<Packet, CheckpointError>) -> CheckpointError {
        self.end();
        answer.err().unwrap_or(CheckpointError::Malformed)
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }

    fn ask(
        &mut self,
        kind: u32,
        what: &'static str,
        worker: &Worker,
        timeout: Duration,
    ) -> Result<Vec<u8>, CheckpointError> {
        self.start()?;
        let Some(process) = &self.process else { return Err(CheckpointError::Malformed) };
        let timeout_ms = u32::try_from(LOCK_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let body = Checkpoint { pid: worker.pid, timeout_ms };
        let header = Header { kind, ..Header::default() };
        let sent = process.link.send_now(header, body.as_bytes(), &[]).map_err(CheckpointError::from);
        match sent.and_then(|()| receive(process, timeout)) {
            Ok(packet) if packet.header.kind == kind::REPLY => match packet.header.status {
                0 => Ok(packet.body),
                code => {
                    let text = match code {
                        NOT_READY => format!("its work does not end within {LOCK_TIMEOUT:?}"),
                        status::FAILED => printable(&packet.body),
                        code => format!("{} ({code})", printable(&packet.body)),
                    };
                    Err(CheckpointError::Refused { what, pid: worker.pid, code, text })
                }
            },
            // It is in the middle of something: another one looks what became of it.
            other => Err(self.broken(other)),
        }
    }

    pub fn lock(&mut self, worker: &Worker) -> Result<(), CheckpointError> {
        self.ask(kind::CHECKPOINT_LOCK, "locking", worker, LOCK_TIMEOUT + ANSWER_TIMEOUT).map(drop)
    }

    pub fn save(&mut self, worker: &Worker) -> Result<(), CheckpointError> {
        self.ask(kind::CHECKPOINT_SAVE, "saving", worker, COPY_TIMEOUT).map(drop)
    }

    pub fn restore(&mut self, worker: &Worker) -> Result<(), CheckpointError> {
        self.ask(kind::CHECKPOINT_RESTORE, "restoring", worker, COPY_TIMEOUT).map(drop)
    }

    pub fn unlock(&mut self, worker: &Worker) -> Result<(), CheckpointError> {
        self.ask(kind::CHECKPOINT_UNLOCK, "unlocking", worker, ANSWER_TIMEOUT).map(drop)
    }

    pub fn state(&mut self, worker: &Worker) -> Result<DriverState, CheckpointError> {
        let body = self.ask(kind::CHECKPOINT_STATE, "looking at", worker, ANSWER_TIMEOUT)?;
        let word = <[u8; 4]>::try_from(body.as_slice()).map_err(|_| CheckpointError::Malformed)?;
        match u32::from_le_bytes(word) {
            0 => Ok(DriverState::Running),
            1 => Ok(DriverState::Locked),
            2 => Ok(DriverState::Checkpointed),
            3 => Ok(DriverState::Failed),
            _ => Err(CheckpointError::Malformed),
        }
    }
}

/// The next packet of the process.
fn receive(process: &Spawned, timeout: Duration) -> Result<Packet, CheckpointError> {
    match wait_readable(process.link.as_fd(), Some(timeout)).map_err(CheckpointError::Wait)? {
        true => Ok(process.link.receive()?),
        false => Err(CheckpointError::Timeout(timeout)),
    }
}
