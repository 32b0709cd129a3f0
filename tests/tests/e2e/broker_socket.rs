//! A front end that misbehaves on the broker's socket: its own clients suffer, the broker and other VMs do not.

use std::time::Duration;

use vgpu_spec::wire::control::{ClientOpen, LaneAttach, RequestHeader, WindowUnmap, kind, status};
use vgpu_spec::wire::{ADDRESS_END, HUGE_PAGE, Range, WINDOW_AREA, WINDOW_AREA_LEN};
use vgpu_tests::daemon::Daemon;
use vgpu_tests::host::{Host, HostOptions};
use vgpu_tests::noise::Noise;
use vgpu_tests::poll::steady;
use vgpu_tests::process::{children, descriptors, open_files, threads};
use vgpu_tests::vm::{BASE, PAGES, QUEUES, Vm, send_garbage};
use zerocopy::IntoBytes;

/// A host with an agent on its first socket, and a second socket for the test.
struct Two {
    host: Host,
    second: std::path::PathBuf,
}

impl Two {
    fn start() -> Self {
        let (host, second) = HostOptions::default().start_with_second_socket();
        Two { host, second }
    }

    fn broker(&mut self) -> &mut Daemon {
        &mut self.host.broker
    }

    fn assert_quiet(mut self) {
        self.host.client(&["compute-once"]).succeed();
        self.broker().assert_alive();
        let log = self.host.broker.log();
        assert!(!log.contains("panicked"), "{log}");
        // The second socket is as good as before.
        let mut vm = Vm::connect(&self.second);
        assert_eq!(vm.hello(), status::OK);
        assert_eq!(vm.open(1), status::OK);
        assert_eq!(vm.attach(1, 2, Vm::page(2)), status::OK);
    }
}

#[test]
fn garbage_instead_of_vhost_user_ends_its_connection_only() {
    let two = Two::start();
    let mut neighbour = two.host.client(&["compute"]).start();
    neighbour.expect("computing");
    let mut noise = Noise::new(11);
    let limit = Duration::from_millis(40);
    for round in 0..60_u32 {
        let mut bytes = noise.bytes(12 + noise.clone().below(300) as usize);
        if !round.is_multiple_of(3) {
            // A header that is a header: request, version 1, and a length that may be true.
            let request = 1 + noise.below(45) as u32;
            let len = noise.pick(&[0, 8, 12, (bytes.len() - 12) as u32, 4096, u32::MAX]);
            bytes[..4].copy_from_slice(&request.to_le_bytes());
            bytes[4..8].copy_from_slice(&noise.pick(&[1_u32, 9, 5, 0, 0xffff]).to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
        }
        send_garbage(&two.second, &bytes, limit);
    }
    neighbour.finish().assert_success();
    two.assert_quiet();
}

#[test]
fn control_messages_that_are_garbage_get_a_status() {
    let two = Two::start();
    let mut vm = Vm::connect(&two.second);
    let mut noise = Noise::new(12);
    assert_eq!(vm.open(1), status::INVALID, "before HELLO");
    assert_eq!(vm.hello(), status::OK);
    assert_eq!(vm.open(1), status::OK);
    for len in [0, 1, 7, 8, 9, 64, 4096, 65_536] {
        let bytes = noise.bytes(len);
        if let Some((code, _)) = vm.request_bytes(&bytes) {
            assert_ne!(code, status::OK, "{len} random bytes");
        }
    }
    // Every kind with bodies of every length and lies about it.
    for kind in 0..12 {
        for len in [0, 1, 4, 8, 12, 16, 24, 31, 32, 33, 40, 100, 2000] {
            for lie in [len as u32, len as u32 + 1, u32::MAX] {
                let mut bytes = RequestHeader { kind, len: lie }.as_bytes().to_vec();
                bytes.extend(noise.bytes(len));
                let answer = vm.request_bytes(&bytes).map(|(code, _)| code);
                // Any bytes are a client to open, if they are as many; an empty request for the snapshot is in order too.
                let open = (kind::CLIENT_OPEN, size_of::<ClientOpen>());
                let whole = lie as usize == len;
                let good = whole && ((kind, len) == (kind::SNAPSHOT, 0) || (kind, len) == open);
                assert_eq!(answer == Some(status::OK), good, "kind {kind}, {len} bytes that claim {lie}");
            }
        }
    }
    drop(vm);
    two.assert_quiet();
}

#[test]
fn lanes_and_windows_beyond_the_vm_s_memory_are_refused() {
    let two = Two::start();
    let mut vm = Vm::connect(&two.second);
    vm.hello();
    vm.open(1);
    let huge = !(HUGE_PAGE - 1);
    for (queue, page, what) in [
        (2, BASE + PAGES * HUGE_PAGE, "behind the memory"),
        (2, BASE - HUGE_PAGE, "before the memory"),
        (2, huge, "at the end of all addresses"),
        (2, Vm::page(2) + 4096, "not aligned"),
        (2, Vm::page(3), "another lane's page"),
        (0, Vm::page(0), "the control queue"),
        (1, Vm::page(1), "the event queue"),
        (QUEUES, Vm::page(2), "a queue that does not run"),
        (u16::MAX, Vm::page(2), "no queue"),
    ] {
        assert_eq!(vm.attach(1, queue, page), status::INVALID, "{what}");
    }
    assert_eq!(vm.attach(9, 2, Vm::page(2)), status::NO_CLIENT);
    let pages = |n: u64, count: u64| Range { base: BASE + n * HUGE_PAGE, len: count * HUGE_PAGE };
    let page = |n: u64| pages(n, 1);
    for (range, address, what) in [
        (page(PAGES), WINDOW_AREA, "behind the memory"),
        (Range { base: BASE, len: (PAGES + 1) * HUGE_PAGE }, WINDOW_AREA, "over its end"),
        (Range { base: huge, len: HUGE_PAGE }, WINDOW_AREA, "at the end of all addresses"),
        (Range { base: huge, len: 2 * HUGE_PAGE }, WINDOW_AREA, "beyond all addresses"),
        (Range { base: BASE, len: 0 }, WINDOW_AREA, "empty"),
        (pages(8, 2), WINDOW_AREA - HUGE_PAGE, "over the window area's start"),
        (pages(8, 2), WINDOW_AREA + WINDOW_AREA_LEN - HUGE_PAGE, "over its end"),
        (page(8), ADDRESS_END - 4096, "over the end of a process's addresses"),
        (page(8), 0x7f00_0000_0800, "unaligned, elsewhere"),
        (page(8), WINDOW_AREA + 4096, "unaligned"),
        (page(8), 0, "at NULL"),
    ] {
        assert_eq!(vm.map(1, 1, address, range), status::INVALID, "{what}");
    }
    assert_eq!(vm.map(1, 1, WINDOW_AREA, page(8)), status::OK);
    assert_eq!(
        vm.request(kind::WINDOW_UNMAP, WindowUnmap { client: 1, window: 2 }.as_bytes()),
        status::INVALID
    );
    let body = LaneAttach { client: 1, queue: 2, reserved: 0, page: Vm::page(2) };
    assert_eq!(vm.request(kind::LANE_ATTACH, body.as_bytes()), status::OK);
    drop(vm);
    two.assert_quiet();
}

#[test]
fn memory_taken_from_under_a_client_ends_that_client() {
    let two = Two::start();
    let mut neighbour = two.host.client(&["compute"]).start();
    neighbour.expect("computing");
    let mut vm = Vm::connect(&two.second);
    vm.hello();
    vm.open(1);
    assert_eq!(vm.attach(1, 2, Vm::page(2)), status::OK);
    assert_eq!(vm.map(1, 1, WINDOW_AREA, Range { base: BASE + 12 * HUGE_PAGE, len: HUGE_PAGE }), status::OK);
    // All but the queues' pages goes, the window with it.
    vm.set_memory(u64::from(QUEUES));
    let gone = Range { base: BASE + 12 * HUGE_PAGE, len: HUGE_PAGE };
    assert_ne!(vm.map(1, 2, WINDOW_AREA + 8 * HUGE_PAGE, gone), status::OK);
    neighbour.finish().assert_success();
    drop(vm);
    two.assert_quiet();
}

#[test]
fn fifty_front_ends_that_come_and_go_leave_nothing_behind() {
    let two = Two::start();
    let broker = two.host.broker.pid();
    let visit = |round: u32| {
        let mut vm = Vm::connect(&two.second);
        if !round.is_multiple_of(3) {
            vm.hello();
            vm.open(1);
            assert_eq!(vm.attach(1, 2, Vm::page(2)), status::OK);
        }
        if round % 3 == 2 {
            assert_eq!(
                vm.map(1, 1, WINDOW_AREA, Range { base: BASE + 8 * HUGE_PAGE, len: HUGE_PAGE }),
                status::OK
            );
        }
    };
    for round in 0..3 {
        visit(round);
    }
    let held = || (children(broker).len(), descriptors(broker), threads(broker));
    let rest = || {
        two.host.settle();
        steady(held)
    };
    let before = rest();
    let files = open_files(broker);
    for round in 0..50 {
        visit(round);
    }
    let after = rest();
    assert_eq!(after, before, "workers, descriptors, threads; {:?} after {files:?}", open_files(broker));
    two.assert_quiet();
}
