//! A shim that writes nonsense into its lane: it suffers alone.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use vgpu_client::{Connection, Mode};
use vgpu_spec::handle::{self, Kind};
use vgpu_spec::wire::lane::{Dependency, MAX_MESSAGE, state};
use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA};
use vgpu_tests::client::Client;
use vgpu_tests::host::Host;
use vgpu_tests::kernels::KERNELS;
use vgpu_tests::lane::{Message, NEXT, READ, RawLane, WRITE, slots};
use vgpu_tests::noise::Noise;
use vgpu_tests::poll::eventually;
use vgpu_tests::process::{cpu_ticks, runs};

use vgpu_tests::arguments::Arguments;

const INVALID_VALUE: u32 = 1;
const NOT_SUPPORTED: u32 = 801;
/// Of no function.
const UNKNOWN: u32 = 0x1234_5678;

/// A host on which somebody else computes while the test misbehaves.
struct Street {
    neighbour: Client,
    host: Host,
    connections: Cell<usize>,
}

impl Street {
    fn start() -> Self {
        let host = Host::start();
        let mut neighbour = host.client(&["compute"]).start();
        neighbour.expect("computing");
        Street { neighbour, host, connections: Cell::new(0) }
    }

    /// Becomes a client, and says which process is its worker.
    fn connect(&self) -> (Connection, u32) {
        let connection = Connection::open_at(&self.host.agent_socket(), Mode::Full).unwrap();
        let worker = self.host.worker_of(std::process::id(), self.connections.get());
        self.connections.set(self.connections.get() + 1);
        (connection, worker)
    }

    /// The neighbour had right results all the time, and newcomers are served.
    fn assert_quiet(mut self) {
        self.neighbour.finish().assert_success();
        self.host.client(&["compute-once"]).succeed();
        self.host.broker.assert_alive();
        self.host.agent.assert_alive();
        for log in [self.host.broker.log(), self.host.agent.log()] {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

/// The lane serves: an unknown function is answered as such.
fn assert_serves(lane: &mut RawLane) {
    assert_eq!(lane.call(&Message::by_id(UNKNOWN, &[]).encode()).0, NOT_SUPPORTED);
}

#[test]
fn chains_out_of_bounds_or_shape_are_errors_and_the_lane_goes_on() {
    let street = Street::start();
    let (connection, _) = street.connect();
    let mut lane = RawLane::open(&connection);
    lane.put(lane.command(0), &Message::by_id(UNKNOWN, &[]).encode());
    let (here, size) = (lane.command(0), lane.layout.size);
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        // Readable: behind the page, over its end, at the end of all addresses, too long, empty.
        &[(HUGE_PAGE, 24, READ, 0)],
        &[(HUGE_PAGE - 8, 24, READ, 0)],
        &[(u64::MAX - 7, 24, READ, 0)],
        &[(0, MAX_MESSAGE as u32 + 1, READ, 0)],
        &[(0, u32::MAX, READ, 0)],
        &[(here, 0, READ, 0)],
        &[(here, 7, READ, 0)],
        // Shape: writable first, loops, two readable, three parts, a link out of the table.
        &[(here, 24, WRITE, 0)],
        &[(here, 24, NEXT, 8)],
        &[(here, 24, NEXT, 9), (here, 24, NEXT, 8)],
        &[(here, 24, NEXT, 9), (here, 24, READ, 0)],
        &[(here, 24, NEXT, 9), (here, 24, WRITE | NEXT, 8)],
        &[(here, 24, NEXT, size)],
        &[(here, 24, NEXT, u16::MAX)],
        // Reply: behind the page, no room for the header.
        &[(here, 24, NEXT, 9), (HUGE_PAGE, 64, WRITE, 0)],
        &[(here, 24, NEXT, 9), (here + 4096, 15, WRITE, 0)],
        // Indirect tables were not negotiated.
        &[(here, 32, 4, 0)],
    ];
    for (count, chain) in (1..).zip(chains) {
        for (index, &(address, len, flags, next)) in (8_u16..).zip(*chain) {
            lane.descriptor(index, address, len, flags, next);
        }
        lane.offer(8);
        lane.finish();
        let status = lane.status();
        assert_eq!((status.error_count, status.error), (count, INVALID_VALUE), "{chain:x?}");
    }
    for head in [size, size + 3, u16::MAX] {
        lane.offer(head);
        lane.finish();
    }
    assert_serves(&mut lane);
    street.assert_quiet();
}

#[test]
fn messages_that_lie_about_themselves_are_errors_and_the_lane_goes_on() {
    let street = Street::start();
    let (connection, _) = street.connect();
    let mut lane = RawLane::open(&connection);
    let good = Message::by_id(UNKNOWN, &[7; 16]).encode();
    let patched = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    for (what, bytes) in [
        ("shorter than a header", good[..16].to_vec()),
        ("a length that is longer", patched(4, &1000_u32.to_le_bytes())),
        ("a length that is shorter than the header", patched(4, &3_u32.to_le_bytes())),
        ("the longest length", patched(4, &u32::MAX.to_le_bytes())),
        ("more dependencies than bytes", patched(16, &9_u16.to_le_bytes())),
        ("the most dependencies", patched(16, &u16::MAX.to_le_bytes())),
    ] {
        let (status, body) = lane.call(&bytes);
        assert_eq!((status, body.len()), (INVALID_VALUE, 0), "{what}");
    }
    assert_serves(&mut lane);
    street.assert_quiet();
}

#[test]
fn impossible_dependencies_are_errors_and_unmet_ones_hold_up_one_lane() {
    let street = Street::start();
    let (connection, worker) = street.connect();
    let (mut lane, mut other) = (RawLane::open(&connection), RawLane::open(&connection));
    let depends = |lane: u16, count: u32| Dependency { lane, reserved: 0, count };
    let on = |d: Dependency| Message { dependencies: &[d], ..Message::by_id(UNKNOWN, &[]) }.encode();
    // Control and event queue, a lane of nobody, one of the neighbour or of nobody, no queue, the lane's own future.
    for queue in [0, 1, other.queue + 9, 63, 64, u16::MAX] {
        assert_eq!(lane.call(&on(depends(queue, 0))).0, INVALID_VALUE, "on queue {queue}");
    }
    assert_eq!(lane.call(&on(depends(lane.queue, 5000))).0, INVALID_VALUE, "on its own future");
    // Each on the other's future: a circle that only a liar makes.
    lane.ask(&on(depends(other.queue, 1000)), 4096);
    assert_serves(&mut other);
    other.ask(&on(depends(lane.queue, 1000)), 4096);
    assert!(!lane.finished_within(Duration::from_millis(50)), "issued before what it depends on");
    // While they wait they take no processor to speak of, and the client can go.
    let before = cpu_ticks(worker);
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_ticks(worker) - before < 15, "the waiting lanes spin");
    drop(connection);
    eventually("the worker ends", || !runs(worker));
    street.assert_quiet();
}

#[test]
fn available_index_that_makes_no_sense_is_an_error_and_no_busy_loop() {
    let street = Street::start();
    let (connection, worker) = street.connect();
    let mut lane = RawLane::open(&connection);

    for ahead in [lane.layout.size + 1, 5000, 40_000, u16::MAX] {
        let errors = lane.status().error_count;
        lane.publish(lane.avail.wrapping_add(ahead));
        eventually("an error", || lane.status().error_count != errors);
        let before = cpu_ticks(worker);
        std::thread::sleep(Duration::from_millis(200));
        assert!(cpu_ticks(worker) - before < 10, "the worker spins");
        lane.publish(lane.avail);
        assert_serves(&mut lane);
    }
    street.assert_quiet();
}

#[test]
fn random_rings_hurt_their_own_client_only() {
    let street = Street::start();
    for seed in 0..8 {
        let (connection, _) = street.connect();
        let mut lane = RawLane::open(&connection);
        let mut noise = Noise::new(seed);
        let layout = lane.layout;
        for _ in 0..150 {
            // Descriptors that are half plausible, and what lies in the command area.
            for index in 0..16 {
                let address = match noise.below(4) {
                    0 => noise.number(),
                    1 => noise.below(HUGE_PAGE),
                    _ => layout.commands + noise.below(8) * 64,
                };
                let len = noise.pick(&[0, 1, 16, 23, 24, 32, 64, 4096, 1 << 18, u32::MAX]);
                let next = noise.below(18) as u16;
                lane.descriptor(index, address, len, noise.number() as u16 & 0x7, next);
            }
            lane.put(layout.commands, &noise.bytes(512));
            let plausible = Message::by_id(noise.number() as u32, &noise.bytes(64)).encode();
            lane.put(layout.commands + 64 * noise.below(6), &plausible);
            lane.offer(noise.below(16) as u16);
            if noise.below(20) == 0 {
                lane.offer(noise.number() as u16);
            }
            if !lane.finished_within(Duration::from_millis(20)) {
                // It has overwritten its own rings.
                break;
            }
        }
        // All of the page at once.
        lane.put(0, &noise.bytes(HUGE_PAGE as usize));
        lane.publish(noise.number() as u16);
    }
    street.assert_quiet();
}

/// Makes a window at the area's start that begins with an image; the image's bytes.
fn share_image(connection: &Connection) -> u64 {
    let window = connection.window_alloc(HUGE_PAGE, WINDOW_AREA).unwrap();
    let image = KERNELS.to_bytes_with_nul();
    std::fs::File::from(window.file).write_all_at(image, window.offset).unwrap();
    image.len() as u64
}

/// Makes context 1 of the primary one.
fn retain() -> Vec<u8> {
    let args = slots(&[handle::make(Kind::Context, 1, 0), 0, 0]);
    Message::new("vgpuPrimaryContextRetain", &args).encode()
}

#[test]
fn room_that_a_message_asks_for_is_bounded_before_it_is_taken() {
    let street = Street::start();
    for room in [1 << 40, 1 << 62, u64::MAX - 4095] {
        let (connection, worker) = street.connect();
        let image = share_image(&connection);
        let mut lane = RawLane::open(&connection);
        assert_eq!(lane.call(&retain()).0, 0);
        let module = handle::make(Kind::Module, 1, 0);
        // Module, image, length; no options; room for both logs.
        let mut args = slots(&[module, WINDOW_AREA, image, 0, 0, 0, 1, room, 1, room]);
        let message = |args: &[u8]| Message { context: 1, ..Message::new("vgpuModuleLoad", args) }.encode();
        lane.ask(&message(&args), 64 << 10);
        lane.finish();
        assert!(runs(worker), "the worker ended for a log of {room:#x} bytes");
        assert_ne!(lane.reply().0, 0, "a log of {room:#x} bytes");
        let at = args.len() - 24;
        args[at..at + 8].copy_from_slice(&100_u64.to_le_bytes());
        args.truncate(args.len() - 8);
        args.extend(100_u64.to_le_bytes());
        assert_eq!(lane.call(&message(&args)).0, 0, "a log of 100 bytes");
    }
    street.assert_quiet();
}

/// Calls that the worker took, by how they ended.
#[derive(Default)]
struct Outcomes {
    succeeded: BTreeSet<String>,
    codes: BTreeSet<u32>,
}

/// Sends random arguments of all functions in rounds; with `wait`, each as a call that waits.
fn try_all(street: &Street, seed: u64, wait: bool, outcomes: &mut Outcomes) {
    // A host function that nobody runs holds its stream for ever: that is its client's own affair, and no fault to find here.
    let by_guest =
        |name: &str| name.contains("Callback") || name.contains("HostFunc") || name.contains("HostNode");
    let mut functions = vgpu_spec::api::cuda().unwrap();
    functions.retain(|function| !by_guest(&function.name));
    let (connection, worker) = street.connect();
    let image = share_image(&connection);
    let mut lane = RawLane::open(&connection);
    let mut arguments = Arguments::new(seed, WINDOW_AREA, image);
    let retain = retain();
    for (i, function) in functions.iter().cycle().take(40 * functions.len()).enumerate() {
        if i % functions.len() == 0 {
            // The context may have been reset.
            let (code, _) = lane.call(&retain);
            assert!(i > 0 || code == 0, "retaining: {code}");
        }
        let args = arguments.of(function);
        let bytes = Message { context: 1, ..Message::new(&function.name, &args) }.encode();
        if wait {
            lane.ask(&bytes, 64 << 10);
        } else {
            lane.post(0, &bytes);
        }
        let used = lane.finished_within(Duration::from_secs(5));
        let lost = lane.status().state == state::LOST || !runs(worker);
        assert!(used && !lost, "used: {used}, lost: {lost}, at {} with {args:x?}", function.name);
        if wait {
            let (code, _) = lane.reply();
            outcomes.codes.insert(code);
            if code == 0 {
                outcomes.succeeded.insert(function.name.clone());
            }
        }
    }
}

#[test]
fn random_arguments_of_every_function_do_not_end_the_worker() {
    let street = Street::start();
    let mut outcomes = Outcomes::default();
    for seed in 0..3 {
        try_all(&street, seed, seed != 0, &mut outcomes);
    }
    // Not all was refused at the door.
    assert!(outcomes.succeeded.len() > 25, "only these got through: {:?}", outcomes.succeeded);
    street.assert_quiet();
}
