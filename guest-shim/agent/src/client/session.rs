//! One shim: what it may ask, what it holds, and how that is taken back.

use super::packet::{Refusal, Reply, Request};
use super::peer::Peer;
use super::windows::{Window, WindowError, Windows};
use crate::carrier::{Block, ClientMemory, MemoryError};
use crate::control::ControlError;
use crate::lanes::LaneError;
use crate::service::Service;
use crate::shares::{self, Shares};
use crate::wait::borrow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use vgpu_spec::wire::control::{ClientOpen, ClientOpenReply, status};
use vgpu_spec::wire::share::Token;
use vgpu_spec::wire::{HUGE_PAGE, Range, VERSION, socket as wire};
use zerocopy::IntoBytes;

/// The most lanes of a client; its threads share them when there are more.
const MAX_LANES: usize = 64;

/// A client that the broker knows.
#[derive(Debug)]
struct Client {
    number: u32,
    memory: Box<dyn ClientMemory>,
    windows: Windows,
    lanes: Vec<u16>,
}

#[derive(Debug)]
enum State {
    /// Before HELLO.
    New,
    SnapshotOnly,
    Open(Client),
}

/// A shim's connection.
#[derive(Debug)]
pub struct Session {
    service: Arc<Service>,
    peer: Peer,
    state: State,
}

impl Session {
    pub fn new(service: Arc<Service>, peer: Peer) -> Self {
        Self { service, peer, state: State::New }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Answers a request, which came with `file` if with any descriptor.
    pub fn handle(
        &mut self,
        request: Request,
        file: Option<OwnedFd>,
        answer: impl FnOnce(Reply<'_>),
    ) -> Result<(), Refusal> {
        match request {
            Request::Hello { snapshot_only, version } => answer(self.hello(snapshot_only, version)?),
            Request::Lane => {
                let service = self.service.clone();
                answer(self.lane(&service)?);
            }
            Request::WindowAlloc { len, address } => {
                let (body, file) = self.window_alloc(len, address)?;
                answer(Reply { body: body.as_bytes().to_vec(), fds: vec![file.as_fd()] });
            }
            Request::WindowAdopt { len, address, offset } => {
                let file = file.ok_or_else(|| Refusal::invalid("no descriptor of the file to adopt"))?;
                let body = self.window_adopt(file, Range { base: address, len }, offset)?;
                answer(Reply { body: body.as_bytes().to_vec(), fds: Vec::new() });
            }
            Request::ShareFd { token } => {
                let file = self.share_fd(token)?;
                answer(Reply { body: Vec::new(), fds: vec![file.as_fd()] });
            }
            Request::Reading { device } => answer(self.reading(device)?),
            Request::WindowFree { window } => {
                self.window_free(window)?;
                answer(Reply::default());
            }
        }
        Ok(())
    }

    fn hello(&mut self, snapshot_only: bool, version: u64) -> Result<Reply<'static>, Refusal> {
        if !matches!(self.state, State::New) {
            return Err(Refusal::invalid("a second HELLO"));
        }
        if version != u64::from(VERSION) {
            let why = format!(
                "the shim speaks protocol {version}, this agent {VERSION}; update the older of the two"
            );
            return Err(Refusal::new(status::UNSUPPORTED, why));
        }
        let (client, device_ranges) = if snapshot_only {
            self.state = State::SnapshotOnly;
            (0, [Range::default(); 4])
        } else {
            let (client, reply) = self.open()?;
            let number = client.number;
            self.state = State::Open(client);
            (number, reply.device_ranges)
        };
        let pci = self.service.carrier().pci_address();
        let head = wire::HelloReply { version: VERSION, reserved: 0, client, pci, device_ranges };
        let mut body = head.as_bytes().to_vec();
        body.extend_from_slice(self.service.snapshot());
        Ok(Reply { body, fds: Vec::new() })
    }

    fn open(&self) -> Result<(Client, ClientOpenReply), Refusal> {
        let service = &self.service;
        let number = service.take_number().ok_or_else(|| {
            Refusal::new(status::LIMIT, format!("all {} clients are in use", service.client_limit()))
        })?;
        let opened = self.open_as(number);
        if opened.is_err() {
            service.give_number(number);
        }
        opened
    }

    fn open_as(&self, number: u32) -> Result<(Client, ClientOpenReply), Refusal> {
        let service = &self.service;
        let memory = service.carrier().client_memory().map_err(|error| memory_refusal(&error))?;
        let Peer { pid, uid, name, .. } = self.peer;
        match service.control().client_open(&ClientOpen { client: number, pid, uid, reserved: 0, name }) {
            Ok(reply) => {
                tracing::info!("client {number}: {} opened", self.peer);
                Ok((Client { number, memory, windows: Windows::default(), lanes: Vec::new() }, reply))
            }
            Err(error) => {
                memory.close();
                Err(self.refusal(&error))
            }
        }
    }

    fn lane<'a>(&mut self, service: &'a Service) -> Result<Reply<'a>, Refusal> {
        let uid = self.peer.uid;
        let client = client(&mut self.state)?;
        if client.lanes.len() >= MAX_LANES {
            return Err(Refusal::new(status::LIMIT, format!("the client has {MAX_LANES} lanes already")));
        }
        let lease = service.lanes().lend(service.control(), client.number, uid);
        let lease = match lease {
            Ok(lease) => lease,
            Err(LaneError::Control(error)) => return Err(self.refusal(&error)),
            Err(error @ LaneError::AllLent(_)) => return Err(Refusal::new(status::LIMIT, error.to_string())),
            Err(error) => return Err(Refusal::new(status::FAILED, error.to_string())),
        };
        client.lanes.push(lease.queue);
        let lane = service.lanes().lane(lease.queue);
        let carrier = service.carrier();
        let body = wire::LaneReply {
            queue: lease.queue,
            size: lane.rings.layout.size,
            start: lease.start,
            event_idx: u8::from(carrier.event_idx()),
            polling: u8::from(carrier.polling()),
        };
        tracing::debug!("client {}: lane {} from index {}", client.number, lease.queue, lease.start);
        let fds = vec![lane.rings.page.file.as_fd(), borrow(&lane.kick), borrow(&lane.completion)];
        Ok(Reply { body: body.as_bytes().to_vec(), fds })
    }

    fn window_alloc(&mut self, len: u64, address: u64) -> Result<(wire::WindowReply, Arc<OwnedFd>), Refusal> {
        let client = client(&mut self.state)?;
        let range = client.windows.check(address, len).map_err(window_refusal)?;
        let mut block = match client.memory.allocate(len.next_multiple_of(HUGE_PAGE)) {
            Ok(block) => block,
            Err(error) => return Err(memory_refusal(&error)),
        };
        let in_place = !len.is_multiple_of(HUGE_PAGE) || !address.is_multiple_of(HUGE_PAGE);
        // The file to hand out, if it is not the block's own.
        let small = match in_place.then(|| client.memory.in_small_pages(&block)).transpose() {
            Ok(small) => small.flatten(),
            Err(error) => {
                client.memory.free(block);
                return Err(memory_refusal(&error));
            }
        };
        cut(&mut block.extents, len);
        let (file, offset) = match small {
            Some(file) => (file, 0),
            None => (block.file.clone(), block.offset),
        };
        let window = self.enter(range, block)?;
        Ok((wire::WindowReply { window, reserved: 0, offset }, file))
    }

    /// A window that is the program's own file, which it has mapped at `place`.
    fn window_adopt(
        &mut self,
        file: OwnedFd,
        place: Range,
        offset: u64,
    ) -> Result<wire::WindowReply, Refusal> {
        let client = client(&mut self.state)?;
        let range = client.windows.check(place.base, place.len).map_err(window_refusal)?;
        let block = client.memory.adopt(file, offset, range.len).map_err(|error| memory_refusal(&error))?;
        let window = self.enter(range, block)?;
        Ok(wire::WindowReply { window, reserved: 0, offset })
    }

    /// Has the broker map a window, and enters it.
    fn enter(&mut self, range: Range, block: Block) -> Result<u32, Refusal> {
        let client = client(&mut self.state)?;
        match map(&self.service, client, range, &block) {
            Ok(parts) => {
                let window = client.windows.insert(Window { range, block, parts });
                let Range { base, len } = range;
                tracing::debug!("client {}: window {window}, {len:#x} bytes at {base:#x}", client.number);
                Ok(window)
            }
            Err(error) => {
                // The parts that were mapped are unmapped: the device does not reach the block.
                if error.status().is_some() {
                    client.memory.free(block);
                }
                Err(self.refusal(&error))
            }
        }
    }

    fn window_free(&mut self, number: u32) -> Result<(), Refusal> {
        let client = client(&mut self.state)?;
        let window = client.windows.remove(number).map_err(window_refusal)?;
        for &part in &window.parts {
            match self.service.control().window_unmap(client.number, part) {
                Ok(()) => {}
                // Without a worker nothing is mapped.
                Err(ControlError::Refused { status: status::NO_CLIENT, .. }) => {}
                Err(error) => {
                    // The device may still reach the block, so it stays the client's until that ends.
                    client.windows.insert(window);
                    return Err(self.refusal(&error));
                }
            }
        }
        client.memory.free(window.block);
        Ok(())
    }

    /// What a device does at the moment. Nobody needs a worker to ask for it.
    fn reading(&self, device: u32) -> Result<Reply<'static>, Refusal> {
        if matches!(self.state, State::New) {
            return Err(Refusal::invalid("a request before HELLO"));
        }
        let body = self.service.reading(device).map_err(|error| self.refusal(&error))?;
        Ok(Reply { body: body.to_vec(), fds: Vec::new() })
    }

    /// A descriptor that stands for a file which this client has exported.
    fn share_fd(&mut self, token: Token) -> Result<OwnedFd, Refusal> {
        let client = client(&mut self.state)?;
        if let Err(error) = self.service.control().share_keep(client.number, token) {
            return Err(self.refusal(&error));
        }
        Shares::hold(&self.service, token).map_err(|error| {
            shares::drop_file(&self.service, token);
            Refusal::new(status::LIMIT, format!("making a descriptor for an exported file: {error}"))
        })
    }

    /// What a failed request to the broker means for the shim; ends the agent if the device is of no use.
    fn refusal(&self, error: &ControlError) -> Refusal {
        match error.status() {
            Some(status) => Refusal::new(status, error.to_string()),
            None => {
                self.service.fail(error);
                Refusal::new(status::NO_CLIENT, error.to_string())
            }
        }
    }
}

/// What has run out is a limit; what this machine or carrier cannot do at all is not supported.
fn memory_refusal(error: &MemoryError) -> Refusal {
    let status = match error {
        MemoryError::SmallPages(source) if source.kind() != std::io::ErrorKind::OutOfMemory => {
            status::UNSUPPORTED
        }
        MemoryError::NoAdoption => status::UNSUPPORTED,
        MemoryError::Adopt { .. } => status::FAILED,
        _ => status::LIMIT,
    };
    Refusal::new(status, crate::error::chain(error))
}

/// Takes back what the client holds, whatever state it was in.
impl Drop for Session {
    fn drop(&mut self) {
        let State::Open(mut client) = std::mem::replace(&mut self.state, State::New) else { return };
        let service = &self.service;
        if let Err(error) = service.control().client_close(client.number) {
            // The worker may still reach lanes and windows: nothing of them is given to anybody else.
            tracing::error!("client {}: {}; its memory is kept", client.number, crate::error::chain(&error));
            if error.status().is_none() {
                service.fail(&error);
            }
            std::mem::forget(client);
            return;
        }
        for &queue in &client.lanes {
            service.lanes().release(queue);
        }
        let windows = client.windows.take();
        let count = windows.len();
        for window in windows {
            client.memory.free(window.block);
        }
        client.memory.close();
        service.give_number(client.number);
        let lanes = client.lanes.len();
        tracing::info!("client {}: closed, {lanes} lanes and {count} windows taken back", client.number);
    }
}

fn client(state: &mut State) -> Result<&mut Client, Refusal> {
    match state {
        State::Open(client) => Ok(client),
        State::New => Err(Refusal::invalid("a request before HELLO")),
        State::SnapshotOnly => Err(Refusal::invalid("a request after a HELLO for the snapshot only")),
    }
}

fn window_refusal(error: WindowError) -> Refusal {
    let status = if error == WindowError::TooMany { status::LIMIT } else { status::INVALID };
    Refusal::new(status, error.to_string())
}

/// Leaves the first `len` bytes of `extents`.
fn cut(extents: &mut Vec<Range>, len: u64) {
    let mut left = len;
    extents.retain_mut(|extent| {
        extent.len = extent.len.min(left);
        left -= extent.len;
        extent.len != 0
    });
}

/// Has the broker map all parts of a window, or none.
fn map(
    service: &Service,
    client: &mut Client,
    range: Range,
    block: &Block,
) -> Result<Vec<u32>, ControlError> {
    let control = service.control();
    let mut mapped = Vec::new();
    for part in client.windows.plan(range.base, &block.extents) {
        if let Err(error) = control.window_map(client.number, part.number, part.address, part.extents) {
            for &number in &mapped {
                control.window_unmap(client.number, number)?;
            }
            return Err(error);
        }
        mapped.push(part.number);
    }
    Ok(mapped)
}
