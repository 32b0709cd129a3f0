//! The life of client processes.

use vgpu_tests::host::Host;
use vgpu_tests::poll::eventually;
use vgpu_tests::process::{descriptors, kill, memfd_bytes, runs, threads};

/// What a daemon holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory: u64,
}

impl Held {
    fn by(pid: u32) -> Self {
        Held { descriptors: descriptors(pid), threads: threads(pid), memory: memfd_bytes(pid) }
    }

    fn at_most(&self, other: Self) -> bool {
        self.descriptors <= other.descriptors && self.threads <= other.threads && self.memory <= other.memory
    }
}

/// Waits until broker and agent hold no more than `before`.
fn assert_given_back(host: &Host, before: [Held; 2]) {
    let now = || [Held::by(host.broker.pid()), Held::by(host.agent.pid())];
    let what = format!("broker and agent hold no more than {before:?}");
    eventually(&what, || now().iter().zip(before).all(|(now, before)| now.at_most(before)));
}

fn settled(host: &Host) -> [Held; 2] {
    // Both have made what they make once only.
    host.client(&["compute-once"]).succeed();
    host.settle();
    let log = |host: &Host| host.agent.log().matches("closed").count();
    eventually("the agent has closed the client", || log(host) > 0);
    [Held::by(host.broker.pid()), Held::by(host.agent.pid())]
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
    let before = settled(&host);
    let mut client = host.client(&["spin"]).start();
    client.expect("spinning");
    let worker = host.worker_of(client.pid(), 0);
    client.kill();
    eventually("the worker ends", || !runs(worker));
    assert_eq!(host.client(&["memory"]).succeed(), full);
    host.settle();
    assert_given_back(&host, before);
    host.broker.assert_alive();
    host.agent.assert_alive();
}

#[test]
fn fifty_killed_clients_leave_nothing_behind() {
    let mut host = Host::start();
    let full = host.client(&["memory"]).succeed();
    let before = settled(&host);
    for round in 0..50 {
        let (scenario, word) = if round % 2 == 0 { ("spin", "spinning") } else { ("copy-for-ever", "copying") };
        let mut client = host.client(&[scenario]).start();
        client.expect(word);
        let worker = host.worker_of(client.pid(), 0);
        assert!(runs(worker));
        kill(client.pid(), libc::SIGKILL);
        eventually("the worker ends", || !runs(worker));
    }
    assert_eq!(host.client(&["memory"]).succeed(), full);
    host.settle();
    assert_given_back(&host, before);
    host.broker.assert_alive();
    host.agent.assert_alive();
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
    host.client(&["compute-once"]).succeed();
    clients.pop().unwrap().finish().assert_success();
}
