//! Windows.

use crate::broker::{Broker, eventually};
use crate::guest::*;
use vgpu_spec::wire::control::{WindowMap, WindowUnmap, kind, status};
use vgpu_spec::wire::{HUGE_PAGE, Range, WINDOW_AREA, WINDOW_AREA_LEN};
use zerocopy::IntoBytes;

/// What a worker has mapped in a range: lines of its maps.
fn mapped(pid: u32, base: u64, len: u64) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let inside = |line: &&str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        start < base + len && end > base
    };
    maps.lines().filter(inside).map(str::to_owned).collect()
}

#[test]
fn window_is_mapped_where_the_guest_says_and_taken_away_again() {
    let broker = Broker::start("window", &[]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    let worker = broker.client_worker(1);
    let address = WINDOW_AREA + 64 * HUGE_PAGE;
    // Pages 10 and 11 adjoin, 20 lies apart.
    assert_eq!(guest.map(1, 7, address, &[10, 11, 20]), status::OK);
    let maps = mapped(worker, address, 3 * HUGE_PAGE);
    assert_eq!(maps.len(), 2, "{maps:#?}");
    assert!(maps.iter().all(|m| m.contains("rw-s") && m.contains("memfd:guest")), "{maps:#?}");
    assert!(maps[0].contains(&format!("{:08x}", 10 * HUGE_PAGE)), "{maps:#?}");
    assert!(maps[1].contains(&format!("{:08x}", 20 * HUGE_PAGE)), "{maps:#?}");
    let unmap = |guest: &mut Guest, window| {
        guest.request(kind::WINDOW_UNMAP, WindowUnmap { client: 1, window }.as_bytes()).0
    };
    assert_eq!(unmap(&mut guest, 8), status::INVALID);
    assert_eq!(unmap(&mut guest, 7), status::OK);
    let maps = mapped(worker, address, 3 * HUGE_PAGE);
    assert!(maps.iter().all(|m| m.contains("---p")) && !maps.is_empty(), "{maps:#?}");
    assert_eq!(unmap(&mut guest, 7), status::INVALID);
    assert_eq!(guest.map(1, 7, address, &[12]), status::OK);
}

#[test]
fn windows_that_make_no_sense_are_refused() {
    let broker = Broker::start("nowindow", &[]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.map(1, 1, WINDOW_AREA, &[10, 11]), status::OK);
    for (client, window, address, pages, expected, what) in [
        (2, 2, WINDOW_AREA + 8 * HUGE_PAGE, &[12][..], status::NO_CLIENT, "no client"),
        (1, 1, WINDOW_AREA + 8 * HUGE_PAGE, &[12], status::INVALID, "number in use"),
        (1, 2, WINDOW_AREA + HUGE_PAGE, &[12], status::INVALID, "overlap"),
        (1, 2, WINDOW_AREA - 4096, &[12], status::INVALID, "into the area"),
        (1, 2, WINDOW_AREA + WINDOW_AREA_LEN - 4096, &[12], status::INVALID, "out of the area"),
        (1, 2, 0x2000_0000_0800, &[12], status::INVALID, "unaligned elsewhere"),
        (1, 2, (1 << 47) - 4096, &[12], status::INVALID, "beyond all addresses"),
        (1, 2, 0, &[12], status::INVALID, "NULL"),
        (1, 2, WINDOW_AREA + 4096, &[12], status::INVALID, "unaligned"),
        (1, 2, WINDOW_AREA + 8 * HUGE_PAGE, &[PAGES], status::INVALID, "no memory"),
        (1, 2, WINDOW_AREA + 8 * HUGE_PAGE, &[], status::INVALID, "nothing"),
    ] {
        assert_eq!(guest.map(client, window, address, pages), expected, "{what}");
    }
    // The length is not that of the extents; more extents than bytes.
    let address = WINDOW_AREA + 8 * HUGE_PAGE;
    let range = Range { base: BASE + 12 * HUGE_PAGE, len: HUGE_PAGE };
    for (len, extents) in [(2 * HUGE_PAGE, 1), (HUGE_PAGE, 2), (HUGE_PAGE, u32::MAX), (HUGE_PAGE, 0)] {
        let map = WindowMap { client: 1, window: 2, address, len, extents, reserved: 0 };
        let (status, _) = guest.request(kind::WINDOW_MAP, &[map.as_bytes(), range.as_bytes()].concat());
        assert_eq!(status, status::INVALID, "{len:#x} {extents}");
    }
    assert_eq!(guest.map(1, 2, address, &[12]), status::OK, "the refusals left nothing behind");
}

#[test]
fn windows_in_place_of_a_programs_memory_replace_nothing_of_the_workers() {
    let broker = Broker::start("inplace", &["--warm", "0"]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    let worker = broker.client_worker(1);
    let unmap = |guest: &mut Guest, window| {
        guest.request(kind::WINDOW_UNMAP, WindowUnmap { client: 1, window }.as_bytes()).0
    };
    let address = 0x2000_0000_1000;
    assert_eq!(guest.map(1, 1, address, &[12]), status::OK);
    assert!(mapped(worker, address, HUGE_PAGE)[0].contains("rw-s"));
    assert_eq!(unmap(&mut guest, 1), status::OK);
    assert!(mapped(worker, address, HUGE_PAGE).is_empty());
    let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
    let own = maps.lines().find(|line| line.contains("r-xp")).unwrap().to_owned();
    let start = u64::from_str_radix(own.split('-').next().unwrap(), 16).unwrap();
    for address in [start, start - HUGE_PAGE + 4096] {
        assert_eq!(guest.map(1, 2, address, &[12]), status::FAILED, "{address:#x}");
    }
    let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
    assert!(maps.contains(&own), "the worker's own mapping is as it was");
}

#[test]
fn worker_has_nothing_of_a_closed_client_left() {
    let broker = Broker::start("leftover", &["--warm", "0"]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.map(1, 1, WINDOW_AREA, &[10]), status::OK);
    assert_eq!(guest.close(1), status::OK);
    guest.open(2);
    let worker = broker.client_worker(2);
    eventually("a worker", || !mapped(worker, WINDOW_AREA, HUGE_PAGE).is_empty(), || broker.log());
    assert!(mapped(worker, WINDOW_AREA, HUGE_PAGE)[0].contains("---p"));
    assert_eq!(guest.map(2, 1, WINDOW_AREA, &[10]), status::OK, "numbers are the client's own");
}
