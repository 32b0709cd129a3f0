//! The handshake and its errors, against an agent on a socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod support;

use std::error::Error;
use std::path::Path;
use support::agent::{Agent, Behaviour};
use vgpu_client::connection::{Connection, ConnectionError, Mode};
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::socket::hello;
use vgpu_spec::wire::{Range, VERSION};

#[test]
fn a_missing_agent_is_reported_with_what_to_do() {
    let path = Path::new("/nonexistent/agent.sock");
    let error = Connection::open_at(path, Mode::Full).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("vgpu: no agent at /nonexistent/agent.sock: start vgpu-agent as root"),
        "{text}"
    );
    assert!(error.source().is_some());
}

#[test]
fn a_socket_that_nobody_listens_on_is_a_missing_agent() {
    let path = std::env::temp_dir().join(format!("vgpu-client-dead-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    // A stream socket that is dead and a packet socket that is asked for: refused either way.
    let error = Connection::open_at(&path, Mode::Full).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(error, ConnectionError::NoAgent { .. }), "{error:?}");
}

#[test]
fn the_handshake_tells_about_client_devices_and_ranges() {
    let agent = Agent::start(Behaviour::default());
    let connection = Connection::open_at(&agent.path, Mode::Full).unwrap();
    assert_eq!(connection.client, 5);
    assert_eq!(connection.snapshot.header.driver_version, 13000);
    assert_eq!(connection.device_ranges, [Range { base: 0x2900_0000_0000, len: 1 << 30 }]);
    let hello = agent.state.last_hello.lock().unwrap().unwrap();
    assert_eq!((hello.arg0, hello.arg1), (0, u64::from(VERSION)));
    let grant = connection.lane().unwrap();
    assert_eq!(grant.reply.queue, 2);
    drop(Connection::open_at(&agent.path, Mode::SnapshotOnly).unwrap());
    assert_eq!(agent.state.last_hello.lock().unwrap().unwrap().arg0, hello::SNAPSHOT_ONLY);
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let agent = Agent::start(Behaviour { version: VERSION + 1, ..Behaviour::default() });
    let error = Connection::open_at(&agent.path, Mode::Full).unwrap_err();
    assert!(matches!(error, ConnectionError::Version { ours: VERSION, theirs } if theirs == VERSION + 1));
}

#[test]
fn a_refusal_says_why() {
    let agent = Agent::start(Behaviour { hello_status: status::NO_WORKER, ..Behaviour::default() });
    let error = Connection::open_at(&agent.path, Mode::Full).unwrap_err();
    let text = format!("vgpu: asking the agent for a connection: {}", status::describe(status::NO_WORKER));
    assert_eq!(error.to_string(), text);
}

#[test]
fn running_out_of_lanes_leaves_the_connection_usable() {
    let agent = Agent::start(Behaviour { lanes: 1, ..Behaviour::default() });
    let connection = Connection::open_at(&agent.path, Mode::Full).unwrap();
    let _lane = connection.lane().unwrap();
    let limit = connection.lane().unwrap_err();
    assert!(matches!(limit, ConnectionError::Refused { status: status::LIMIT, .. }));
    connection.window_alloc(2 << 20, 0x3000_0000_0000).unwrap();
}

/// An agent that answers the handshake with `bytes`, or hangs up without any.
fn answering(bytes: Option<Vec<u8>>) -> ConnectionError {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let name = format!("vgpu-client-answer-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let thread = std::thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        rustix::net::recv(&socket, &mut [0; 64], RecvFlags::empty()).unwrap();
        if let Some(bytes) = bytes {
            rustix::net::send(&socket, &bytes, SendFlags::NOSIGNAL).unwrap();
        }
    });
    let error = Connection::open_at(&path, Mode::SnapshotOnly).unwrap_err();
    thread.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    error
}

#[test]
fn answers_that_are_not_whole_are_refused() {
    let answers = [
        vec![0; 3],
        vec![0, 0, 0, 0, 8, 0, 0, 0, 1],
        vec![0; 8],
        [vec![0, 0, 0, 0, 20, 0, 0, 0], vec![1; 20]].concat(),
    ];
    for answer in answers {
        let error = answering(Some(answer.clone()));
        assert!(matches!(error, ConnectionError::Malformed { .. }), "{answer:?} gave {error:?}");
    }
}

#[test]
fn an_agent_that_hangs_up_is_reported() {
    assert!(matches!(answering(None), ConnectionError::Closed { .. }));
}
