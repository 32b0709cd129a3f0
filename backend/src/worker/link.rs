//! A worker's control thread: carries out what the broker asks.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use vgpu_spec::wire::{Range, split};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::account::Account;
use super::broker_link::Broker;
use super::executor::ClientState;
use super::lane::{Lane, LaneFds};
use super::ring::{LaneRing, RingError};
use super::windows::WindowError;
use crate::ledger::{Ledger, LedgerError};
use crate::link::message::{
    Assign, Extent, Header, LaneFds as LaneFdsMessage, LaneQueue, LaneStart, LaneStopped, WindowMap,
    WindowUnmap, kind, status,
};
use crate::link::{Link, LinkError, Packet};
use crate::log::{chain, printable};

/// For a lane's thread to finish the call that it is in. Less than the broker waits.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// A request that was not carried out.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("request {0} is malformed")]
    Malformed(u32),
    #[error("request {0} is not known")]
    Unknown(u32),
    #[error("this worker has no client yet")]
    NoClient,
    #[error("this worker has a client already")]
    Assigned,
    #[error("lane {0} is served already")]
    Running(u16),
    #[error("lane {0} is not served")]
    NotRunning(u16),
    #[error("lane {0} is stuck in a call")]
    Stuck(u16),
    #[error("starting a lane's thread")]
    Thread(#[source] std::io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Window(#[from] WindowError),
}

struct Control {
    client: Option<Arc<ClientState>>,
    lanes: HashMap<u16, Lane>,
    polling: Duration,
    broker: Arc<Broker>,
}

/// Serves the broker until it asks to exit or is gone.
pub fn serve(link: Link, polling: Duration) -> ExitCode {
    let link = Arc::new(link);
    let broker = Arc::new(Broker::new(Arc::clone(&link)));
    let mut control = Control { client: None, lanes: HashMap::new(), polling, broker };
    loop {
        let packet = match link.receive() {
            Ok(packet) if packet.header.kind == kind::EXIT => exit(),
            Ok(packet) if packet.header.kind == kind::REPLY => {
                control.broker.answered(packet);
                continue;
            }
            Ok(packet) => packet,
            Err(LinkError::Closed) => exit(),
            Err(error) => {
                tracing::error!("the link to the broker failed: {}", chain(&error));
                return ExitCode::FAILURE;
            }
        };
        let (request, seq) = (packet.header.kind, packet.header.seq);
        let (status, body) = match control.handle(packet) {
            Ok(body) => (0, body),
            Err(error) => {
                let text = chain(&error);
                tracing::warn!(request, "{text}");
                (status::FAILED, text.into_bytes())
            }
        };
        let header = Header { kind: kind::REPLY, seq, status, len: 0 };
        if let Err(error) = link.send(header, &body, &[]) {
            tracing::error!("answering the broker: {}", chain(&error));
            return ExitCode::FAILURE;
        }
    }
}

/// Ends the process without destructors: lanes may be in the middle of a call, and the kernel cleans up after the driver.
fn exit() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// A body that must be a `T` and nothing more.
fn exactly<T: FromBytes + KnownLayout + Immutable>(packet: &Packet) -> Result<T, RequestError> {
    T::read_from_bytes(&packet.body).map_err(|_| RequestError::Malformed(packet.header.kind))
}

impl Control {
    fn handle(&mut self, packet: Packet) -> Result<Vec<u8>, RequestError> {
        match packet.header.kind {
            kind::ASSIGN => self.assign(packet).map(|()| Vec::new()),
            kind::LANE_START => self.lane_start(packet).map(|()| Vec::new()),
            kind::LANE_STOP => self.lane_stop(&exactly(&packet)?),
            kind::LANE_FDS => self.lane_fds(packet).map(|()| Vec::new()),
            kind::WINDOW_MAP => self.window_map(&packet).map(|()| Vec::new()),
            kind::WINDOW_UNMAP => {
                let request: WindowUnmap = exactly(&packet)?;
                let window = Range { base: request.address, len: request.len };
                self.client()?.windows.unmap(window)?;
                Ok(Vec::new())
            }
            other => Err(RequestError::Unknown(other)),
        }
    }

    fn client(&self) -> Result<&Arc<ClientState>, RequestError> {
        self.client.as_ref().ok_or(RequestError::NoClient)
    }

    fn assign(&mut self, packet: Packet) -> Result<(), RequestError> {
        let request: Assign = exactly(&packet)?;
        if self.client.is_some() {
            return Err(RequestError::Assigned);
        }
        let malformed = || RequestError::Malformed(packet.header.kind);
        let mut fds = packet.fds.into_iter();
        let (file, bell) = fds.next().zip(fds.next()).ok_or_else(malformed)?;
        let account = Account::new(Ledger::open(&file)?, request.slot, bell, request.devices);
        let account = account.ok_or_else(malformed)?;
        let name = printable(&request.name);
        crate::log::set_prefix(format!("worker {} for {name}[{}]: ", std::process::id(), request.pid));
        tracing::debug!(client = request.client, uid = request.uid, "assigned");
        let broker = Arc::clone(&self.broker);
        self.client = Some(Arc::new(ClientState::new(name, request.pid, broker, account)));
        Ok(())
    }

    fn lane_start(&mut self, packet: Packet) -> Result<(), RequestError> {
        let request: LaneStart = exactly(&packet)?;
        let client = Arc::clone(self.client()?);
        let queue = request.queue;
        let mut fds = packet.fds.into_iter();
        let malformed = || RequestError::Malformed(packet.header.kind);
        let page = fds.next().ok_or_else(malformed)?;
        let eventfds = eventfds(fds, request.has_call != 0).ok_or_else(malformed)?;
        if self.lanes.get(&queue).is_some_and(Lane::is_running) {
            return Err(RequestError::Running(queue));
        }
        let ring = LaneRing::new(page, &request)?;
        match self.lanes.get_mut(&queue) {
            Some(lane) => lane.resume(ring, eventfds),
            None => {
                let lane =
                    Lane::start(client, queue, ring, eventfds, self.polling).map_err(RequestError::Thread)?;
                self.lanes.insert(queue, lane);
            }
        }
        Ok(())
    }

    fn running(&mut self, queue: u16) -> Result<&mut Lane, RequestError> {
        let lane = self.lanes.get_mut(&queue).filter(|lane| lane.is_running());
        lane.ok_or(RequestError::NotRunning(queue))
    }

    fn lane_stop(&mut self, request: &LaneQueue) -> Result<Vec<u8>, RequestError> {
        let next = self.running(request.queue)?.stop(STOP_TIMEOUT);
        let next = next.ok_or(RequestError::Stuck(request.queue))?;
        Ok(LaneStopped { next, reserved: [0; 3] }.as_bytes().to_vec())
    }

    fn lane_fds(&mut self, packet: Packet) -> Result<(), RequestError> {
        let request: LaneFdsMessage = exactly(&packet)?;
        let kind = packet.header.kind;
        let fds =
            eventfds(packet.fds.into_iter(), request.has_call != 0).ok_or(RequestError::Malformed(kind))?;
        self.running(request.queue)?.set_fds(fds);
        Ok(())
    }

    fn window_map(&mut self, packet: &Packet) -> Result<(), RequestError> {
        let malformed = || RequestError::Malformed(packet.header.kind);
        let (request, rest) = split::<WindowMap>(&packet.body).ok_or_else(malformed)?;
        if rest.len() != request.extents as usize * size_of::<Extent>() {
            return Err(malformed());
        }
        let extents: Vec<Extent> =
            rest.chunks_exact(size_of::<Extent>()).filter_map(|b| Extent::read_from_bytes(b).ok()).collect();
        let window = Range { base: request.address, len: request.len };
        self.client()?.windows.map(window, &extents, &packet.fds)?;
        Ok(())
    }
}

fn eventfds(mut fds: impl Iterator<Item = OwnedFd>, has_call: bool) -> Option<LaneFds> {
    let kick = fds.next()?;
    let call = if has_call { Some(fds.next()?) } else { None };
    Some(LaneFds { kick, call })
}
