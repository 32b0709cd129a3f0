//! Queue 0: typed requests to the broker, one at a time.

use crate::carrier::Carrier;
use crate::memory::Rings;
use crate::queue::{Buffer, DriverQueue, QueueError, Used};
use crate::wait::Waiter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_spec::wire::control::{self as wire, kind, status};
use vgpu_spec::wire::{self as all, Range, reading::ReadingRequest, share::Token};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where in the control page requests and replies lie.
const REQUEST_OFFSET: usize = 256 << 10;
const REPLY_OFFSET: usize = REQUEST_OFFSET + wire::MAX_REQUEST;

/// How long the broker may take. Starting a worker with CUDA takes seconds; a silent device is a lost one.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Before asking again whether a client is closed.
const AGAIN_PAUSE: Duration = Duration::from_millis(10);

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{what}: the broker refused: {}", status::describe(*.status))]
    Refused { what: &'static str, status: u32 },
    #[error("{what}: no answer from the broker within {0} s", TIMEOUT.as_secs())]
    Silent { what: &'static str },
    #[error("{what}: {why}")]
    Lost { what: &'static str, why: String },
    #[error("{what}: the broker's reply has {got} bytes, {wanted} are needed")]
    Short { what: &'static str, got: usize, wanted: usize },
    #[error("{what}: the request has {len} bytes, at most {} are allowed", wire::MAX_REQUEST)]
    TooLong { what: &'static str, len: usize },
    #[error(
        "agreeing on a version: the broker speaks protocol {broker}, this agent {}; update the older of the two",
        all::VERSION
    )]
    Version { broker: u16 },
    #[error("{what}")]
    Queue {
        what: &'static str,
        #[source]
        source: QueueError,
    },
    #[error("{what}: waiting for the broker")]
    Wait {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl ControlError {
    /// The broker's status if only this request failed; `None` if the device is of no use any more.
    pub fn status(&self) -> Option<u32> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::TooLong { .. } => Some(status::INVALID),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, ControlError>;

/// The control queue. Requests of several threads take turns.
#[derive(Debug)]
pub struct Control {
    carrier: Arc<dyn Carrier>,
    rings: Rings,
    queue: Mutex<DriverQueue>,
    timeout: Duration,
}

impl Control {
    /// Drives queue 0 of `carrier`.
    pub fn new(carrier: Arc<dyn Carrier>) -> Self {
        Self::with_timeout(carrier, TIMEOUT)
    }

    fn with_timeout(carrier: Arc<dyn Carrier>, timeout: Duration) -> Self {
        let rings = carrier.queues()[usize::from(wire::CONTROL_QUEUE)].rings.clone();
        let queue = Mutex::new(DriverQueue::new(rings.clone(), carrier.event_idx()));
        Self { carrier, rings, queue, timeout }
    }

    /// HELLO, with a check of the broker's version.
    pub fn hello(&self) -> Result<wire::HelloReply> {
        let body = wire::Hello {
            version: all::VERSION,
            reserved: [0; 3],
            features: 0,
            pci: self.carrier.pci_address(),
        };
        let reply: wire::HelloReply = self.ask("greeting the broker", kind::HELLO, body.as_bytes())?;
        if reply.version != all::VERSION {
            return Err(ControlError::Version { broker: reply.version });
        }
        Ok(reply)
    }

    /// The snapshot's bytes, as the broker gives them.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        self.request("fetching the snapshot of the host's devices", kind::SNAPSHOT, &[])
    }

    /// The bytes of a reading of a device, as the broker gives them.
    pub fn reading(&self, device: u32) -> Result<Vec<u8>> {
        let body = ReadingRequest { device, reserved: 0 };
        self.request("asking what a device does", kind::READING, body.as_bytes())
    }

    pub fn client_open(&self, body: &wire::ClientOpen) -> Result<wire::ClientOpenReply> {
        self.ask("opening a client", kind::CLIENT_OPEN, body.as_bytes())
    }

    /// Returns when the worker is gone. A client that the broker does not know is as good as closed.
    pub fn client_close(&self, client: u32) -> Result<()> {
        let body = wire::ClientClose { client, reserved: 0 };
        loop {
            match self.request("closing a client", kind::CLIENT_CLOSE, body.as_bytes()) {
                // The queue is free for other threads' requests meanwhile.
                Err(ControlError::Refused { status: status::AGAIN, .. }) => std::thread::sleep(AGAIN_PAUSE),
                Err(ControlError::Refused { status: status::NO_CLIENT, .. }) => return Ok(()),
                other => return other.map(drop),
            }
        }
    }

    /// Lends `queue`, whose page is at `page`, to `client`; returns the index with which the lane starts.
    pub fn lane_attach(&self, client: u32, queue: u16, page: u64) -> Result<u16> {
        let body = wire::LaneAttach { client, queue, reserved: 0, page };
        let reply: wire::LaneAttachReply =
            self.ask("attaching a lane", kind::LANE_ATTACH, body.as_bytes())?;
        Ok(reply.start)
    }

    /// Maps a window of at most [`wire::MAX_EXTENTS`] extents.
    pub fn window_map(&self, client: u32, window: u32, address: u64, extents: &[Range]) -> Result<()> {
        let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        let len = extents.iter().map(|extent| extent.len).sum();
        let body = wire::WindowMap { client, window, address, len, extents: count, reserved: 0 };
        let mut bytes = body.as_bytes().to_vec();
        bytes.extend_from_slice(extents.as_bytes());
        self.request_until_done("mapping a window", kind::WINDOW_MAP, &bytes)
    }

    pub fn window_unmap(&self, client: u32, window: u32) -> Result<()> {
        let body = wire::WindowUnmap { client, window };
        self.request_until_done("unmapping a window", kind::WINDOW_UNMAP, body.as_bytes())
    }

    /// Sends a request again as long as the VM is not on its devices. Other threads' requests are served meanwhile.
    fn request_until_done(&self, what: &'static str, kind: u32, body: &[u8]) -> Result<()> {
        loop {
            match self.request(what, kind, body) {
                Err(ControlError::Refused { status: status::AGAIN, .. }) => std::thread::sleep(AGAIN_PAUSE),
                other => return other.map(drop),
            }
        }
    }

    /// Has the broker keep the file that `client` has exported as `token`.
    pub fn share_keep(&self, client: u32, token: Token) -> Result<()> {
        let body = wire::ShareKeep { client, reserved: 0, token };
        self.request("keeping an exported file", kind::SHARE_KEEP, body.as_bytes()).map(drop)
    }

    pub fn share_drop(&self, token: Token) -> Result<()> {
        let body = wire::ShareDrop { token };
        self.request("dropping an exported file", kind::SHARE_DROP, body.as_bytes()).map(drop)
    }

    fn ask<T: FromBytes + KnownLayout + Immutable>(
        &self,
        what: &'static str,
        kind: u32,
        body: &[u8],
    ) -> Result<T> {
        let reply = self.request(what, kind, body)?;
        let short = ControlError::Short { what, got: reply.len(), wanted: size_of::<T>() };
        all::split(&reply).map(|(value, _)| value).ok_or(short)
    }

    /// Sends one request and returns the reply's body.
    fn request(&self, what: &'static str, kind: u32, body: &[u8]) -> Result<Vec<u8>> {
        let header = wire::RequestHeader { kind, len: u32::try_from(body.len()).unwrap_or(u32::MAX) };
        let len = size_of_val(&header) + body.len();
        if len > wire::MAX_REQUEST {
            return Err(ControlError::TooLong { what, len });
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &self.rings.page.mapping;
        memory.write(REQUEST_OFFSET, header.as_bytes());
        memory.write(REQUEST_OFFSET + size_of_val(&header), body);
        let gpa = self.rings.page.gpa;
        let chain = [
            Buffer { gpa: gpa + REQUEST_OFFSET as u64, len: len as u32, writable: false },
            Buffer { gpa: gpa + REPLY_OFFSET as u64, len: wire::MAX_REPLY as u32, writable: true },
        ];
        queue.disable_signal();
        let (_, kick) = queue.add(&chain).map_err(|source| ControlError::Queue { what, source })?;
        if kick {
            self.carrier.notify(wire::CONTROL_QUEUE);
        }
        let used = self.wait(what, &mut queue)?;
        self.reply(what, used)
    }

    fn wait(&self, what: &'static str, queue: &mut DriverQueue) -> Result<Used> {
        let completion = &self.carrier.queues()[usize::from(wire::CONTROL_QUEUE)].completion;
        let mut waiter = Waiter::new(completion, self.carrier.polling());
        let start = Instant::now();
        loop {
            let spins = waiter.spins();
            if !spins && !self.carrier.polling() {
                // Before the look, so that an answer in between is signalled.
                queue.enable_signal();
            }
            if let Some(used) = queue.pop().map_err(|source| ControlError::Queue { what, source })? {
                return Ok(used);
            }
            if spins {
                std::hint::spin_loop();
                continue;
            }
            if let Some(why) = self.carrier.lost() {
                return Err(ControlError::Lost { what, why });
            }
            let left = self.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(ControlError::Silent { what });
            }
            waiter.sleep(left).map_err(|source| ControlError::Wait { what, source })?;
        }
    }

    fn reply(&self, what: &'static str, used: Used) -> Result<Vec<u8>> {
        let wanted = size_of::<wire::ReplyHeader>();
        let got = (used.len as usize).min(wire::MAX_REPLY);
        let bytes = self.rings.page.mapping.read(REPLY_OFFSET, got);
        let short = |wanted| ControlError::Short { what, got, wanted };
        let (header, body) = all::split::<wire::ReplyHeader>(&bytes).ok_or_else(|| short(wanted))?;
        if header.status != status::OK {
            return Err(ControlError::Refused { what, status: header.status });
        }
        let len = header.len as usize;
        body.get(..len).map(<[u8]>::to_vec).ok_or_else(|| short(wanted + len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MockBroker, MockCarrier};

    fn pair(polling: bool) -> (Control, MockBroker, Arc<MockCarrier>) {
        let carrier = MockCarrier::new(1, polling);
        let broker = MockBroker::start(&carrier);
        (Control::with_timeout(carrier.clone(), Duration::from_millis(300)), broker, carrier)
    }

    #[test]
    fn requests_are_answered_with_signals_and_by_polling() {
        for polling in [false, true] {
            let (control, broker, _) = pair(polling);
            assert_eq!(control.hello().unwrap().lanes, 8);
            assert_eq!(control.snapshot().unwrap(), b"snapshot");
            for _ in 0..100 {
                control.client_close(3).unwrap();
            }
            let seen = broker.seen.lock().unwrap();
            let (hello, _) = all::split::<wire::Hello>(&seen[0].1).unwrap();
            assert_eq!((hello.version, hello.pci.bus, hello.pci.present), (all::VERSION, 7, 1));
            assert_eq!(seen.len(), 102);
        }
    }

    #[test]
    fn a_refusal_carries_the_status_and_the_queue_goes_on() {
        let (control, broker, _) = pair(false);
        broker.behaviour.lock().unwrap().refuse = Some((kind::WINDOW_UNMAP, status::INVALID));
        assert_eq!(control.window_unmap(1, 2).unwrap_err().status(), Some(status::INVALID));
        control.window_unmap(1, 2).unwrap();
    }

    #[test]
    fn closing_a_client_that_the_broker_forgot_succeeds() {
        let (control, broker, _) = pair(false);
        broker.behaviour.lock().unwrap().refuse = Some((kind::CLIENT_CLOSE, status::NO_CLIENT));
        control.client_close(1).unwrap();
    }

    #[test]
    fn a_silent_broker_is_given_up() {
        for polling in [false, true] {
            let (control, broker, _) = pair(polling);
            broker.behaviour.lock().unwrap().silent = true;
            let error = control.hello().unwrap_err();
            assert!(matches!(error, ControlError::Silent { .. }), "{error}");
            assert_eq!(error.status(), None);
        }
    }

    #[test]
    fn a_lost_device_ends_the_wait() {
        let (control, broker, carrier) = pair(false);
        broker.behaviour.lock().unwrap().silent = true;
        *carrier.lost.lock().unwrap() = Some("gone".into());
        assert!(matches!(control.hello(), Err(ControlError::Lost { .. })));
    }

    #[test]
    fn short_and_overlong_replies_are_errors() {
        for claim in [0, 7, 12, u32::MAX] {
            let (control, broker, _) = pair(false);
            broker.behaviour.lock().unwrap().claim = Some(claim);
            let result = control.hello();
            // More than there is room for is taken as all of it: the header says what counts.
            assert_eq!(result.is_ok(), claim == u32::MAX, "{claim}: {result:?}");
        }
    }

    #[test]
    fn a_window_is_sent_with_its_extents() {
        let (control, broker, _) = pair(false);
        let extents = vec![Range { base: 0, len: 2 << 20 }; wire::MAX_EXTENTS];
        control.window_map(1, 2, 3 << 21, &extents).unwrap();
        let seen = broker.seen.lock().unwrap();
        let (map, rest) = all::split::<wire::WindowMap>(&seen[0].1).unwrap();
        assert_eq!((map.extents as usize, map.len), (wire::MAX_EXTENTS, 4 << 30));
        assert_eq!(rest.len(), wire::MAX_EXTENTS * size_of::<Range>());
        let more = vec![Range::default(); wire::MAX_REQUEST / size_of::<Range>()];
        assert!(matches!(control.window_map(1, 2, 0, &more), Err(ControlError::TooLong { .. })));
    }
}
