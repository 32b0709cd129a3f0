//! Threads and their lanes, against an agent on a socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use support::agent::{Agent, Behaviour};
use support::device::{Answer, Handler, Message};
use support::eventually;
use vgpu_client::lanes::thread_number;
use vgpu_client::{Connection, ConnectionError, LaneError, Lanes, Mode};
use vgpu_spec::wire::lane::Dependency;

fn connect(agent: &Agent) -> &'static Lanes {
    let connection = Arc::new(Connection::open_at(&agent.path, Mode::Full).unwrap());
    Box::leak(Box::new(Lanes::new(connection)))
}

/// An agent whose devices tell what they see, with the lane's number.
fn watched(lanes: u16) -> (Agent, Receiver<(u16, Message)>) {
    let (sender, receiver) = channel();
    let handler = move |lane| watcher(lane, sender.clone());
    let behaviour = Behaviour { lanes, handler: Box::new(handler), ..Behaviour::default() };
    (Agent::start(behaviour), receiver)
}

fn watcher(lane: u16, sender: Sender<(u16, Message)>) -> Handler {
    Box::new(move |message| {
        let status = message.function;
        let _ = sender.send((lane, message));
        Answer::Reply(status, vec![])
    })
}

fn call(lanes: &'static Lanes, function: u32, wait: bool) -> Result<(), LaneError> {
    lanes.with(|lane| {
        let message = lane.begin(function, 0, 0, wait.then_some(0))?;
        if wait {
            assert_eq!(message.submit_and_wait()?.status, function);
            Ok(())
        } else {
            message.submit()
        }
    })?
}

fn in_thread<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    std::thread::spawn(work).join().unwrap()
}

#[test]
fn a_call_comes_after_calls_that_returned_in_other_threads() {
    let (agent, seen) = watched(4);
    let lanes = connect(&agent);
    let (to_second, from_first) = channel::<()>();
    let (to_first, from_second) = channel::<()>();
    let first = std::thread::spawn({
        move || {
            call(lanes, 1, true).unwrap();
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
            // The second thread has a lane, and the first's is paused.
            for function in 10..13 {
                call(lanes, function, false).unwrap();
            }
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
        }
    });
    from_first.recv().unwrap();
    call(lanes, 2, true).unwrap();
    agent.pause(0, true);
    std::thread::sleep(std::time::Duration::from_millis(5));
    to_first.send(()).unwrap();
    from_first.recv().unwrap();
    call(lanes, 20, true).unwrap();
    agent.pause(0, false);
    let mut by_function = BTreeMap::new();
    let mut read_until = |function| {
        while !by_function.contains_key(&function) {
            let (lane, message) = seen.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
            by_function.insert(message.function, (lane, message));
        }
        by_function[&function].clone()
    };
    // One message that was waited for, and three that returned and were not finished.
    assert_eq!(read_until(20).1.dependencies, [Dependency { lane: 2, reserved: 0, count: 4 }]);
    assert_eq!(read_until(20).0, 1);
    read_until(12);
    std::thread::sleep(std::time::Duration::from_millis(20));
    call(lanes, 21, true).unwrap();
    // The first's calls are finished now; the second's own lane is never listed.
    assert_eq!(read_until(21).1.dependencies, []);
    assert_eq!(read_until(12).1.dependencies, []);
    to_first.send(()).unwrap();
    first.join().unwrap();
}

fn launch(lanes: &'static Lanes, function: u32, stream: u64) {
    lanes.with(|lane| lane.post_launch(function, 0, stream, 0, |_| ())).unwrap().unwrap();
}

#[test]
fn launches_into_streams_of_their_own_do_not_wait_for_each_other() {
    const OURS: u64 = 0x50;
    const THEIRS: u64 = 0x60;
    let (agent, seen) = watched(4);
    let lanes = connect(&agent);
    call(lanes, 1, true).unwrap();
    let (to_them, from_us) = channel::<()>();
    let (to_us, from_them) = channel::<()>();
    let them = std::thread::spawn(move || {
        call(lanes, 2, true).unwrap();
        to_us.send(()).unwrap();
        from_us.recv().unwrap();
        call(lanes, 10, false).unwrap();
        launch(lanes, 11, THEIRS);
        launch(lanes, 12, THEIRS);
        to_us.send(()).unwrap();
        // The lane stays theirs until all was seen.
        from_us.recv().unwrap();
    });
    from_them.recv().unwrap();
    agent.pause(1, true);
    std::thread::sleep(std::time::Duration::from_millis(5));
    to_them.send(()).unwrap();
    from_them.recv().unwrap();
    launch(lanes, 20, OURS);
    launch(lanes, 21, OURS);
    launch(lanes, 22, THEIRS);
    launch(lanes, 23, OURS);
    call(lanes, 24, false).unwrap();
    agent.pause(1, false);
    let mut found = BTreeMap::new();
    while found.len() < 10 {
        let (_, message) = seen.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        found.insert(message.function, message.dependencies);
    }
    to_them.send(()).unwrap();
    them.join().unwrap();
    let all = [Dependency { lane: 3, reserved: 0, count: 4 }];
    let all_but_launches = [Dependency { lane: 3, reserved: 0, count: 2 }];
    assert_eq!(found[&20], all, "nobody knows yet who else uses the stream");
    assert_eq!(found[&21], all_but_launches);
    assert_eq!(found[&22], all, "they launched into that stream");
    assert_eq!(found[&23], all_but_launches);
    assert_eq!(found[&24], all, "no launch");
}

#[test]
fn many_round_trips_do_not_look_like_unfinished_calls() {
    let (agent, seen) = watched(2);
    let lanes = connect(&agent);
    // More than half of the ring index's range.
    in_thread(move || (0..33_000).for_each(|_| call(lanes, 1, true).unwrap()));
    let busy = lanes.with(|_| in_thread(move || call(lanes, 2, true))).unwrap();
    busy.unwrap();
    let dependencies: Vec<_> = seen.try_iter().flat_map(|(_, message)| message.dependencies).collect();
    assert_eq!(dependencies, []);
    assert_eq!(agent.lanes(), 2);
}

#[test]
fn threads_share_lanes_when_they_run_out() {
    const THREADS: u32 = 8;
    const CALLS: u32 = 1500;
    let (agent, seen) = watched(3);
    let lanes = connect(&agent);
    let start = Arc::new(Barrier::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let start = start.clone();
            std::thread::spawn(move || {
                // All hold a lane before the first goes on: otherwise one could end before the next begins, and hand its lane over.
                lanes.with(|_| ()).unwrap();
                start.wait();
                for function in 0..CALLS {
                    call(lanes, function, function % 8 == 0).unwrap();
                }
                call(lanes, CALLS, true).unwrap();
                thread_number()
            })
        })
        .collect();
    let numbers: BTreeSet<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(numbers.len(), THREADS as usize);
    assert_eq!(agent.lanes(), 3);
    let mut next = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (lane, message) in seen.try_iter() {
        let expected: &mut u32 = next.entry(message.thread).or_default();
        assert_eq!(message.function, *expected, "thread {}", message.thread);
        *expected += 1;
        used.insert(lane);
    }
    assert_eq!(used.len(), 3);
    assert_eq!(next, numbers.into_iter().map(|number| (number, CALLS + 1)).collect());
    let totals = lanes.totals();
    assert_eq!(totals.calls, u64::from(THREADS * (CALLS + 1)));
    assert_eq!(totals.async_calls + totals.round_trips, totals.calls);
    assert_eq!(totals.round_trips, u64::from(THREADS * (CALLS.div_ceil(8) + 1)));
}

#[test]
fn the_lane_of_an_ended_thread_is_used_again_and_still_counted() {
    let (agent, _seen) = watched(4);
    let lanes = connect(&agent);
    for _ in 0..10 {
        in_thread(move || {
            call(lanes, 1, false).unwrap();
            lanes.with(|lane| lane.count_bytes_copied(100)).unwrap();
        });
    }
    assert_eq!(agent.lanes(), 1);
    assert_eq!((lanes.totals().calls, lanes.totals().bytes_copied), (10, 1000));
}

#[test]
fn calls_from_destructors_of_thread_local_data_arrive() {
    struct Late(&'static Lanes);
    impl Drop for Late {
        fn drop(&mut self) {
            call(self.0, 99, false).unwrap();
            call(self.0, 98, true).unwrap();
        }
    }
    thread_local! {
        static EARLY_REGISTERED: RefCell<Option<Late>> = const { RefCell::new(None) };
        static LATE_REGISTERED: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let (agent, seen) = watched(4);
    let lanes = connect(&agent);
    in_thread(move || {
        EARLY_REGISTERED.set(Some(Late(lanes)));
        call(lanes, 1, false).unwrap();
        LATE_REGISTERED.set(Some(Late(lanes)));
    });
    let functions: Vec<_> = seen.try_iter().map(|(_, message)| message.function).collect();
    assert_eq!(functions, [1, 99, 98, 99, 98]);
    assert_eq!(agent.lanes(), 1);
    // The lane is not left behind as taken.
    in_thread(move || call(lanes, 2, true).unwrap());
    assert_eq!(agent.lanes(), 1);
}

#[test]
fn a_lane_that_was_given_back_is_not_used_beside_its_new_owner() {
    /// Says whether its call waited for the thread that has the only lane.
    struct Late(&'static Lanes, Sender<bool>);
    impl Drop for Late {
        fn drop(&mut self) {
            let lanes = self.0;
            let inside = Arc::new(AtomicBool::new(false));
            let there = inside.clone();
            let owner = std::thread::spawn(move || {
                lanes.with(|_| {
                    there.store(true, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(30));
                    there.store(false, Ordering::SeqCst);
                })
            });
            eventually("the new owner is inside", || inside.load(Ordering::SeqCst));
            let waited = lanes.with(|_| !inside.load(Ordering::SeqCst));
            let _ = self.1.send(waited.is_ok_and(|waited| waited));
            let _ = owner.join();
        }
    }
    thread_local! {
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let (agent, _seen) = watched(1);
    let lanes = connect(&agent);
    let (sender, waited) = channel();
    in_thread(move || {
        // Registered before the lane's own destructor, so it runs after that.
        LATE.set(Some(Late(lanes, sender)));
        call(lanes, 1, false).unwrap();
    });
    assert_eq!(waited.try_recv(), Ok(true));
    assert_eq!(agent.lanes(), 1);
}

#[test]
fn a_call_within_a_call_is_refused() {
    let (agent, _seen) = watched(4);
    let lanes = connect(&agent);
    let inner = lanes.with(|_| call(lanes, 1, false)).unwrap();
    assert!(matches!(inner, Err(LaneError::Busy)));
    call(lanes, 1, true).unwrap();
}

#[test]
fn without_any_lane_the_limit_is_reported() {
    let (agent, _seen) = watched(0);
    let lanes = connect(&agent);
    let outcome = call(lanes, 1, false);
    let Err(LaneError::Agent(error)) = outcome else { panic!("a lane") };
    assert!(matches!(*error, ConnectionError::Refused { what: "a lane", .. }));
}

#[test]
fn a_blocked_thread_does_not_hold_up_another() {
    let (agent, seen) = watched(4);
    let lanes = connect(&agent);
    call(lanes, 1, true).unwrap();
    agent.pause(0, true);
    let (done, finished) = channel();
    let other = std::thread::spawn(move || {
        // The first thread's call has been published and is being waited for.
        eventually("a second round trip", || lanes.totals().round_trips == 2);
        call(lanes, 3, true).unwrap();
        done.send(()).unwrap();
    });
    let resumer = std::thread::spawn(move || {
        let other_finished = finished.recv_timeout(std::time::Duration::from_secs(5)).is_ok();
        agent.pause(0, false);
        (agent, other_finished)
    });
    call(lanes, 2, true).unwrap();
    let (_agent, other_finished) = resumer.join().unwrap();
    assert!(other_finished, "the other thread waited for the blocked one");
    other.join().unwrap();
    let messages: Vec<_> =
        seen.try_iter().map(|(_, message)| (message.function, message.dependencies)).collect();
    // A call that has not returned is no dependency.
    assert_eq!(messages, [(1, vec![]), (3, vec![]), (2, vec![])]);
}

#[test]
fn the_counters_line_is_json_after_its_name() {
    let (agent, _seen) = watched(1);
    let lanes = connect(&agent);
    call(lanes, 1, true).unwrap();
    let mut totals = lanes.totals();
    (totals.kicks, totals.interrupts) = (1, 2);
    let line = "vgpu-stats {\"calls\":1,\"async_calls\":0,\"round_trips\":1,\"kicks\":1,\"interrupts\":2,\"bytes_copied\":0}";
    assert_eq!(totals.to_string(), line);
}
