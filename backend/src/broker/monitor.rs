//! The broker's side of the monitor: one thread that keeps the process and asks it, never more often than [`FRESH`] for a device.
//!
//! SECURITY: the process loads the host's NVML and serves no guest, but what it says is checked as a worker's is.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vgpu_spec::wire::reading::Reading;
use zerocopy::IntoBytes;

use super::lock;
use super::process::{self, Spawned};
use crate::config::Config;
use crate::link::message::{Header, Read, kind};
use crate::link::{LinkError, Packet, wait_readable};
use crate::log::chain;

/// How old a reading may be.
const FRESH: Duration = Duration::from_millis(100);
/// For the process to load NVML, which may have to start the devices.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For the process to answer: it asks for some hundred figures, and NVML may have to wake a device up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guest's request waits for that; after it the last reading counts.
const PATIENCE: Duration = Duration::from_millis(400);
/// Before the process is started again after it failed.
const PAUSE: Duration = Duration::from_secs(10);

/// Why the process did not answer.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error(transparent)]
    Spawn(#[from] process::SpawnError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("waiting for the monitor")]
    Wait(#[source] std::io::Error),
    #[error("the monitor did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the monitor's answer is malformed")]
    Malformed,
    #[error("{0}")]
    NoLibrary(String),
}

type Uuid = [u8; 16];
/// The last reading of each device that was asked for, and when it was taken.
type Last = HashMap<Uuid, (Instant, Arc<Reading>)>;

struct Request {
    device: Uuid,
    wanted: Wanted,
}

enum Wanted {
    /// A reading that is not too old. Says when it is there.
    Reading(SyncSender<()>),
    /// The processes of this moment.
    Processes(SyncSender<Reading>),
}

/// The last reading of the device, unless it is too old.
fn fresh(readings: &Mutex<Last>, device: Uuid) -> Option<Arc<Reading>> {
    let readings = lock(readings);
    let (taken, reading) = readings.get(&device)?;
    (taken.elapsed() < FRESH).then(|| Arc::clone(reading))
}

/// Readings of the host's devices, for all VMs.
pub struct Monitor {
    requests: Sender<Request>,
    readings: Arc<Mutex<Last>>,
}

impl Monitor {
    /// Starts the thread, and in it the process.
    pub fn start(config: Config) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let readings = Arc::default();
        let runner = Runner {
            config,
            process: None,
            not_before: None,
            hopeless: false,
            readings: Arc::clone(&readings),
        };
        // The process dies with the thread that forked it (PR_SET_PDEATHSIG).
        std::thread::Builder::new().name("monitor".into()).spawn(move || runner.run(&receiver))?;
        Ok(Monitor { requests: sender, readings })
    }

    /// What the device does; `None` if the host does not tell.
    pub fn read(&self, device: Uuid) -> Option<Arc<Reading>> {
        if let Some(reading) = fresh(&self.readings, device) {
            return Some(reading);
        }
        let (done, wait) = sync_channel(1);
        if self.requests.send(Request { device, wanted: Wanted::Reading(done) }).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
        lock(&self.readings).get(&device).map(|(_, reading)| Arc::clone(reading))
    }

    /// As [`Self::read`], but nothing that was read before counts.
    pub fn read_now(&self, device: Uuid) -> Option<Arc<Reading>> {
        lock(&self.readings).remove(&device);
        self.read(device)
    }

    /// Which processes use the device at this moment: a reading without figures. `None` if the host does not tell.
    pub fn processes(&self, device: Uuid) -> Option<Reading> {
        let (done, wait) = sync_channel(1);
        self.requests.send(Request { device, wanted: Wanted::Processes(done) }).ok()?;
        wait.recv_timeout(PATIENCE).ok()
    }
}

struct Runner {
    config: Config,
    process: Option<Spawned>,
    not_before: Option<Instant>,
    /// The host has no NVML: nothing is tried again.
    hopeless: bool,
    readings: Arc<Mutex<Last>>,
}

impl Runner {
    fn run(mut self, requests: &Receiver<Request>) {
        // Ahead of the first request: loading NVML takes long.
        if let Err(error) = self.spawn() {
            self.failed(&error);
        }
        while let Ok(Request { device, wanted }) = requests.recv() {
            match wanted {
                Wanted::Reading(done) => {
                    self.read(device);
                    let _ = done.try_send(());
                }
                // If there are none to tell, the caller sees its channel end.
                Wanted::Processes(done) => {
                    if let Some(processes) = self.ask(kind::READ_PROCESSES, device) {
                        let _ = done.try_send(processes);
                    }
                }
            }
        }
    }

    fn read(&mut self, device: Uuid) {
        // Several may have waited for the same.
        if fresh(&self.readings, device).is_some() {
            return;
        }
        if let Some(reading) = self.ask(kind::READ, device) {
            lock(&self.readings).insert(device, (Instant::now(), Arc::new(reading)));
        }
    }

    /// Asks the process, which is started if there is none; `None` if it cannot tell.
    fn ask(&mut self, kind: u32, device: Uuid) -> Option<Reading> {
        if self.process.is_none() {
            if self.hopeless || self.not_before.is_some_and(|t| Instant::now() < t) {
                return None;
            }
            self.spawn().map_err(|error| self.failed(&error)).ok()?;
        }
        self.answer(kind, device).unwrap_or_else(|error| {
            self.failed(&error);
            None
        })
    }

    /// Starts the process and waits until it has loaded NVML.
    fn spawn(&mut self) -> Result<(), MonitorError> {
        let process = self.process.insert(process::spawn_monitor(&self.config)?);
        let packet = receive(process, START_TIMEOUT)?;
        match packet.header.kind {
            kind::READY => Ok(()),
            kind::FAILED => Err(MonitorError::NoLibrary(crate::log::printable(&packet.body))),
            _ => Err(MonitorError::Malformed),
        }
    }

    /// The process's answer; none for a device that the host's NVML does not know.
    fn answer(&self, kind: u32, device: Uuid) -> Result<Option<Reading>, MonitorError> {
        let Some(process) = &self.process else { return Ok(None) };
        let header = Header { kind, ..Header::default() };
        process.link.send_now(header, Read { uuid: device }.as_bytes(), &[])?;
        let packet = receive(process, ANSWER_TIMEOUT)?;
        match (packet.header.kind, packet.header.status) {
            (kind::REPLY, 0) => Reading::decode(&packet.body).map(Some).ok_or(MonitorError::Malformed),
            (kind::REPLY, _) => Ok(None),
            _ => Err(MonitorError::Malformed),
        }
    }

    /// Ends the process, to be started again later. What was read before is not the present any more.
    fn failed(&mut self, error: &MonitorError) {
        match error {
            MonitorError::NoLibrary(_) => {
                self.hopeless = true;
                tracing::debug!("{}", chain(error));
            }
            _ => tracing::warn!("asking the host's NVML: {}", chain(error)),
        }
        lock(&self.readings).clear();
        self.not_before = Some(Instant::now() + PAUSE);
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// The next packet of the process.
fn receive(process: &Spawned, timeout: Duration) -> Result<Packet, MonitorError> {
    match wait_readable(process.link.as_fd(), Some(timeout)).map_err(MonitorError::Wait)? {
        true => Ok(process.link.receive()?),
        false => Err(MonitorError::Timeout(timeout)),
    }
}
