//! The life of client processes.

use std::time::Instant;

use vgpu_tests::host::Host;
use vgpu_tests::noise::Noise;
use vgpu_tests::poll::{eventually, steady};
use vgpu_tests::process::{descriptors, kill, memfd_bytes, runs, threads};
use vgpu_tests::soak;

/// Memory that lanes may take in addition when they are used for the first time; a killed client's windows are larger.
const LANES: u64 = 8 << 20;

/// What a daemon holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory: u64,
}

impl Held {
    fn by(pid: u32) -> Self {
        Held { descriptors: descriptors(pid), threads: threads(pid), memory: memfd_bytes(pid) }
    }
}

/// What broker and agent hold when nothing happens any more.
fn held(host: &Host) -> [Held; 2] {
    host.settle();
    steady(|| [Held::by(host.broker.pid()), Held::by(host.agent.pid())])
}

/// The same, after both have made what they make only once.
fn held_at_first(host: &Host) -> [Held; 2] {
    host.client(&["compute-once"]).succeed();
    held(host)
}

/// For broker and agent each.
fn assert_same(before: [Held; 2], after: [Held; 2]) {
    for (before, after) in before.into_iter().zip(after) {
        let grown = after.memory.saturating_sub(before.memory);
        assert!(grown <= LANES, "{after:?} after {before:?}");
        assert_eq!(Held { memory: 0, ..after }, Held { memory: 0, ..before });
    }
}

#[test]
fn forked_child_gets_an_error_at_once_and_the_parent_goes_on() {
    let host = Host::start();
    assert_eq!(host.client(&["fork"]).succeed(), ["forked"]);
}

#[test]
fn client_killed_during_a_kernel_leaves_nothing_behind() {
    let mut host = Host::start();
    let full = host.client(&["memory"]).succeed();
    let before = held_at_first(&host);
    let mut client = host.client(&["spin"]).start();
    client.expect("spinning");
    let worker = host.worker_now(client.pid());
    client.kill();
    eventually("the worker ends", || !runs(worker));
    assert_eq!(host.client(&["memory"]).succeed(), full);
    assert_same(before, held(&host));
    host.broker.assert_alive();
    host.agent.assert_alive();
}

#[test]
fn fifty_killed_clients_leave_nothing_behind() {
    let mut host = Host::start();
    let full = host.client(&["memory"]).succeed();
    let before = held_at_first(&host);
    for round in 0..50 {
        let (scenario, word) =
            if round % 2 == 0 { ("spin", "spinning") } else { ("copy-for-ever", "copying") };
        let mut client = host.client(&[scenario]).start();
        client.expect(word);
        let worker = host.worker_now(client.pid());
        assert!(runs(worker));
        kill(client.pid(), libc::SIGKILL);
        eventually("the worker ends", || !runs(worker));
    }
    assert_eq!(host.client(&["memory"]).succeed(), full);
    assert_same(before, held(&host));
    host.broker.assert_alive();
    host.agent.assert_alive();
}

/// What there is in the host's folder: sockets.
fn files(host: &Host) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(host.folder().path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

#[test]
fn whatever_is_killed_leaves_nothing_behind() {
    let mut host = Host::start();
    let full = host.client(&["memory"]).succeed();
    let [before, mut agent] = held_at_first(&host);
    let names = files(&host);
    println!("seed {}", soak::seed());
    let mut noise = Noise::new(soak::seed());
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < soak::seconds(4) {
        let (scenario, word) = noise.pick(&[("spin", "spinning"), ("copy-for-ever", "copying")]);
        let mut clients: Vec<_> = (0..=noise.below(3)).map(|_| host.client(&[scenario]).start()).collect();
        clients.iter_mut().for_each(|client| client.expect(word));
        let workers: Vec<_> = clients.iter().map(|client| host.worker_now(client.pid())).collect();
        match noise.below(4) {
            0 => workers.iter().for_each(|&worker| kill(worker, libc::SIGKILL)),
            1 => {
                host.agent.kill();
                host.restart_agent();
            }
            // A warm one too, and clients just after.
            2 => host.workers().iter().for_each(|&worker| kill(worker, libc::SIGKILL)),
            _ => {}
        }
        clients.iter_mut().for_each(vgpu_tests::client::Client::kill);
        eventually("the workers end", || !workers.iter().any(|&worker| runs(worker)));
        rounds += 1;
    }
    assert!(rounds > 1, "the machine is too slow for this test");
    assert_eq!(host.client(&["memory"]).succeed(), full);
    let [broker, last_agent] = held(&host);
    // A lane that was never used before takes memory in the agent that began anew.
    agent.memory = agent.memory.max(last_agent.memory.saturating_sub(LANES));
    assert_same([before, agent], [broker, last_agent]);
    assert_eq!(files(&host), names);
    host.broker.assert_alive();
}

#[test]
fn who_comes_just_after_the_warm_workers_died_gets_another() {
    let host = Host::options().broker(&["--warm", "2"]).start();
    for _ in 0..10 {
        // Not one that is starting, or has been killed already: that a start fails is another matter.
        let mut warm = Vec::new();
        eventually("workers are warm", || {
            warm = host.workers();
            warm.len() == 2 && warm.iter().all(|&worker| runs(worker) && host.is_warm(worker))
        });
        warm.iter().for_each(|&worker| kill(worker, libc::SIGKILL));
        assert_eq!(host.client(&["init"]).succeed(), ["cuInit: 0, 1 devices"]);
    }
}

#[test]
fn several_clients_at_once_compute_right_results() {
    let host = Host::start();
    let mut clients: Vec<_> = (0..6).map(|_| host.client(&["compute"]).start()).collect();
    for client in &mut clients {
        client.expect("computing");
    }
    for client in clients {
        client.finish().assert_success();
    }
}

#[test]
fn clients_beyond_the_limit_get_no_device_until_one_ends() {
    let host = Host::options().broker(&["--clients", "2"]).start();
    let mut clients: Vec<_> = (0..2).map(|_| host.client(&["compute"]).start()).collect();
    for client in &mut clients {
        client.expect("computing");
    }
    assert_eq!(host.client(&["init"]).succeed(), ["cuInit: 100"]);
    clients.pop().unwrap().finish().assert_success();
    // The place is free when the agent has closed the client, a moment after its end.
    eventually("a place is free", || host.client(&["init"]).succeed() == ["cuInit: 0, 1 devices"]);
    clients.pop().unwrap().finish().assert_success();
}
