//! What a forked child may do. One test in one process, since a fork concerns all of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod support;

use rustix::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use support::agent::{Agent, Behaviour};
use support::eventually;
use vgpu_client::{Connection, ConnectionError, Heap, HeapError, LaneError, Lanes, Mode, Windows};

/// One that the parent holds while it forks, and one that nobody holds.
static HELD: Mutex<()> = Mutex::new(());
static FREE: Mutex<()> = Mutex::new(());

/// What the child finds: a bit per expectation that did not hold.
fn child(lanes: &'static Lanes, heap: &Heap, connection: &Connection, address: u64) -> i32 {
    let call = lanes.with(|lane| lane.begin(1, 0, 0, None).and_then(|message| message.submit()));
    let expectations = [
        vgpu_client::fork::forked(),
        matches!(call, Err(LaneError::Forked)),
        matches!(heap.alloc(1, 1), Err(HeapError::Forked)),
        !heap.free(address),
        matches!(connection.lane(), Err(ConnectionError::Forked { .. })),
        vgpu_client::fork::lock(&HELD).is_none(),
        vgpu_client::fork::lock(&FREE).is_some(),
    ];
    expectations.iter().enumerate().map(|(bit, holds)| i32::from(!holds) << bit).sum()
}

#[test]
fn a_forked_child_fails_quickly_and_leaves_its_parent_alone() {
    let agent = Agent::start(Behaviour::default());
    let connection = Arc::new(Connection::open_at(&agent.path, Mode::Full).unwrap());
    let lanes: &'static Lanes = Box::leak(Box::new(Lanes::new(connection.clone())));
    let heap = Heap::new(Arc::new(Windows::new(connection.clone())), 64 << 20);
    let address = heap.alloc(100, 1).unwrap();
    let call = || {
        lanes.with(|lane| lane.begin(7, 0, 0, Some(0))?.submit_and_wait().map(|reply| reply.status)).unwrap()
    };
    assert_eq!(call().unwrap(), 7);
    // A second client, whose end the agent must see although a child lives.
    let second = Connection::open_at(&agent.path, Mode::Full).unwrap();

    let held = HELD.lock().unwrap();
    let (end, hold) = rustix::pipe::pipe().unwrap();
    // SAFETY: the child calls only what a child may call after fork with threads: nothing that locks or allocates.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let failures = child(lanes, &heap, &connection, address);
        drop(hold);
        let mut byte = [0];
        // Lives until the parent closes its end.
        let _ = rustix::io::read(end.as_fd(), &mut byte);
        // SAFETY: ends the child without running the test harness's destructors.
        unsafe { libc::_exit(failures) };
    }
    drop(held);
    assert!(!vgpu_client::fork::forked());
    assert!(vgpu_client::fork::lock(&HELD).is_some());
    drop(second);
    eventually("the agent sees the end of a client", || agent.state.ended.load(Ordering::SeqCst) == 1);
    drop(hold);
    let mut status = 0;
    // SAFETY: waits for a child of this process, and writes to a local.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status));
    assert_eq!(libc::WEXITSTATUS(status), 0, "bits of the expectations that failed");
    // The parent's lane and windows work as before.
    assert_eq!(call().unwrap(), 7);
    assert!(heap.free(address));
    assert!(connection.lane().is_ok());
}
