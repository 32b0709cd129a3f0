//! Lanes: messages, replies, errors, order, bad input.

use std::time::{Duration, Instant};

use crate::broker::{Broker, eventually};
use crate::guest::*;
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::lane::{Dependency, MAX_MESSAGE, function_id, reply_flags, state};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, vhost_user::message::VhostUserConfigFlags};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::IntoBytes;

/// CUDA_ERROR_INVALID_VALUE.
const INVALID_VALUE: u32 = 1;

/// A guest with client 1 and lanes 2 and 3.
fn ready(broker: &Broker) -> Guest {
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    for queue in [2, 3] {
        assert_eq!(guest.attach(1, queue), status::OK);
        assert_eq!(guest.queues[usize::from(queue)].status().state, state::ATTACHED);
    }
    guest
}

#[test]
fn messages_are_executed_and_answered() {
    let broker = Broker::start("answer", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    let call = message(function_id("cuStreamSynchronize"), &[], &0_u64.to_le_bytes());
    let (reply, body) = lane.call(&call);
    assert_eq!((reply.status, reply.len, body.len()), (0, 16, 0));
    assert_eq!(lane.status().error_count, 0);
    // More than the ring and its indices hold.
    for i in 0..70_000_u32 {
        let (reply, _) = lane.call(&message(0xdead_0000 | (i & 0xff), &[], &[]));
        assert_eq!(reply.status, NOT_SUPPORTED);
    }
}

#[test]
fn text_of_kernels_is_announced() {
    let broker = Broker::start("output", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    let call = message(function_id("cuStreamSynchronize"), &[], &0_u64.to_le_bytes());
    let (reply, _) = lane.call(&call);
    assert_eq!(reply.flags & reply_flags::OUTPUT, reply_flags::OUTPUT);
}

#[test]
fn error_of_a_call_without_reply_is_deferred() {
    let broker = Broker::start("deferred", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    for i in 1..=3_u16 {
        lane.post(i, &message(0x1234_5670 + u32::from(i), &[], &[]));
    }
    lane.finish();
    let status = lane.status();
    assert_eq!((status.error_count, status.error, status.error_function), (3, NOT_SUPPORTED, 0x1234_5673));
    assert_eq!(lane.used_element(2), (3, 0));
    assert_eq!(guest.queues[3].status().error_count, 0, "another lane's errors are its own");
}

#[test]
fn malformed_messages_are_errors_and_the_lane_goes_on() {
    let broker = Broker::start("malformed", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    let good = message(1, &[], &[1, 2, 3, 4]);
    let mut long = good.clone();
    long[4..8].copy_from_slice(&1000_u32.to_le_bytes());
    let mut many = good.clone();
    many[16..18].copy_from_slice(&9_u16.to_le_bytes());
    for bytes in [&good[..10], &long, &many] {
        let (reply, _) = lane.call(bytes);
        assert_eq!(reply.status, INVALID_VALUE, "{bytes:x?}");
    }
    // The same without a reply.
    lane.post(2, &long);
    lane.finish();
    assert_eq!((lane.status().error_count, lane.status().error), (1, INVALID_VALUE));
    assert_eq!(lane.call(&good).0.status, NOT_SUPPORTED);
}

#[test]
fn garbage_descriptors_come_back_empty_and_the_lane_goes_on() {
    let broker = Broker::start("garbage", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    let (page, next_page) = (0, HUGE_PAGE);
    lane.put(lane.layout.commands, &message(1, &[], &[]));
    let here = lane.command(0);
    let mut count = 0;
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        // Readable: guest-physical, behind the page (in RAM: another lane's), over the page's end, at the end of the address space, too long.
        &[(BASE + 2 * HUGE_PAGE, 24, READ, 0)],
        &[(next_page, 24, READ, 0)],
        &[(page + HUGE_PAGE - 8, 24, READ, 0)],
        &[(u64::MAX - 7, 24, READ, 0)],
        &[(page, MAX_MESSAGE as u32 + 1, READ, 0)],
        &[(page, u32::MAX, READ, 0)],
        // Shape: writable first, a loop, two readable, three parts, a link out of the table.
        &[(here, 24, WRITE, 0)],
        &[(here, 24, NEXT, 8)],
        &[(here, 24, NEXT, 9), (here, 24, READ, 0)],
        &[(here, 24, NEXT, 9), (here, 24, WRITE | NEXT, 8)],
        &[(here, 24, NEXT, 999)],
        // Reply: in another lane's page, too small.
        &[(here, 24, NEXT, 9), (next_page, 64, WRITE, 0)],
        &[(here, 24, NEXT, 9), (here + 4096, 15, WRITE, 0)],
    ];
    for chain in chains {
        for (index, &(address, len, flags, next)) in (8_u16..).zip(*chain) {
            lane.descriptor(index, address, len, flags, next);
        }
        lane.offer(8);
        lane.finish();
        count += 1;
        assert_eq!(lane.used_element(lane.avail.wrapping_sub(1)), (8, 0), "{chain:x?}");
        let status = lane.status();
        assert_eq!((status.error_count, status.error), (count, INVALID_VALUE), "{chain:x?}");
    }
    // A head that is out of bounds.
    lane.offer(SIZE + 3);
    lane.finish();
    assert_eq!(lane.call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
    assert_eq!(guest.byte(3 * HUGE_PAGE + 64), 0, "the other lane's page is untouched");
}

#[test]
fn nonsensical_available_index_is_an_error_until_it_makes_sense() {
    let broker = Broker::start("index", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    lane.publish(lane.avail.wrapping_add(1000));
    lane.kick.write(1).unwrap();
    eventually("an error", || lane.status().error_count == 1, String::new);
    assert_eq!(lane.used(), 0);
    lane.publish(lane.avail);
    assert_eq!(lane.call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
}

#[test]
fn reply_that_does_not_fit_is_cut_to_an_error() {
    let broker = Broker::start("room", &[]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    let print = message(function_id("cuStreamSynchronize"), &[], &0_u64.to_le_bytes());
    assert_eq!(lane.call_with_room(&print, 16).0.status, 0);
    // What was printed is more than 20 bytes with its length: the call itself fits or fails, never more than the room.
    let read = message(function_id("vgpuReadOutput"), &[], &4096_u64.to_le_bytes());
    let (reply, _) = lane.call_with_room(&read, 18);
    assert_eq!((reply.status, reply.len), (INVALID_VALUE, 16));
    let beyond: u8 = lane.get(lane.layout.commands + 0x8_0000 + 18);
    assert_eq!(beyond, 0xEE, "written beyond the room");
}

#[test]
fn message_waits_for_messages_of_other_lanes() {
    let broker = Broker::start("order", &[]);
    let mut guest = ready(&broker);
    let dependency = Dependency { lane: 3, reserved: 0, count: 2 };
    let waiting = message(0x77, dependency.as_bytes(), &[]);
    guest.queues[2].post(0, &waiting);
    let call = message(1, &[], &[]);
    guest.queues[3].call(&call);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.queues[2].used(), 0, "issued before what it depends on");
    guest.queues[3].call(&call);
    guest.queues[2].finish();
    assert_eq!(guest.queues[2].status().error_function, 0x77);
    // On itself, or on a lane that is not the client's: an error, not a wait.
    for (lane, count) in [(2_u16, 99), (4, 0), (60_000, 0)] {
        let dependency = Dependency { lane, reserved: 0, count };
        let (reply, _) = guest.queues[2].call(&message(0x77, dependency.as_bytes(), &[]));
        assert_eq!(reply.status, INVALID_VALUE, "on lane {lane}");
    }
}

#[test]
fn sleeping_lane_is_woken_by_a_kick_and_signals_when_asked() {
    let broker = Broker::start("sleep", &["--poll-us", "0"]);
    let mut guest = ready(&broker);
    let lane = &mut guest.queues[2];
    for _ in 0..100 {
        let _ = lane.call.read();
        lane.interrupt_at(lane.avail);
        std::thread::sleep(Duration::from_micros(500));
        lane.call(&message(1, &[], &[]));
        let asked = Instant::now();
        while lane.call.read().is_err() {
            assert!(asked.elapsed() < Duration::from_secs(5), "no interrupt");
        }
    }
    // Not asked for: none.
    lane.interrupt_at(lane.avail.wrapping_add(1000));
    for _ in 0..100 {
        lane.call(&message(1, &[], &[]));
    }
    assert!(lane.call.read().is_err(), "an interrupt that nobody asked for");
}

#[test]
fn exchanged_call_eventfd_is_used_at_once() {
    let broker = Broker::start("call", &[]);
    let mut guest = ready(&broker);
    let call = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap();
    guest.frontend.set_vring_call(2, &call).unwrap();
    // The worker signals it once for what the old one may have got.
    assert!(call.read().is_ok());
    let lane = &mut guest.queues[2];
    let _ = lane.call.read();
    lane.interrupt_at(lane.avail);
    lane.call(&message(1, &[], &[]));
    let asked = Instant::now();
    while call.read().is_err() {
        assert!(asked.elapsed() < Duration::from_secs(5), "no interrupt on the new eventfd");
    }
    assert!(lane.call.read().is_err(), "the old eventfd was signalled");
}

#[test]
fn lanes_that_cannot_be_lent_are_refused() {
    let broker = Broker::start("refuse", &[]);
    let mut guest = ready(&broker);
    let page = |queue: u64| BASE + queue * HUGE_PAGE;
    for (queue, address, what) in [
        (0, page(0), "the control queue"),
        (1, page(1), "the event queue"),
        (QUEUES, page(8), "a queue that is not running"),
        (4000, page(8), "no queue"),
        (2, page(2), "lent already"),
        (4, page(3), "another lane's page"),
        (4, page(9), "a page without the ring"),
        (4, page(4) + 4096, "not aligned"),
        (4, page(PAGES), "behind the memory"),
        (4, !(HUGE_PAGE - 1), "no memory"),
    ] {
        assert_eq!(guest.attach_page(1, queue, address), status::INVALID, "{what}");
    }
    assert_eq!(guest.attach(1, 4), status::OK);
    assert_eq!(guest.attach(9, 5), status::NO_CLIENT);
}

#[test]
fn stopped_lane_goes_on_where_it_stopped() {
    let broker = Broker::start("pause", &[]);
    let mut guest = ready(&broker);
    for _ in 0..5 {
        guest.queues[2].call(&message(1, &[], &[]));
    }
    // Outstanding: waits for lane 3.
    let dependency = Dependency { lane: 3, reserved: 0, count: 1 };
    guest.queues[2].post(0, &message(0x55, dependency.as_bytes(), &[]));
    std::thread::sleep(Duration::from_millis(10));
    let base = guest.frontend.get_vring_base(2).unwrap();
    assert_eq!(base, 5, "the message that was not issued is taken again");
    assert_eq!(guest.frontend.get_vring_base(3).unwrap(), 0);
    guest.start_queue(2, 5);
    guest.start_queue(3, 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.queues[2].used(), 5);
    guest.queues[3].call(&message(1, &[], &[]));
    guest.queues[2].finish();
    let status = guest.queues[2].status();
    assert_eq!((status.state, status.error_count, status.error_function), (state::ATTACHED, 1, 0x55));
    // Disabled only.
    guest.frontend.set_vring_enable(2, false).unwrap();
    guest.queues[2].post(0, &message(0x66, &[], &[]));
    guest.queues[2].kick.write(1).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.queues[2].used(), 6, "a disabled ring is served");
    guest.frontend.set_vring_enable(2, true).unwrap();
    guest.queues[2].finish();
    assert_eq!(guest.queues[2].status().error_function, 0x66);
    let _ = guest.frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
}
