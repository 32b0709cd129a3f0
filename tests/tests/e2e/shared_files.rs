//! Files of programs that become windows: whatever a program does with its file, it suffers alone.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use vgpu_client::{Connection, ConnectionError, Mode};
use vgpu_spec::wire::control::status;
use vgpu_tests::host::Host;

/// Where neither this process nor a worker has anything.
const PLACE: u64 = 0x4000_0000_0000;
const LEN: u64 = 1 << 20;

fn file(len: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, len).unwrap();
    file
}

fn refused<T: std::fmt::Debug>(result: Result<T, ConnectionError>) -> u32 {
    match result {
        Err(ConnectionError::Refused { status, .. }) => status,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_file_that_is_cut_short_costs_nobody_else() {
    let mut host = Host::start();
    let mut neighbour = host.client(&["compute"]).start();
    neighbour.expect("computing");
    let connection = Connection::open_at(&host.agent_socket(), Mode::Full).unwrap();
    let shared = file(LEN);
    let window = connection.window_adopt(shared.as_fd(), 0, LEN, PLACE).unwrap();
    rustix::fs::ftruncate(&shared, 0).unwrap();
    let again = connection.window_adopt(shared.as_fd(), 0, LEN, PLACE + LEN);
    assert_eq!(refused(again), status::FAILED, "it is shorter now");
    connection.window_free(window).unwrap();
    neighbour.finish().assert_success();
    host.client(&["compute-once"]).succeed();
    host.agent.assert_alive();
}

#[test]
fn files_are_limited_and_their_places_come_back() {
    let mut host = Host::start();
    let connection = Connection::open_at(&host.agent_socket(), Mode::Full).unwrap();
    let shared = file(LEN);
    for _ in 0..5 {
        let adopt = |i: u64| connection.window_adopt(shared.as_fd(), 4096, 4096, PLACE + i * 4096);
        let windows: Vec<u32> = (0..128).map(|i| adopt(i).unwrap()).collect();
        assert_eq!(refused(adopt(128)), status::LIMIT);
        windows.into_iter().for_each(|window| connection.window_free(window).unwrap());
    }
    // What is left when a client goes is taken back too.
    let left = connection.window_adopt(shared.as_fd(), 0, LEN, PLACE);
    assert!(left.is_ok());
    drop(connection);
    host.client(&["compute-once"]).succeed();
    host.agent.assert_alive();
}

#[test]
fn files_that_a_program_could_spoil_are_refused() {
    let host = Host::start();
    let connection = Connection::open_at(&host.agent_socket(), Mode::Full).unwrap();
    let adopt = |file: &OwnedFd, offset, len| connection.window_adopt(file.as_fd(), offset, len, PLACE);
    let sealable = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&sealable, LEN).unwrap();
    assert_eq!(refused(adopt(&sealable, 0, LEN)), status::FAILED);
    assert_eq!(
        refused(adopt(&OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap()), 0, 4096)),
        status::FAILED
    );
    let good = file(LEN);
    for (offset, len, expected) in [
        (LEN, 4096, status::FAILED),
        (0, LEN + 4096, status::FAILED),
        (0, 0, status::INVALID),
        (0, 100, status::INVALID),
        (0, 1 << 46, status::FAILED),
    ] {
        assert_eq!(refused(adopt(&good, offset, len)), expected, "{offset:#x} {len:#x}");
    }
    assert!(adopt(&good, LEN - 4096, 4096).is_ok());
}
