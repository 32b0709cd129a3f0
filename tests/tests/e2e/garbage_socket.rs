//! Nonsense on the agent's socket: whoever sends it suffers alone.

use std::path::Path;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use vgpu_client::{Connection, ConnectionError, Mode};
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::socket::{Request, hello, kind};
use vgpu_spec::wire::{HUGE_PAGE, VERSION, WINDOW_AREA, WINDOW_AREA_LEN};
use vgpu_tests::host::Host;
use vgpu_tests::noise::Noise;
use vgpu_tests::poll::steady;
use vgpu_tests::process::{descriptors, threads};
use zerocopy::IntoBytes;

/// A connection without a shim.
struct Packets(OwnedFd);

impl Packets {
    fn connect(path: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let limit = Some(Duration::from_secs(20));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit).unwrap();
        Packets(socket)
    }

    fn send(&self, bytes: &[u8]) {
        // The agent may have closed after an earlier packet.
        let _ = rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL);
    }

    /// The status of an answer; `None` when the agent has closed.
    fn status(&self) -> Option<u32> {
        let mut bytes = [0; 4096];
        match rustix::net::recv(&self.0, &mut bytes, RecvFlags::empty()) {
            Ok((n, _)) if n >= 8 => Some(u32::from_le_bytes(bytes[..4].try_into().unwrap())),
            Ok((n, _)) => {
                assert_eq!(n, 0, "an answer of {n} bytes");
                None
            }
            Err(rustix::io::Errno::CONNRESET) => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn ask(&self, kind: u32, arg0: u64, arg1: u64) -> Option<u32> {
        self.send(Request { kind, arg2: 0, arg0, arg1 }.as_bytes());
        self.status()
    }

    fn hello(&self) {
        assert_eq!(self.ask(kind::HELLO, 0, u64::from(VERSION)), Some(status::OK));
    }
}

#[test]
fn packets_that_are_no_requests_end_their_connection_only() {
    let mut host = Host::start();
    let mut neighbour = host.client(&["compute"]).start();
    neighbour.expect("computing");
    let mut noise = Noise::new(5);
    for len in [1, 7, 23, 25, 100, 4096, 65_536, 150_000] {
        let socket = Packets::connect(&host.agent_socket());
        socket.send(&noise.bytes(len));
        assert_eq!(socket.status(), Some(status::INVALID), "{len} bytes");
        assert_eq!(socket.status(), None, "{len} bytes");
    }
    for _ in 0..200 {
        let socket = Packets::connect(&host.agent_socket());
        let len = noise.pick(&[8, 24, 24, 24, 32]);
        let mut bytes = noise.bytes(len);
        if noise.below(2) == 0 {
            bytes[..4].copy_from_slice(&(noise.below(6) as u32).to_le_bytes());
        }
        socket.send(&bytes);
        assert_ne!(socket.status(), Some(status::OK), "{bytes:x?}");
    }
    neighbour.finish().assert_success();
    host.client(&["compute-once"]).succeed();
    host.agent.assert_alive();
    assert!(!host.agent.log().contains("panicked"), "{}", host.agent.log());
}

#[test]
fn requests_in_the_wrong_order_or_with_wrong_arguments_get_a_status() {
    let host = Host::start();
    let version = u64::from(VERSION);
    let socket = Packets::connect(&host.agent_socket());
    for kind in [kind::LANE, kind::WINDOW_ALLOC, kind::WINDOW_FREE] {
        assert_eq!(socket.ask(kind, HUGE_PAGE, WINDOW_AREA), Some(status::INVALID), "before HELLO: {kind}");
    }
    assert_eq!(socket.ask(0, 0, 0), Some(status::UNSUPPORTED));
    assert_eq!(socket.ask(u32::MAX, 0, 0), Some(status::UNSUPPORTED));
    for wrong in [0, version + 1, u64::MAX] {
        assert_eq!(socket.ask(kind::HELLO, 0, wrong), Some(status::UNSUPPORTED), "version {wrong}");
    }
    assert_eq!(socket.ask(kind::HELLO, 0x80, version), Some(status::UNSUPPORTED), "unknown flags");
    socket.hello();
    assert_eq!(socket.ask(kind::HELLO, 0, version), Some(status::INVALID), "a second HELLO");
    assert_eq!(socket.ask(kind::LANE, 0, 0), Some(status::OK), "and it goes on");
    // Who wanted only the snapshot gets nothing else.
    let socket = Packets::connect(&host.agent_socket());
    assert_eq!(socket.ask(kind::HELLO, hello::SNAPSHOT_ONLY, version), Some(status::OK));
    assert_eq!(socket.ask(kind::LANE, 0, 0), Some(status::INVALID));
    assert_eq!(socket.ask(kind::WINDOW_ALLOC, HUGE_PAGE, WINDOW_AREA), Some(status::INVALID));
}

#[test]
fn windows_that_cannot_be_are_refused_and_leave_nothing_behind() {
    let host = Host::start();
    let connection = Connection::open_at(&host.agent_socket(), Mode::Full).unwrap();
    let refused = |len: u64, address: u64| match connection.window_alloc(len, address) {
        Err(ConnectionError::Refused { status, .. }) => status,
        other => panic!("{len:#x} bytes at {address:#x}: {other:?}"),
    };
    let end = WINDOW_AREA + WINDOW_AREA_LEN;
    for (len, address) in [
        (0, WINDOW_AREA),
        (1, WINDOW_AREA),
        (4096, WINDOW_AREA),
        (HUGE_PAGE, WINDOW_AREA + 4096),
        (HUGE_PAGE, 0),
        (HUGE_PAGE, 0x7f00_0000_0800),
        (2 * HUGE_PAGE, WINDOW_AREA - HUGE_PAGE),
        (2 * HUGE_PAGE, end - HUGE_PAGE),
        (!(HUGE_PAGE - 1), WINDOW_AREA),
        (HUGE_PAGE, !(HUGE_PAGE - 1)),
    ] {
        assert_eq!(refused(len, address), status::INVALID, "{len:#x} bytes at {address:#x}");
    }
    // More than there is, or more than a client may have.
    let status = refused(WINDOW_AREA_LEN, WINDOW_AREA);
    assert!([status::LIMIT, status::FAILED].contains(&status), "{status}");
    let window = connection.window_alloc(2 * HUGE_PAGE, WINDOW_AREA).unwrap();
    for (len, address) in
        [(HUGE_PAGE, WINDOW_AREA), (HUGE_PAGE, WINDOW_AREA + HUGE_PAGE), (4 * HUGE_PAGE, WINDOW_AREA)]
    {
        assert_eq!(refused(len, address), status::INVALID, "overlap");
    }
    assert!(connection.window_free(window.window + 1).is_err());
    connection.window_free(window.window).unwrap();
    assert!(connection.window_free(window.window).is_err(), "given back twice");
    connection.window_alloc(4 * HUGE_PAGE, WINDOW_AREA).unwrap();
}

#[test]
fn one_client_cannot_take_all_lanes_for_ever() {
    let host = Host::options().agent(&["--lanes", "4"]).start();
    let greedy = Connection::open_at(&host.agent_socket(), Mode::Full).unwrap();
    let mut grants = Vec::new();
    let refused = loop {
        match greedy.lane() {
            Ok(grant) => grants.push(grant),
            Err(ConnectionError::Refused { status, .. }) => break status,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(refused, status::LIMIT);
    assert!(grants.len() <= 4, "{} lanes of 4", grants.len());
    drop((grants, greedy));
    host.settle();
    host.client(&["compute-once"]).succeed();
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let host = Host::start();
    host.client(&["compute-once"]).succeed();
    host.settle();
    let agent = host.agent.pid();
    let held = || (host.workers().len(), descriptors(agent), threads(agent));
    let before = steady(held);
    let mut noise = Noise::new(9);
    for round in 0..100 {
        let socket = Packets::connect(&host.agent_socket());
        match round % 4 {
            0 => {}
            1 => socket.send(&noise.bytes(24)),
            // Gone before the answer.
            2 => socket
                .send(Request { kind: kind::HELLO, arg2: 0, arg0: 0, arg1: u64::from(VERSION) }.as_bytes()),
            _ => {
                let arg0 = hello::SNAPSHOT_ONLY;
                assert_eq!(socket.ask(kind::HELLO, arg0, u64::from(VERSION)), Some(status::OK));
            }
        }
    }
    host.settle();
    assert_eq!(steady(held), before, "workers, descriptors, threads");
    host.client(&["compute-once"]).succeed();
}
