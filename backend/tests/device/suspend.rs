//! Suspending VMs, with a real broker and checkpointer. The null driver moves nothing; it keeps account of where each process is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::broker::{Broker, eventually, kill, runs};
use crate::guest::*;
use crate::operator::{done, operated, refused, vm};
use serde_json::Value;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::lane::{function_id, state};

fn ready(broker: &Broker) -> (Guest, u32) {
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
    call(&mut guest);
    (guest, broker.client_worker(1))
}

fn call(guest: &mut Guest) {
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
}

fn path(broker: &Broker, name: &str) -> PathBuf {
    broker.socket.with_file_name(name)
}

/// Where the driver says that a process is: 0 running, 1 locked, 2 moved.
fn driver_state(broker: &Broker, pid: u32) -> String {
    std::fs::read_to_string(path(broker, &format!("checkpoint-{pid}"))).unwrap_or_else(|_| "0".into())
}

fn place(broker: &Broker, name: &str) -> Value {
    vm(broker, name)["presence"]["place"].clone()
}

#[test]
fn a_call_of_the_guest_brings_its_vm_back() {
    let broker = operated("suspend", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm"]);
    assert_eq!((driver_state(&broker, worker).as_str(), place(&broker, "vm")), ("2", "suspended".into()));
    assert!(done(&broker, &["status"]).contains("suspended"));
    assert!(done(&broker, &["top", "--once"]).contains("vm (suspended)"));
    done(&broker, &["vm", "suspend", "vm"]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(driver_state(&broker, worker), "2", "nobody called");
    call(&mut guest);
    assert_eq!((driver_state(&broker, worker).as_str(), place(&broker, "vm")), ("0", "running".into()));
    done(&broker, &["vm", "resume", "vm"]);
    assert_eq!(vm(&broker, "vm")["presence"]["suspensions"], 1);
    assert!(runs(worker));
}

#[test]
fn a_vm_that_is_held_waits_for_the_command() {
    let broker = operated("suspend-hold", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm", "--hold"]);
    let before = guest.queues[2].used();
    guest.queues[2].post(3, &message(1, &[], &[]));
    // Another client may come, and waits too; so do windows of the first.
    guest.open(2);
    assert_eq!(guest.attach(2, 3), status::OK);
    guest.queues[3].post(3, &message(1, &[], &[]));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((guest.queues[2].used(), driver_state(&broker, worker).as_str()), (before, "2"));
    assert_eq!(vm(&broker, "vm")["presence"]["hold"], true);
    done(&broker, &["vm", "resume", "vm"]);
    guest.queues[2].finish();
    guest.queues[3].finish();
    assert_eq!(driver_state(&broker, worker), "0");
}

#[test]
fn a_held_vm_that_is_suspended_again_without_it_comes_back_for_what_waits() {
    let broker = operated("suspend-unhold", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm", "--hold"]);
    guest.queues[2].post(3, &message(1, &[], &[]));
    done(&broker, &["vm", "suspend", "vm"]);
    guest.queues[2].finish();
    assert_eq!(driver_state(&broker, worker), "0");
}

#[test]
fn a_window_of_a_suspended_vm_is_mapped_when_it_is_back() {
    let broker = operated("suspend-window", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm"]);
    assert_eq!(guest.map(1, 1, vgpu_spec::wire::WINDOW_AREA, &[20]), status::OK);
    assert_eq!(driver_state(&broker, worker), "0");
}

#[test]
fn a_lane_of_a_suspended_vm_can_be_stopped() {
    let broker = operated("suspend-stop", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm", "--hold"]);
    guest.queues[2].post(3, &message(1, &[], &[]));
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(guest.close(1), status::OK);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(!runs(worker));
    done(&broker, &["vm", "resume", "vm"]);
}

#[test]
fn what_cannot_be_moved_goes_on_and_says_why() {
    let broker = operated("suspend-fail", &[]);
    let (mut guest, worker) = ready(&broker);
    for (step, says) in [("lock", "does not end within 10s"), ("save", "saving worker")] {
        let trouble = path(&broker, &format!("fail-{step}"));
        std::fs::write(&trouble, "").unwrap();
        refused(&broker, &["vm", "suspend", "vm"], 1, says);
        std::fs::remove_file(&trouble).unwrap();
        assert_eq!((driver_state(&broker, worker).as_str(), place(&broker, "vm")), ("0", "running".into()));
        assert!(vm(&broker, "vm")["presence"]["failure"].as_str().unwrap().contains(says));
        assert!(done(&broker, &["status"]).contains(says));
        call(&mut guest);
    }
    done(&broker, &["vm", "suspend", "vm"]);
    assert_eq!(vm(&broker, "vm")["presence"]["failure"], Value::Null);
    call(&mut guest);
}

#[test]
fn of_several_workers_all_are_moved_or_none() {
    let broker = operated("suspend-several", &[]);
    let (mut guest, first) = ready(&broker);
    guest.open(2);
    assert_eq!(guest.attach(2, 3), status::OK);
    let second = broker.client_worker(2);
    let states = |broker: &Broker| [first, second].map(|pid| driver_state(broker, pid));
    // The driver knows better than the broker where the second is.
    let theirs = path(&broker, &format!("checkpoint-{second}"));
    std::fs::write(&theirs, "1").unwrap();
    refused(&broker, &["vm", "suspend", "vm"], 1, &format!("locking worker {second}"));
    assert_eq!(states(&broker), ["0", "0"]);
    done(&broker, &["vm", "suspend", "vm"]);
    assert_eq!(states(&broker), ["2", "2"]);
    // The one that is killed meanwhile does not keep the other away.
    kill(second, libc::SIGKILL);
    eventually("lost", || guest.queues[3].status().state == state::LOST, || broker.log());
    call(&mut guest);
    assert_eq!(driver_state(&broker, first), "0");
    assert_eq!(guest.close(2), status::OK);
}

#[test]
fn a_worker_that_is_killed_while_it_is_moved_ends_as_any_other() {
    let mut broker = operated("suspend-killed", &[]);
    let (mut guest, worker) = ready(&broker);
    std::fs::write(path(&broker, "slow-save"), "1000").unwrap();
    std::thread::scope(|scope| {
        let command = scope.spawn(|| done(&broker, &["vm", "suspend", "vm"]));
        eventually("locked", || driver_state(&broker, worker) == "1", || broker.log());
        kill(worker, libc::SIGKILL);
        command.join().unwrap();
    });
    eventually("lost", || guest.queues[2].status().state == state::LOST, || broker.log());
    assert_eq!(guest.close(1), status::OK);
    std::fs::remove_file(path(&broker, "slow-save")).unwrap();
    guest.open(2);
    assert_eq!(guest.attach(2, 2), status::OK);
    call(&mut guest);
    assert_eq!(place(&broker, "vm"), "running");
    assert!(broker.is_alive());
}

#[test]
fn a_checkpointer_that_dies_is_replaced_and_nobody_stays_locked() {
    let broker = operated("suspend-helper", &[]);
    let (mut guest, worker) = ready(&broker);
    std::fs::write(path(&broker, "slow-save"), "2000").unwrap();
    std::thread::scope(|scope| {
        let command = scope.spawn(|| refused(&broker, &["vm", "suspend", "vm"], 1, "goes on"));
        eventually("locked", || driver_state(&broker, worker) == "1", || broker.log());
        kill(broker.child_called("vgpu-checkpointer"), libc::SIGKILL);
        command.join().unwrap();
    });
    assert_eq!(driver_state(&broker, worker), "0");
    call(&mut guest);
    std::fs::remove_file(path(&broker, "slow-save")).unwrap();
    done(&broker, &["vm", "suspend", "vm"]);
    call(&mut guest);
}

#[test]
fn a_full_device_keeps_a_vm_away_until_there_is_room() {
    let broker = operated("suspend-full", &[]);
    let (mut guest, worker) = ready(&broker);
    done(&broker, &["vm", "suspend", "vm"]);
    let full = path(&broker, "fail-restore");
    std::fs::write(&full, "").unwrap();
    guest.queues[2].post(3, &message(1, &[], &[]));
    broker.wait_log("waits for device memory");
    eventually("away", || place(&broker, "vm") == "suspended", || broker.log());
    assert_eq!(driver_state(&broker, worker), "2");
    std::fs::remove_file(&full).unwrap();
    guest.queues[2].finish();
    assert_eq!(driver_state(&broker, worker), "0");
}

/// Two VMs on a device that has room for one of them.
fn crowded(name: &str, all: &[&str], each: &[&str]) -> (Broker, [(Guest, u32); 2]) {
    let other = format!("{}/vgpu-{}-{name}.sock", std::env::temp_dir().display(), std::process::id());
    let broker = operated(name, &[all, each, &["--socket", &other], each].concat());
    let guests = [(broker.socket.clone(), 1), (other.into(), 2)].map(|(socket, n)| {
        let mut guest = Guest::connect(&socket);
        let _ = std::fs::remove_file(&socket);
        guest.hello();
        guest.open(1);
        assert_eq!(guest.attach(1, 2), status::OK);
        let worker = broker.client_worker(n);
        std::fs::write(path(&broker, &format!("user-{worker}")), "").unwrap();
        (guest, worker)
    });
    std::fs::write(path(&broker, "small-device"), "").unwrap();
    (broker, guests)
}

fn allocate(guest: &mut Guest, bytes: u64) -> u32 {
    guest.queues[2].call(&message(function_id("cuMemAlloc_v2"), &[], &bytes.to_le_bytes())).0.status
}

const OUT_OF_MEMORY: u32 = 2;

#[test]
fn an_idle_vm_makes_room_and_comes_back_when_the_other_is_idle() {
    let (broker, [(mut one, first), (mut two, second)]) =
        crowded("room", &["--oversubscribe"], &["--suspend-after", "1"]);
    let states = || [first, second].map(|pid| driver_state(&broker, pid));
    assert_eq!(allocate(&mut two, 4096), 0);
    assert_eq!(states(), ["2", "0"]);
    broker.wait_log("is suspended for another VM");
    call(&mut one);
    assert_eq!(states(), ["0", "2"]);
    call(&mut two);
    assert_eq!(states(), ["2", "0"]);
    // More than the device has: nobody is moved for that.
    std::fs::remove_file(path(&broker, "small-device")).unwrap();
    call(&mut one);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(allocate(&mut one, 2 << 30), OUT_OF_MEMORY);
    assert_eq!(states(), ["0", "0"]);
}

#[test]
fn vms_that_work_take_turns_on_a_full_device() {
    let (broker, [(mut one, first), (mut two, second)]) =
        crowded("busy", &["--oversubscribe"], &["--suspend-after", "1000"]);
    let states = || [first, second].map(|pid| driver_state(&broker, pid));
    let allocation = message(function_id("cuMemAlloc_v2"), &[], &4096_u64.to_le_bytes());
    two.queues[2].post(3, &allocation);
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    // Until it has been away.
    while longest < Duration::from_secs(1) {
        assert!(start.elapsed() < Duration::from_secs(20), "nobody is moved");
        let call_start = Instant::now();
        call(&mut one);
        longest = call_start.elapsed();
    }
    two.queues[2].finish();
    assert_eq!(two.queues[2].status().error_count, 0, "the allocation succeeded");
    // The other kept what it was given for a while.
    assert!(longest > Duration::from_secs(9) && longest < Duration::from_secs(15), "{longest:?}");
    assert_eq!(states(), ["0", "2"]);
}

#[test]
fn nobody_is_moved_who_may_not_be() {
    for (name, all, each) in [
        ("room-off", &[][..], &["--suspend-after", "1"][..]),
        ("room-never", &["--oversubscribe"], &[]),
        ("room-limit", &["--oversubscribe"], &["--suspend-after", "1", "--device-memory", "1"]),
    ] {
        let (broker, [(_one, first), (mut two, second)]) = crowded(name, all, each);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(allocate(&mut two, 64 << 20), OUT_OF_MEMORY, "{name}");
        assert_eq!([first, second].map(|pid| driver_state(&broker, pid)), ["0", "0"], "{name}");
    }
}

#[test]
fn a_vm_that_cannot_be_moved_makes_no_room() {
    let (broker, [(mut one, first), (mut two, _)]) =
        crowded("room-fail", &["--oversubscribe"], &["--suspend-after", "1"]);
    std::fs::write(path(&broker, "fail-save"), "").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(allocate(&mut two, 4096), OUT_OF_MEMORY);
    assert_eq!(driver_state(&broker, first), "0");
    call(&mut one);
}

#[test]
fn a_vm_without_processes_is_suspended_too() {
    let broker = operated("suspend-empty", &[]);
    refused(&broker, &["vm", "suspend", "nobody"], 1, "there is none of that name");
    done(&broker, &["vm", "suspend", "vm", "--hold"]);
    assert_eq!(place(&broker, "vm"), "suspended");
    done(&broker, &["vm", "remove", "vm"]);
}
