//! The life of workers: death, close, reset, disconnection, a changed memory table.

use std::time::Duration;

use crate::broker::{Broker, eventually, kill, runs};
use crate::guest::*;
use vgpu_spec::wire::control::{Event, event, status};
use vgpu_spec::wire::lane::{Dependency, function_id, state};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use zerocopy::IntoBytes;

fn ready(broker: &Broker) -> Guest {
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    for queue in [2, 3] {
        assert_eq!(guest.attach(1, queue), status::OK);
    }
    guest
}

/// Posts a buffer for an event.
fn post_event_buffer(guest: &mut Guest) {
    let queue = &mut guest.queues[1];
    let address = queue.command(0);
    queue.descriptor(0, address, size_of::<Event>() as u32, WRITE, 0);
    queue.offer(0);
    queue.kick.write(1).unwrap();
}

/// Posts messages that wait for ever.
fn block(guest: &mut Guest, count: u16) {
    let dependency = Dependency { lane: 3, reserved: 0, count: 1000 };
    let bytes = message(1, dependency.as_bytes(), &[]);
    for i in 0..count {
        guest.queues[2].post(i, &bytes);
    }
}

#[test]
fn killed_worker_loses_its_lanes_and_its_client_can_be_closed() {
    let broker = Broker::start("killed", &[]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    guest.queues[2].call(&message(1, &[], &[]));
    post_event_buffer(&mut guest);
    block(&mut guest, 7);
    let _ = guest.queues[2].call.read();
    guest.queues[2].interrupt_at(5000);
    kill(worker, libc::SIGKILL);
    guest.queues[2].finish();
    for i in 0..7 {
        assert_eq!(guest.queues[2].used_element(1 + i), (u32::from(i), 0));
    }
    eventually("the call is signalled", || guest.queues[2].call.read().is_ok(), String::new);
    for queue in [2, 3] {
        assert_eq!(guest.queues[queue].status().state, state::LOST);
    }
    guest.queues[1].finish();
    let told: Event = guest.queues[1].get(guest.queues[1].layout.commands);
    assert_eq!((told.kind, told.client, told.signal), (event::WORKER_LOST, 1, 9));
    assert_eq!(guest.attach(1, 4), status::NO_CLIENT);
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(guest.queues[2].status().state, state::IDLE);
    // The next client uses the same lanes, their indices running on.
    guest.open(2);
    assert_eq!(guest.attach(2, 2), status::OK);
    assert_eq!(guest.queues[2].status().error_count, 0);
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
}

#[test]
fn lost_worker_with_a_corrupt_ring_is_cleaned_up() {
    let mut broker = Broker::start("corrupt", &[]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    guest.queues[2].publish(40_000);
    kill(worker, libc::SIGABRT);
    eventually("lost", || guest.queues[2].status().state == state::LOST, || broker.log());
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(guest.queues[2].used(), 40_000);
    assert!(broker.is_alive());
}

#[test]
fn event_waits_for_a_buffer() {
    let broker = Broker::start("event", &[]);
    let mut guest = ready(&broker);
    kill(broker.client_worker(1), libc::SIGABRT);
    broker.wait_log("worker lost: signal 6");
    post_event_buffer(&mut guest);
    guest.queues[1].finish();
    let told: Event = guest.queues[1].get(guest.queues[1].layout.commands);
    assert_eq!((told.client, told.signal), (1, 6));
}

#[test]
fn closed_client_leaves_idle_lanes_and_no_worker() {
    let broker = Broker::start("close", &["--warm", "0"]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    block(&mut guest, 3);
    assert_eq!(guest.close(1), status::OK);
    assert!(!runs(worker), "the worker still runs after the reply");
    let lane = &guest.queues[2];
    assert_eq!((lane.status().state, lane.used()), (state::IDLE, lane.avail));
    assert_eq!(guest.close(1), status::NO_CLIENT);
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
}

#[test]
fn client_stuck_in_a_call_can_be_closed() {
    let broker = Broker::start("stuck", &[]);
    let mut guest = ready(&broker);
    guest.queues[2].post(0, &message(function_id("cuCtxSynchronize"), &[], &[]));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.queues[2].used(), 0);
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(guest.queues[2].used(), 1);
}

#[test]
fn stopping_a_lane_that_is_stuck_in_a_call_ends_its_worker() {
    let broker = Broker::start("stuck-stop", &[]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    guest.queues[2].post(0, &message(function_id("cuCtxSynchronize"), &[], &[]));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.frontend.get_vring_base(2).unwrap(), 0);
    assert!(!runs(worker));
    broker.wait_log("worker lost");
}

#[test]
fn front_end_that_goes_away_takes_its_workers_along() {
    let mut broker = Broker::start("gone", &["--warm", "0"]);
    let mut descriptors = 0;
    for round in 0..5 {
        let mut guest = ready(&broker);
        block(&mut guest, 3);
        let worker = broker.client_worker(round + 1);
        assert!(runs(worker));
        drop(guest);
        eventually("the worker ends", || !runs(worker), || broker.log());
        eventually("no child is left", || broker.workers().is_empty(), || broker.log());
        eventually(
            "the next is awaited",
            || broker.log().matches("front end disconnected").count() == round + 1,
            || broker.log(),
        );
        std::thread::sleep(Duration::from_millis(100));
        match round {
            0 => {}
            1 => descriptors = broker.descriptors(),
            _ => assert!(broker.descriptors() <= descriptors, "descriptors leak"),
        }
    }
    assert!(broker.is_alive());
}

#[test]
fn device_reset_ends_the_workers() {
    let broker = Broker::start("reset", &["--warm", "0"]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    guest.frontend.reset_device().unwrap();
    assert!(!runs(worker));
}

#[test]
fn stopped_device_ends_the_workers_after_a_while() {
    let broker = Broker::start("stopped", &["--warm", "0"]);
    let guest = ready(&broker);
    let worker = broker.client_worker(1);
    for queue in 0..usize::from(QUEUES) {
        guest.frontend.get_vring_base(queue).unwrap();
    }
    assert!(runs(worker), "a paused VM keeps its workers for a while");
    eventually("the worker ends", || !runs(worker), || broker.log());
}

#[test]
fn device_started_anew_has_no_clients() {
    let broker = Broker::start("anew", &["--warm", "0"]);
    let mut guest = ready(&broker);
    let worker = broker.client_worker(1);
    for queue in 0..usize::from(QUEUES) {
        guest.frontend.get_vring_base(queue).unwrap();
    }
    // As after a reboot: indices at 0 again.
    for queue in 0..usize::from(QUEUES) {
        let q = &mut guest.queues[queue];
        q.avail = 0;
        q.publish(0);
        q.put(q.layout.used + 2, &[0, 0]);
        guest.start_queue(queue, 0);
    }
    eventually("the worker ends", || !runs(worker), || broker.log());
    guest.hello();
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
}

#[test]
fn memory_table_that_keeps_the_regions_goes_on() {
    let broker = Broker::start("table", &[]);
    let mut guest = ready(&broker);
    guest.set_memory();
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
    assert_eq!(guest.attach(1, 4), status::OK);
}

#[test]
fn worker_inherits_nothing_of_a_vm() {
    let broker = Broker::start("inherit", &["--warm", "1"]);
    let before = broker.workers();
    let mut guest = ready(&broker);
    let client = broker.client_worker(1);
    // Executed while the broker held this VM's memory and eventfds.
    eventually("a new warm worker", || broker.workers().iter().any(|&pid| pid != client), || broker.log());
    guest.open(2);
    let second = broker.client_worker(2);
    assert!(!before.contains(&second), "the second worker is older than the VM");
    let fds: Vec<String> = std::fs::read_dir(format!("/proc/{second}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    assert!(!fds.iter().any(|fd| fd.contains("memfd")), "{fds:#?}");
    // Given to it: that by which it tells the scheduler of its own VM.
    assert_eq!(fds.iter().filter(|fd| fd.contains("eventfd")).count(), 1, "{fds:#?}");
    assert_eq!(fds.iter().filter(|fd| fd.contains("socket")).count(), 1, "{fds:#?}");
}

#[test]
fn warm_pool_is_refilled() {
    let broker = Broker::start("warm", &["--warm", "2"]);
    eventually("two warm workers", || broker.workers().len() == 2, || broker.log());
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    eventually("one more", || broker.workers().len() == 3, || broker.log());
    let client = broker.client_worker(1);
    let warm = broker.workers().into_iter().find(|&pid| pid != client).unwrap();
    kill(warm, libc::SIGKILL);
    eventually(
        "replaced",
        || broker.workers().len() == 3 && !broker.workers().contains(&warm),
        || broker.log(),
    );
}

#[test]
fn killed_broker_takes_its_workers_along() {
    let broker = Broker::start("orphan", &["--warm", "2"]);
    eventually("two warm workers", || broker.workers().len() == 2, || broker.log());
    let workers = broker.workers();
    kill(broker.pid(), libc::SIGKILL);
    eventually("no worker is left", || !workers.iter().any(|&pid| runs(pid)), String::new);
}
