//! What becomes of everybody when a daemon dies.

use std::time::{Duration, Instant};

use vgpu_tests::host::Host;
use vgpu_tests::poll::{eventually, within};
use vgpu_tests::process::{kill, runs};

#[test]
fn killed_worker_is_an_error_within_a_second_and_the_next_process_works() {
    let mut host = Host::start();
    let mut client = host.client(&["lose"]).start();
    client.expect("ready");
    kill(host.worker_of(client.pid(), 0), libc::SIGKILL);
    // Also that the calls returned within a second.
    client.go();
    let outcome = client.finish();
    outcome.assert_success();
    assert_eq!(outcome.lines, ["lost"]);
    host.client(&["compute-once"]).succeed();
    host.broker.assert_alive();
    host.agent.assert_alive();
}

#[test]
fn thread_that_begins_after_the_worker_s_death_gets_the_same_error() {
    let host = Host::start();
    let mut client = host.client(&["lose-before-a-thread"]).start();
    client.expect("ready");
    let worker = host.worker_of(client.pid(), 0);
    kill(worker, libc::SIGKILL);
    eventually("the broker knows", || host.broker.log().contains("worker lost"));
    client.go();
    let outcome = client.finish();
    outcome.assert_success();
    assert_eq!(outcome.lines, ["lost"]);
}

#[test]
fn worker_killed_during_a_call_ends_the_call() {
    let mut host = Host::start();
    let mut client = host.client(&["lose-in-call"]).start();
    client.expect("waiting");
    client.expect("waiting");
    kill(host.worker_of(client.pid(), 0), libc::SIGKILL);
    let killed = Instant::now();
    assert_eq!(client.line(), "lost");
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    client.finish().assert_success();
    host.client(&["compute-once"]).succeed();
    host.broker.assert_alive();
}

#[test]
fn worker_killed_while_warm_is_replaced() {
    let mut host = Host::start();
    for _ in 0..5 {
        let warm = host.workers()[0];
        kill(warm, libc::SIGKILL);
        eventually("another worker is warm", || matches!(host.workers()[..], [other] if other != warm));
        host.client(&["compute-once"]).succeed();
        host.settle();
    }
    host.broker.assert_alive();
}

#[test]
fn killed_agent_loses_its_clients_and_can_be_started_again() {
    let mut host = Host::start();
    let mut client = host.client(&["spin"]).start();
    client.expect("spinning");
    let worker = host.worker_of(client.pid(), 0);
    host.agent.kill();
    let killed = Instant::now();
    assert_eq!(client.line(), "lost");
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    client.finish().assert_success();
    eventually("the worker ends", || !runs(worker));
    // Its socket is still there: stale, and replaced.
    assert!(host.agent_socket().exists());
    host.restart_agent();
    host.client(&["compute-once"]).succeed();
    host.broker.assert_alive();
}

#[test]
fn terminated_agent_ends_in_order_and_leaves_no_socket() {
    let mut host = Host::start();
    let mut client = host.client(&["spin"]).start();
    client.expect("spinning");
    kill(host.agent.pid(), libc::SIGTERM);
    assert!(host.agent.wait().success(), "{}", host.agent.log());
    assert!(!host.agent_socket().exists());
    assert_eq!(client.line(), "lost");
    host.settle();
    host.restart_agent();
    host.client(&["compute-once"]).succeed();
}

#[test]
fn killed_broker_is_told_by_the_agent_and_an_error_to_clients() {
    let mut host = Host::start();
    let mut client = host.client(&["spin"]).start();
    client.expect("spinning");
    let workers = host.workers();
    host.broker.kill();
    let status = host.agent.wait();
    assert_eq!(status.code(), Some(1));
    let log = host.agent.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("ERROR") && last.contains("broker") && !log.contains("panicked"), "{log}");
    assert_eq!(client.line(), "lost");
    client.finish().assert_success();
    eventually("no worker is left", || !workers.iter().any(|&pid| runs(pid)));
    // The stale socket is replaced, and all begins anew.
    assert!(host.broker_socket().exists());
    host.restart_broker();
    host.restart_agent();
    host.client(&["compute-once"]).succeed();
}

#[test]
fn terminated_broker_removes_its_socket() {
    let mut host = Host::start();
    let workers = host.workers();
    kill(host.broker.pid(), libc::SIGTERM);
    assert!(host.broker.wait().success());
    assert!(!host.broker_socket().exists());
    assert_eq!(host.agent.wait().code(), Some(1));
    assert!(within(Duration::from_secs(5), || !workers.iter().any(|&pid| runs(pid))), "workers are left");
}

#[test]
fn agent_tells_systemd_when_it_serves() {
    let (host, free) = Host::options().start_with_second_socket();
    let path = host.folder().join("notify.sock");
    let notify = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(vgpu_tests::poll::PATIENCE)).unwrap();
    let socket = host.folder().join("second-agent.sock");
    let mut command = std::process::Command::new(&host.artifacts.agent);
    command.arg("serve").arg("--backend").arg(&free).arg("--socket").arg(&socket).env("NOTIFY_SOCKET", &path);
    let _agent = vgpu_tests::daemon::Daemon::spawn("second agent", command);
    let mut bytes = [0; 64];
    let count = notify.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"READY=1");
    assert!(socket.exists(), "ready, and nobody can connect");
}
