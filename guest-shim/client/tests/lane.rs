//! One lane against a device that the virtio-queue crate runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod support;

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::device::{Answer, Device, Handler, Message, Options, echo};
use support::{Random, eventually};
use vgpu_client::lane::{Lane, LaneError, MessageMeta};
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::args::{ArgsError, Reader, bytes_len};
use vgpu_spec::wire::lane::{Dependency, MAX_DEPENDENCIES, MAX_MESSAGE, MessageHeader, ReplyHeader, state};

const META: MessageMeta = MessageMeta { thread: 3, context: 9 };

fn start(options: Options, handler: Handler) -> (Device, Lane) {
    let (device, grant) = Device::start(options, handler);
    (device, Lane::new(grant).unwrap())
}

/// Checks that messages arrive in order, each once, with the bytes that `payload` says. The end of the channel is the end.
fn checker() -> (Handler, Receiver<u64>) {
    let (sender, receiver) = channel();
    let mut expected = 0;
    let handler = move |message: Message| {
        let mut reader = Reader::new(&message.args);
        let number = reader.u64().unwrap();
        assert_eq!(number, expected);
        expected += 1;
        let bytes = reader.required().unwrap();
        assert!(
            bytes.iter().enumerate().all(|(i, &b)| b == payload(number, i)),
            "message {number} is damaged"
        );
        reader.finish().unwrap();
        let _ = sender.send(number);
        Answer::Reply(0, message.args[..16.min(message.args.len())].to_vec())
    };
    (Box::new(handler), receiver)
}

fn payload(number: u64, index: usize) -> u8 {
    (number as usize).wrapping_mul(31).wrapping_add(index) as u8
}

fn send(lane: &mut Lane, number: u64, len: usize, wait: bool) -> Result<(), LaneError> {
    let mut message = lane.begin(1, META, &[], 8 + bytes_len(len), wait.then_some(16))?;
    message.u64(number);
    let space = message.reserve(len).unwrap();
    for (i, byte) in space.iter_mut().enumerate() {
        *byte = payload(number, i);
    }
    if !wait {
        return message.submit();
    }
    let reply = message.submit_and_wait()?;
    assert_eq!((reply.status, reply.reader().u64()), (0, Ok(number)));
    Ok(())
}

#[test]
fn a_flood_through_a_small_lane_loses_nothing_and_keeps_its_order() {
    for event_idx in [true, false] {
        let (handler, seen) = checker();
        let (device, mut lane) = start(Options { size: 16, event_idx, ..Options::default() }, handler);
        device.controls.pause(true);
        let resume = std::thread::spawn({
            let controls = device.controls.clone();
            move || {
                std::thread::sleep(Duration::from_millis(30));
                controls.pause(false);
            }
        });
        for number in 0..20_000 {
            send(&mut lane, number, (number % 40) as usize, false).unwrap();
        }
        resume.join().unwrap();
        eventually("all messages served", || lane.retired() == 20_000);
        assert_eq!(lane.issued(), 20_000);
        assert_eq!(lane.stats().async_calls.get(), 20_000);
        drop(device);
        assert_eq!(seen.iter().count(), 20_000);
    }
}

#[test]
fn indices_and_command_area_wrap_without_harm() {
    wrap(false);
}

#[test]
fn replies_ahead_of_the_used_ring_wrap_without_harm() {
    wrap(true);
}

fn wrap(early: bool) {
    let (handler, seen) = checker();
    // Starts shortly before the ring index wraps, and wraps it twice more.
    let options = Options { size: 128, start: 65_500, early, ..Options::default() };
    let (device, mut lane) = start(options, handler);
    let mut random = Random::new(7);
    let largest = MAX_MESSAGE - size_of::<MessageHeader>() - 16;
    let count = 140_000;
    for number in 0..count {
        let len = match random.below(2000) {
            0 => largest,
            1..20 => random.below(largest as u64 + 1) as usize,
            20..200 => random.below(5000) as usize,
            _ => random.below(200) as usize,
        };
        send(&mut lane, number, len, random.below(16) == 0).unwrap();
    }
    eventually("all messages served", || lane.retired() == count);
    drop(device);
    assert_eq!(seen.iter().count() as u64, count);
}

#[test]
fn a_reply_that_is_complete_is_taken_before_the_used_ring_tells_of_it() {
    let (told, hear) = channel();
    let options = Options { early: true, ..Options::default() };
    let (device, mut lane) = start(options, echo());
    for number in 0..2000 {
        // The express message's place, or the circular buffer's where a reply or message is too large for it.
        let (len, space) = ([16, 300][number % 2], [16, 500][number / 2 % 2]);
        let mut message =
            lane.begin(7, META, &[], bytes_len(len), Some(bytes_len(space).max(bytes_len(len)))).unwrap();
        message.reserve(len).unwrap().fill(number as u8);
        let reply = message.submit_and_wait().unwrap();
        assert_eq!((reply.status, reply.reader().required().unwrap()), (7, &vec![number as u8; len][..]));
        told.send(lane.retired()).unwrap();
    }
    drop(told);
    assert!(hear.iter().eq(1..=2000), "each was known to be finished at once");
    drop(device);
}

#[test]
fn large_messages_wrap_around_the_command_area_unharmed() {
    let (mut check, seen) = checker();
    let (furthest, offsets) = channel();
    let handler = move |message: Message| {
        // The device is behind all the time: the area never empties, which would start it over.
        std::thread::sleep(Duration::from_micros(100));
        let _ = furthest.send((message.offset, message.args.len() as u64));
        check(message)
    };
    let options = Options { size: 1024, ..Options::default() };
    let (device, mut lane) = start(options, Box::new(handler));
    let mut random = Random::new(11);
    let count = 3000;
    for number in 0..count {
        send(&mut lane, number, random.below(60_000) as usize, false).unwrap();
    }
    eventually("all messages served", || lane.retired() == count);
    drop(device);
    assert_eq!(seen.iter().count() as u64, count);
    let near_end = offsets.iter().filter(|(offset, len)| offset + len > HUGE_PAGE - 60_000).count();
    assert!(near_end > 5, "the area's end was reached {near_end} times: nothing shown");
}

#[test]
fn a_reply_carries_status_and_results() {
    let (_device, mut lane) = start(Options::default(), echo());
    let mut message = lane.begin(77, META, &[], bytes_len(5), Some(64)).unwrap();
    message.bytes(b"hello");
    let reply = message.submit_and_wait().unwrap();
    assert_eq!((reply.status, reply.flags), (77, 0));
    assert_eq!(reply.reader().bytes(), Ok(Some(&b"hello"[..])));
    assert_eq!(lane.stats().round_trips.get(), 1);
}

#[test]
fn replies_come_without_interrupts_and_without_event_idx() {
    for (event_idx, polling) in [(true, true), (false, true), (false, false)] {
        let handler = |message: Message| {
            // Longer than any polling: the thread sleeps.
            std::thread::sleep(Duration::from_millis(2));
            Answer::Reply(message.function, message.args)
        };
        let (_device, mut lane) =
            start(Options { event_idx, polling, ..Options::default() }, Box::new(handler));
        for function in 0..20 {
            let message = lane.begin(function, META, &[], 0, Some(0)).unwrap();
            assert_eq!(message.submit_and_wait().unwrap().status, function);
        }
        let interrupts = lane.stats().interrupts.get();
        assert_eq!(interrupts == 0, polling, "{interrupts} interrupts");
    }
}

#[test]
fn header_and_dependencies_arrive_as_given() {
    let (sender, seen) = channel();
    let handler = move |message: Message| {
        sender.send(message).unwrap();
        Answer::Reply(0, vec![])
    };
    let (device, mut lane) = start(Options::default(), Box::new(handler));
    let dependencies =
        [Dependency { lane: 4, reserved: 0, count: 17 }, Dependency { lane: 6, reserved: 0, count: 1 }];
    let mut message = lane.begin(1234, META, &dependencies, 24, None).unwrap();
    message.u64(42);
    message.submit().unwrap();
    eventually("served", || lane.retired() == 1);
    drop(device);
    let message = seen.recv().unwrap();
    let expected = Message {
        function: 1234,
        thread: 3,
        context: 9,
        dependencies: dependencies.to_vec(),
        // What was reserved and not written is not sent.
        args: 42_u64.to_le_bytes().to_vec(),
        offset: message.offset,
        reply_space: None,
    };
    assert_eq!(message, expected);
}

#[test]
fn a_device_that_polls_is_never_kicked() {
    let (device, mut lane) = start(Options { never_sleeps: true, ..Options::default() }, echo());
    // The ring's memory starts as zeros, which ask for a kick of entry 0.
    lane.begin(0, META, &[], 0, None).unwrap().submit().unwrap();
    let before = lane.stats().kicks.get();
    for _ in 0..5000 {
        lane.begin(0, META, &[], 0, None).unwrap().submit().unwrap();
    }
    eventually("all messages served", || lane.retired() == 5001);
    assert_eq!(lane.stats().kicks.get(), before);
    drop(device);
}

#[test]
fn a_device_that_sleeps_is_kicked_once_per_sleep() {
    for event_idx in [true, false] {
        let (device, mut lane) = start(Options { event_idx, ..Options::default() }, echo());
        for round in 1..=5 {
            std::thread::sleep(Duration::from_millis(30));
            // One message to one sleeping device: exactly one kick.
            lane.begin(0, META, &[], 0, None).unwrap().submit().unwrap();
            eventually("served", || lane.retired() == round);
            assert_eq!(lane.stats().kicks.get(), round);
        }
        drop(device);
    }
}

#[test]
fn a_full_lane_is_woken_rarely() {
    let handler = |_: Message| {
        // Longer than any polling: a thread that waited for one entry at a time would sleep for each.
        std::thread::sleep(Duration::from_micros(100));
        Answer::Reply(0, vec![])
    };
    let (device, mut lane) = start(Options { size: 64, ..Options::default() }, Box::new(handler));
    let count = 2000;
    for _ in 0..count {
        lane.begin(0, META, &[], 0, None).unwrap().submit().unwrap();
    }
    eventually("all messages served", || lane.retired() == count);
    drop(device);
    // Each wait frees 48 of 64 descriptors.
    let waits = count / 48 + 2;
    let interrupts = lane.stats().interrupts.get();
    assert!(interrupts > 0, "the lane was never full: nothing shown");
    assert!(interrupts <= waits, "{interrupts} interrupts for {count} messages, expected at most {waits}");
}

#[test]
fn a_lost_worker_wakes_the_thread_that_waits() {
    for polling in [false, true] {
        let (device, mut lane) = start(Options { polling, ..Options::default() }, echo());
        device.controls.pause(true);
        let controls = device.controls.clone();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            controls.set_state(state::LOST);
        });
        let begun = Instant::now();
        let outcome = lane.begin(0, META, &[], 0, Some(0)).unwrap().submit_and_wait();
        assert!(matches!(outcome, Err(LaneError::Lost)));
        assert!(begun.elapsed() < Duration::from_secs(2));
        assert!(begun.elapsed() >= Duration::from_millis(40));
        killer.join().unwrap();
        assert!(lane.lost());
        assert!(matches!(lane.begin(0, META, &[], 0, None).err(), Some(LaneError::Lost)));
    }
}

#[test]
fn a_lost_worker_wakes_the_thread_whose_lane_is_full() {
    let (device, mut lane) = start(Options { size: 4, ..Options::default() }, echo());
    device.controls.pause(true);
    let controls = device.controls.clone();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        controls.set_state(state::LOST);
    });
    std::thread::sleep(Duration::from_millis(5));
    let sent =
        (0..10).take_while(|_| lane.begin(0, META, &[], 0, None).and_then(|m| m.submit()).is_ok()).count();
    assert!(sent < 10);
    killer.join().unwrap();
}

#[test]
fn a_reply_that_is_shorter_than_it_says_means_a_lost_worker() {
    let header =
        |len: u32| -> Vec<u8> { [0, len, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect() };
    let bad: [(Vec<u8>, u32); 5] =
        [(vec![], 0), (header(16), 15), (header(15), 16), (header(17), 16), (header(24), 1 << 20)];
    for (bytes, used) in bad {
        let answer = bytes.clone();
        let (_device, mut lane) =
            start(Options::default(), Box::new(move |_| Answer::Raw(answer.clone(), used)));
        let outcome = lane.begin(0, META, &[], 0, Some(8)).unwrap().submit_and_wait();
        assert!(matches!(outcome, Err(LaneError::Lost)), "accepted {bytes:?} with {used} bytes used");
    }
}

#[test]
fn a_deferred_error_is_seen_once() {
    let (device, mut lane) = start(Options::default(), echo());
    assert_eq!(lane.take_error(), None);
    device.controls.fail(700, 55);
    assert_eq!(lane.take_error(), Some((700, 55)));
    assert_eq!(lane.take_error(), None);
    device.controls.fail(1, 2);
    device.controls.fail(3, 4);
    assert_eq!(lane.take_error(), Some((3, 4)));
    assert_eq!(lane.take_error(), None);
}

#[test]
fn what_does_not_fit_is_refused_and_not_sent() {
    let (_device, mut lane) = start(Options::default(), echo());
    let room = MAX_MESSAGE - size_of::<MessageHeader>();
    let reply_room = MAX_MESSAGE - size_of::<ReplyHeader>();
    for (args, reply) in
        [(room + 1, None), (usize::MAX, None), (0, Some(reply_room + 1)), (0, Some(usize::MAX))]
    {
        assert!(matches!(lane.begin(0, META, &[], args, reply).err(), Some(LaneError::TooLarge { .. })));
    }
    lane.begin(0, META, &[], room, Some(reply_room)).unwrap();
    let many = [Dependency { lane: 2, reserved: 0, count: 1 }; MAX_DEPENDENCIES + 1];
    assert!(matches!(
        lane.begin(0, META, &many, 0, None).err(),
        Some(LaneError::TooManyDependencies { count: 65 })
    ));
    let mut message = lane.begin(0, META, &[], 8, None).unwrap();
    message.u64(1);
    message.u64(2);
    let outcome = message.submit();
    assert!(matches!(outcome, Err(LaneError::Encoding(ArgsError::Full { needed: 8, left: 0 }))));
    lane.begin(0, META, &[], room, None).unwrap();
    assert_eq!(lane.issued(), 0);
    assert_eq!(lane.begin(9, META, &[], 0, Some(0)).unwrap().submit_and_wait().unwrap().status, 9);
}

#[test]
fn a_queue_without_room_for_a_reply_is_refused() {
    for size in [1, 3, 2048] {
        let (_device, mut grant) = Device::start(Options::default(), echo());
        grant.reply.size = size;
        assert!(matches!(Lane::new(grant), Err(LaneError::Geometry { .. })));
    }
}
