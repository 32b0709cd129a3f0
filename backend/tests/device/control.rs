//! Queue 0 and its bad input.

use std::path::Path;

use crate::broker::{Broker, Folder};
use crate::guest::*;
use vgpu_spec::wire::VERSION;
use vgpu_spec::wire::control::*;
use vgpu_spec::wire::reading::{Reading, ReadingRequest};
use vgpu_spec::wire::snapshot::{Snapshot, uuid_text};
use zerocopy::IntoBytes;

#[test]
fn agent_gets_limits_snapshot_and_a_client() {
    let broker = Broker::start("hello", &["--clients", "2"]);
    let mut guest = Guest::connect(&broker.socket);
    let reply = guest.hello();
    assert_eq!((reply.version, reply.lanes, reply.clients), (VERSION, 62, 2));
    let (status, bytes) = guest.request(kind::SNAPSHOT, &[]);
    assert_eq!(status, status::OK);
    let snapshot = Snapshot::decode(&bytes).unwrap();
    assert_eq!(snapshot.devices[0].name(), "vgpu null device");
    assert_eq!(snapshot.devices[0].attribute(33), Some(7));
    let ranges = guest.open(1).device_ranges;
    assert_eq!((ranges[1].base, ranges[1].end()), (0x2_0000_0000, Some(0x32_a000_0000)));
    // The steered area: below where guest processes have their libraries, above their programs.
    assert!(
        ranges[0].base >= 0x5800_0000_0000 && ranges[0].end().unwrap() <= 0x7800_0000_0000,
        "{ranges:x?}"
    );
    assert!(ranges[0].len > 1 << 40);
    guest.open(2);
    assert_eq!(guest.request(kind::CLIENT_OPEN, open_body(3).as_bytes()).0, status::LIMIT);
    assert_eq!(guest.close(1), status::OK);
    guest.open(3);
}

#[test]
fn each_vm_is_shown_the_device_as_its_options_say() {
    let folder = Folder::new("shown");
    let second = folder.path().join("second.sock");
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    let broker = Broker::start(
        "identity",
        &["--device-name=of the first", "--socket", second.to_str().unwrap(), "--device-uuid", uuid],
    );
    broker.wait_log("second.sock");
    let shown = |socket: &Path| {
        let mut guest = Guest::connect(socket);
        guest.hello();
        let snapshot = Snapshot::decode(&guest.request(kind::SNAPSHOT, &[]).1).unwrap();
        let device = &snapshot.devices[0];
        assert_eq!(device.attribute(33), Some(7), "the rest is the host's");
        (device.name(), uuid_text(&device.record.uuid))
    };
    let own = uuid_text(b"vgpu-null-device");
    assert_eq!(shown(&broker.socket), ("of the first".into(), own));
    assert_eq!(shown(&second), ("vgpu null device".into(), uuid.into()));
}

/// The null driver has no NVML: there are no figures, but the VM's own processes are known.
#[test]
fn a_reading_lists_the_vms_processes() {
    let broker = Broker::start("reading", &[]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    let read = |guest: &mut Guest, device| {
        let body = ReadingRequest { device, reserved: 0 };
        guest.request(kind::READING, body.as_bytes())
    };
    let pids = |bytes: &[u8]| {
        let reading = Reading::decode(bytes).unwrap();
        assert_eq!(reading.figures, []);
        reading.processes.iter().map(|p| p.pid).collect::<Vec<_>>()
    };
    let (status, bytes) = read(&mut guest, 0);
    assert_eq!((status, pids(&bytes)), (status::OK, vec![]));
    guest.open(1);
    guest.open(2);
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(pids(&read(&mut guest, 0).1), [open_body(2).pid]);
    assert_eq!(read(&mut guest, 7).0, status::INVALID, "no such device");
    assert_eq!(guest.request(kind::READING, &[0; 4]).0, status::INVALID);
}

#[test]
fn requests_that_make_no_sense_get_a_status() {
    let broker = Broker::start("nonsense", &[]);
    let mut guest = Guest::connect(&broker.socket);
    assert_eq!(guest.request(kind::CLIENT_OPEN, open_body(1).as_bytes()).0, status::INVALID, "before hello");
    let hello = Hello { version: VERSION + 1, reserved: [0; 3], features: 0, pci: Default::default() };
    assert_eq!(guest.request(kind::HELLO, hello.as_bytes()).0, status::UNSUPPORTED);
    guest.hello();
    assert_eq!(guest.request(99, &[]).0, status::UNSUPPORTED);
    assert_eq!(guest.request(kind::CLIENT_OPEN, &[0; 31]).0, status::INVALID);
    assert_eq!(guest.request(kind::CLIENT_OPEN, &[0; 40]).0, status::INVALID);
    assert_eq!(guest.request_bytes(&[1, 2, 3]).0, status::INVALID);
    let lie = RequestHeader { kind: kind::CLIENT_CLOSE, len: u32::MAX };
    assert_eq!(guest.request_bytes(&[lie.as_bytes(), &[0; 8]].concat()).0, status::INVALID);
    assert_eq!(guest.close(5), status::NO_CLIENT);
    assert_eq!(guest.attach(5, 2), status::NO_CLIENT);
    guest.open(5);
    assert_eq!(guest.request(kind::CLIENT_OPEN, open_body(5).as_bytes()).0, status::INVALID, "open already");
}

#[test]
fn broken_chains_on_the_control_queue_do_not_stop_it() {
    let mut broker = Broker::start("chains", &[]);
    let mut guest = Guest::connect(&broker.socket);
    let queue = &mut guest.queues[0];
    let broken = [
        // Outside memory; no space for the reply; a loop; a huge length; a head that is out of bounds.
        (0, BASE - 0x1000, 8, READ, 0),
        (0, BASE, 8, READ, 0),
        (0, BASE, 8, NEXT, 0),
        (0, BASE, u32::MAX, READ, 0),
        (SIZE + 9, BASE, 8, READ, 0),
    ];
    for (head, address, len, flags, next) in broken {
        queue.descriptor(head.min(SIZE - 1), address, len, flags, next);
        queue.offer(head);
    }
    // All but the last, which has no entry to be used, come back with nothing written.
    let start = std::time::Instant::now();
    while queue.used() < 4 {
        assert!(start.elapsed().as_secs() < 10, "only {} used", queue.used());
    }
    for i in 0..4 {
        assert_eq!(queue.used_element(i), (0, 0));
    }
    // A nonsensical available index: the broker must neither spin nor die.
    queue.publish(queue.avail.wrapping_add(5000));
    queue.kick.write(1).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(broker.is_alive());
    let before = cpu_ticks(broker.pid());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(cpu_ticks(broker.pid()) - before < 20, "the broker spins");
    // Another front end is served.
    drop(guest);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
}

/// CPU time of a process in clock ticks (10 ms).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn configuration_space_has_the_magic() {
    let broker = Broker::start("config", &[]);
    let mut guest = Guest::connect(&broker.socket);
    use vhost::vhost_user::VhostUserFrontend;
    let flags = vhost::vhost_user::message::VhostUserConfigFlags::empty();
    let (_, bytes) = guest.frontend.get_config(0, 64, flags, &[0; 64]).unwrap();
    assert_eq!(&bytes[..8], b"vgpu-dev");
    let (_, bytes) = guest.frontend.get_config(60, 64, flags, &[0; 64]).unwrap();
    assert_eq!(bytes, [0; 64], "zeros beyond its end");
}
