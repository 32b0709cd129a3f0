//! Shims against the whole agent but the device: server, sessions, lanes, windows.

use super::packet;
use crate::control::Control;
use crate::events::Events;
use crate::lanes::Lanes;
use crate::memory::{HUGE_PAGE_LEN, Mapping};
use crate::server::Server;
use crate::service::{Service, Stop};
use crate::testing::{ADOPTED, MockBroker, MockCarrier, MockDevice};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use vgpu_spec::wire::control::{self, status};
use vgpu_spec::wire::lane::state;
use vgpu_spec::wire::share::{TICKET_MAGIC, Ticket, Token};
use vgpu_spec::wire::socket::{self as wire, kind};
use vgpu_spec::wire::{HUGE_PAGE, Range, VERSION, WINDOW_AREA, split};
use zerocopy::IntoBytes;

struct Agent {
    broker: MockBroker,
    carrier: Arc<MockCarrier>,
    lanes: Arc<Lanes>,
    server: Server,
    stop: Receiver<Stop>,
    path: PathBuf,
}

impl Agent {
    fn start(lanes: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vgpu-agent-{}-{}.sock", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        let carrier = MockCarrier::new(lanes, false);
        let broker = MockBroker::start(&carrier);
        let control = Control::new(carrier.clone());
        let all = Arc::new(Lanes::new(carrier.clone(), 8));
        let (sender, stop) = channel();
        let service = Service::new(carrier.clone(), control, all.clone(), b"snapshot".to_vec(), 4, sender);
        let server = Server::bind(&path, 0o600).unwrap();
        server.start(Arc::new(service)).unwrap();
        Self { broker, carrier, lanes: all, server, stop, path }
    }

    fn connect(&self) -> Shim {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&self.path).unwrap()).unwrap();
        Shim { socket }
    }

    /// A shim that has said hello.
    fn client(&self) -> Shim {
        let shim = self.connect();
        assert_eq!(shim.ask(kind::HELLO, 0, u64::from(VERSION)).0, status::OK);
        shim
    }

    fn wait_closed(&self, count: usize) {
        let closes = || self.broker.kinds().iter().filter(|&&k| k == control::kind::CLIENT_CLOSE).count();
        let start = Instant::now();
        while closes() < count || self.lanes.lent() > 0 {
            assert!(start.elapsed() < Duration::from_secs(5), "{} closed", closes());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Shim {
    socket: OwnedFd,
}

impl Shim {
    fn send(&self, bytes: &[u8]) {
        rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL).unwrap();
    }

    fn receive(&self) -> Option<(u32, Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; wire::MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let message =
            rustix::net::recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::empty()).unwrap();
        if message.bytes == 0 {
            return None;
        }
        bytes.truncate(message.bytes);
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let (header, body) = split::<wire::ReplyHeader>(&bytes).unwrap();
        assert_eq!(header.len as usize, body.len());
        Some((header.status, body.to_vec(), fds))
    }

    fn ask(&self, kind: u32, arg0: u64, arg1: u64) -> (u32, Vec<u8>, Vec<OwnedFd>) {
        self.send(wire::Request { kind, arg2: 0, arg0, arg1 }.as_bytes());
        self.receive().expect("a reply")
    }

    fn ask_with(&self, request: wire::Request, file: Option<&OwnedFd>) -> (u32, Vec<u8>, Vec<OwnedFd>) {
        let files: Vec<_> = file.into_iter().map(AsFd::as_fd).collect();
        packet::send(&self.socket, request.as_bytes(), &files).unwrap();
        self.receive().expect("a reply")
    }

    fn lane(&self) -> (wire::LaneReply, Mapping) {
        let (status, body, fds) = self.ask(kind::LANE, 0, 0);
        assert_eq!((status, fds.len()), (status::OK, 3));
        let page = Mapping::new(fds[0].as_fd(), 0, HUGE_PAGE_LEN, false).unwrap();
        (split(&body).unwrap().0, page)
    }
}

#[test]
fn hello_gives_identity_ranges_and_snapshot() {
    let agent = Agent::start(1);
    let (status, body, _) = agent.connect().ask(kind::HELLO, 0, u64::from(VERSION));
    let (hello, snapshot) = split::<wire::HelloReply>(&body).unwrap();
    assert_eq!(status, status::OK);
    assert_eq!((hello.version, hello.client, hello.pci.bus), (VERSION, 1, 7));
    assert_eq!(hello.device_ranges[0].base, 0x7000_0000_0000);
    assert_eq!(snapshot, b"snapshot");
}

#[test]
fn snapshot_only_opens_no_client_and_gets_no_lane() {
    let agent = Agent::start(1);
    let shim = agent.connect();
    let (status, body, _) = shim.ask(kind::HELLO, wire::hello::SNAPSHOT_ONLY, u64::from(VERSION));
    assert_eq!((status, split::<wire::HelloReply>(&body).unwrap().0.client), (status::OK, 0));
    assert_eq!(shim.ask(kind::LANE, 0, 0).0, status::INVALID);
    assert!(agent.broker.kinds().is_empty());
}

#[test]
fn a_reading_needs_a_hello_and_no_client() {
    let agent = Agent::start(1);
    let shim = agent.connect();
    assert_eq!(shim.ask(kind::READING, 1, 0).0, status::INVALID, "before HELLO");
    shim.ask(kind::HELLO, wire::hello::SNAPSHOT_ONLY, u64::from(VERSION));
    let (status, body, _) = shim.ask(kind::READING, 1, 0);
    assert_eq!((status, &body[..]), (status::OK, &b"reading \x01\0\0\0\0\0\0\0"[..]));
    shim.ask(kind::READING, 1, 0);
    assert_eq!(agent.broker.kinds().len(), 1, "kept for a moment");
}

#[test]
fn another_version_and_wrong_order_are_refused() {
    let agent = Agent::start(1);
    let shim = agent.connect();
    assert_eq!(shim.ask(kind::LANE, 0, 0).0, status::INVALID);
    assert_eq!(shim.ask(kind::HELLO, 0, u64::from(VERSION) + 1).0, status::UNSUPPORTED);
    assert_eq!(shim.ask(kind::HELLO, 0, u64::from(VERSION)).0, status::OK);
    assert_eq!(shim.ask(kind::HELLO, 0, u64::from(VERSION)).0, status::INVALID);
}

#[test]
fn a_broken_packet_ends_that_shim_only() {
    let agent = Agent::start(1);
    let (bad, good) = (agent.client(), agent.client());
    bad.send(&[1, 2, 3]);
    assert_eq!(bad.receive().unwrap().0, status::INVALID);
    assert!(bad.receive().is_none(), "the connection ends");
    good.lane();
}

#[test]
fn a_lane_of_a_dead_client_is_cleared_and_goes_on_from_its_index() {
    let agent = Agent::start(1);
    let first = agent.client();
    let (reply, page) = first.lane();
    assert_eq!((reply.queue, reply.size, reply.start, reply.event_idx, reply.polling), (2, 64, 0, 1, 0));
    let layout = vgpu_spec::wire::lane::Layout::new(reply.size).unwrap();
    let at = |offset: u64| usize::try_from(offset).unwrap();
    assert_eq!(page.u32(at(layout.status)).load(SeqCst), state::ATTACHED);
    assert_eq!(agent.client().ask(kind::LANE, 0, 0).0, status::LIMIT, "there is one only");
    // It dies with 7 entries made available and 3 used.
    page.u16(at(layout.avail) + 2).store(7, SeqCst);
    page.u16(at(layout.used) + 2).store(3, SeqCst);
    page.write(at(layout.commands), b"secret");
    page.write(at(layout.desc), b"secret");
    drop(first);
    agent.wait_closed(2);
    let (reply, page) = agent.client().lane();
    assert_eq!((reply.queue, reply.start), (2, 7));
    assert_eq!(page.u16(at(layout.avail) + 2).load(SeqCst), 7);
    assert_eq!(page.u16(at(layout.used) + 2).load(SeqCst), 7);
    assert_eq!(page.read(at(layout.commands), 6), [0; 6]);
    assert_eq!(page.read(at(layout.desc), 6), [0; 6]);
}

#[test]
fn windows_are_checked_mapped_and_freed() {
    let agent = Agent::start(1);
    let shim = agent.client();
    let (status, body, fds) = shim.ask(kind::WINDOW_ALLOC, 2 * HUGE_PAGE, WINDOW_AREA);
    let window = split::<wire::WindowReply>(&body).unwrap().0;
    assert_eq!((status, fds.len(), window.offset), (status::OK, 1, 0));
    let overlap = WINDOW_AREA + HUGE_PAGE;
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, HUGE_PAGE, overlap).0, status::INVALID);
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, HUGE_PAGE, 0).0, status::INVALID);
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, 1 << 40, WINDOW_AREA + (1 << 40)).0, status::LIMIT);
    assert_eq!(shim.ask(kind::WINDOW_FREE, u64::from(window.window), 0).0, status::OK);
    assert_eq!(shim.ask(kind::WINDOW_FREE, u64::from(window.window), 0).0, status::INVALID);
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, HUGE_PAGE, overlap).0, status::OK);
    use control::kind::{CLIENT_OPEN, WINDOW_MAP, WINDOW_UNMAP};
    assert_eq!(agent.broker.kinds(), [CLIENT_OPEN, WINDOW_MAP, WINDOW_UNMAP, WINDOW_MAP]);
}

#[test]
fn a_programs_file_becomes_a_window_where_it_is_mapped() {
    let agent = Agent::start(1);
    let shim = agent.client();
    let place = 0x7f00_0000_1000_u64;
    let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, 3 * 4096 + 5).unwrap();
    let adopt = |page, len| wire::Request { kind: kind::WINDOW_ADOPT, arg2: page, arg0: len, arg1: place };
    let ask = |page, len| shim.ask_with(adopt(page, len), Some(&file));
    assert_eq!(shim.ask_with(adopt(0, 4096), None).0, status::INVALID, "no descriptor");
    assert_eq!(ask(3, 8192).0, status::FAILED, "the file is shorter");
    assert_eq!(ask(0, 100).0, status::INVALID);
    let (status, body, fds) = ask(2, 8192);
    let window = split::<wire::WindowReply>(&body).unwrap().0;
    assert_eq!((status, fds.len(), window.offset), (status::OK, 0, 8192));
    assert_eq!(ask(0, 4096).0, status::INVALID, "there is a window already");
    let seen = agent.broker.seen.lock().unwrap().last().cloned().unwrap();
    let (map, extents) = split::<control::WindowMap>(&seen.1).unwrap();
    let extent = split::<Range>(extents).unwrap().0;
    assert_eq!((map.address, map.len, map.extents), (place, 8192, 1));
    assert_eq!(extent, Range { base: ADOPTED, len: 8192 });
    assert_eq!(shim.ask(kind::WINDOW_FREE, u64::from(window.window), 0).0, status::OK);
    assert_eq!(ask(0, 4096).0, status::OK);
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let agent = Agent::start(1);
    let shim = agent.client();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let lane = wire::Request { kind: kind::LANE, arg2: 0, arg0: 0, arg1: 0 };
    assert_eq!(shim.ask_with(lane, Some(&writer)).0, status::OK);
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0]), Ok(0), "the pipe's other end is closed");
}

#[test]
fn a_window_that_the_worker_refuses_leaves_no_trace() {
    let agent = Agent::start(1);
    let shim = agent.client();
    agent.broker.behaviour.lock().unwrap().refuse = Some((control::kind::WINDOW_MAP, status::FAILED));
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, HUGE_PAGE, WINDOW_AREA).0, status::FAILED);
    assert_eq!(shim.ask(kind::WINDOW_ALLOC, HUGE_PAGE, WINDOW_AREA).0, status::OK);
}

#[test]
fn clients_are_limited_as_the_broker_says_and_come_free() {
    let agent = Agent::start(1);
    let mut shims: Vec<_> = (0..4).map(|_| agent.client()).collect();
    let fifth = agent.connect();
    assert_eq!(fifth.ask(kind::HELLO, 0, u64::from(VERSION)).0, status::LIMIT);
    shims.pop();
    agent.wait_closed(1);
    let start = Instant::now();
    while fifth.ask(kind::HELLO, 0, u64::from(VERSION)).0 != status::OK {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_lost_worker_marks_its_lanes_and_no_others() {
    let agent = Agent::start(2);
    let (one, two) = (agent.client(), agent.client());
    let ((reply, page), (_, other)) = (one.lane(), two.lane());
    let status_at = usize::try_from(vgpu_spec::wire::lane::Layout::new(reply.size).unwrap().status).unwrap();
    let mut device = MockDevice::new(&crate::carrier::Carrier::queues(&*agent.carrier)[1].rings);
    let ending = Arc::default();
    let events = Events::new(agent.carrier.clone(), agent.lanes.clone(), Arc::clone(&ending)).unwrap();
    let thread = std::thread::spawn(|| events.run());
    for _ in 0..40 {
        let event = control::Event { kind: control::event::WORKER_LOST, client: 1, signal: 9, exit_code: 0 };
        agent.broker.send_event(&mut device, &event);
        let start = Instant::now();
        while page.u32(status_at).load(SeqCst) != state::LOST {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        page.u32(status_at).store(state::ATTACHED, SeqCst);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(other.u32(status_at).load(SeqCst), state::ATTACHED);
    ending.store(true, SeqCst);
    agent.broker.send_event(&mut device, &control::Event { kind: 77, client: 0, signal: 0, exit_code: 0 });
    assert_eq!(thread.join().unwrap().unwrap(), None);
}

#[test]
fn stopping_the_server_closes_all_clients() {
    let agent = Agent::start(2);
    let (one, _two) = (agent.client(), agent.client());
    one.lane();
    assert_eq!(agent.server.stop(Duration::from_secs(5)), 0);
    agent.wait_closed(2);
    assert!(one.receive().is_none());
    assert!(agent.stop.try_recv().is_err(), "the device is fine");
}

#[test]
fn a_packet_larger_than_the_protocol_allows_is_not_sent() {
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(packet::send(&a, &vec![0; wire::MAX_PACKET + 1], &[]).is_err());
}

#[test]
fn an_exported_file_is_kept_until_the_last_copy_of_its_descriptor_is_closed() {
    let agent = Agent::start(1);
    let shim = agent.client();
    let (status, body, mut files) = shim.ask(kind::SHARE_FD, 7, 9);
    assert_eq!((status, body.len(), files.len()), (status::OK, 0, 1));
    let file = files.remove(0);
    let mut bytes = [0; 64];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, len) = rustix::net::recv(&file, &mut bytes[..], flags).unwrap();
    let token = Token { low: 7, high: 9 };
    assert_eq!(&bytes[..len], Ticket { magic: TICKET_MAGIC, token }.as_bytes());
    let seen = |kind| agent.broker.seen.lock().unwrap().iter().find(|s| s.0 == kind).map(|s| s.1.clone());
    let kept = seen(control::kind::SHARE_KEEP).unwrap();
    assert_eq!(kept, control::ShareKeep { client: 1, reserved: 0, token }.as_bytes());
    // The exporter's end is not the file's.
    drop(shim);
    agent.wait_closed(1);
    let copy = file.try_clone().unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(seen(control::kind::SHARE_DROP), None);
    drop(copy);
    let start = Instant::now();
    while seen(control::kind::SHARE_DROP).is_none() {
        assert!(start.elapsed() < Duration::from_secs(10), "the file is never dropped");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(seen(control::kind::SHARE_DROP).unwrap(), token.as_bytes());
}

#[test]
fn a_file_that_the_broker_does_not_keep_gets_no_descriptor() {
    let agent = Agent::start(1);
    let shim = agent.connect();
    assert_eq!(shim.ask(kind::SHARE_FD, 7, 9).0, status::INVALID, "before hello");
    let shim = agent.client();
    agent.broker.behaviour.lock().unwrap().refuse = Some((control::kind::SHARE_KEEP, status::LIMIT));
    let (status, _, files) = shim.ask(kind::SHARE_FD, 7, 9);
    assert_eq!((status, files.len()), (status::LIMIT, 0));
    assert!(!agent.broker.kinds().contains(&control::kind::SHARE_DROP));
}
