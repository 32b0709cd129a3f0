//! Windows and the heap, against an agent on a socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use support::Random;
use support::agent::{Agent, Behaviour};
use vgpu_client::{Connection, Heap, HeapError, Mode, WindowError, Windows};
use vgpu_spec::wire::{HUGE_PAGE, WINDOW_AREA, WINDOW_AREA_LEN};

const MIB: u64 = 1 << 20;

fn windows(agent: &Agent) -> Arc<Windows> {
    Arc::new(Windows::new(Arc::new(Connection::open_at(&agent.path, Mode::Full).unwrap())))
}

fn read(address: u64) -> u64 {
    // SAFETY: tests pass addresses of windows that they hold.
    unsafe { (address as *const u64).read_volatile() }
}

fn write(address: u64, value: u64) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u64).write_volatile(value) }
}

#[test]
fn a_window_is_mapped_where_it_was_announced() {
    let agent = Agent::start(Behaviour::default());
    let windows = windows(&agent);
    let window = windows.allocate(4 * MIB).unwrap();
    assert!(window.address >= WINDOW_AREA && window.address + window.len <= WINDOW_AREA + WINDOW_AREA_LEN);
    assert_eq!(window.address % HUGE_PAGE, 0);
    assert_eq!(*agent.state.windows.lock().unwrap(), [(window.number, 4 * MIB, window.address)]);
    // The agent wrote the window's number at its start.
    assert_eq!(read(window.address), u64::from(window.number));
    write(window.address + window.len - 8, 7);
    windows.free(&window);
    assert!(agent.state.windows.lock().unwrap().is_empty());
}

#[test]
fn addresses_that_are_taken_are_passed_over() {
    let agent = Agent::start(Behaviour { refuse_windows: 2, ..Behaviour::default() });
    let windows = windows(&agent);
    let first = windows.allocate(2 * MIB).unwrap();
    // The worker refused twice: two windows further up at least.
    assert!(first.address >= WINDOW_AREA + 4 * MIB);
    let second = windows.allocate(8 * MIB).unwrap();
    let overlap = first.address < second.address + second.len && second.address < first.address + first.len;
    assert!(!overlap, "{first:?} {second:?}");
}

#[test]
fn impossible_windows_are_refused() {
    let agent = Agent::start(Behaviour { window_bytes: 2 * MIB, ..Behaviour::default() });
    let windows = windows(&agent);
    for len in [0, MIB, 2 * MIB + 1, WINDOW_AREA_LEN + 2 * MIB, u64::MAX - (2 * MIB - 1)] {
        assert!(matches!(windows.allocate(len), Err(WindowError::Length { .. })), "{len}");
    }
    let refused = windows.allocate(4 * MIB);
    assert!(matches!(refused, Err(WindowError::Agent { .. })));
    // A refusal leaves nothing behind.
    assert!(windows.allocate(2 * MIB).is_ok());
}

#[test]
fn random_allocations_agree_with_a_model() {
    let agent = Agent::start(Behaviour::default());
    let heap = Heap::new(windows(&agent), 512 * MIB);
    let mut random = Random::new(3);
    let mut model: BTreeMap<u64, u64> = BTreeMap::new();
    for step in 0..6000_u64 {
        if model.len() < 300 && random.below(5) < 3 {
            let len = match random.below(100) {
                0 => 16 * MIB + random.below(20 * MIB),
                1..5 => random.below(4 * MIB) + 16,
                _ => random.below(20_000) + 16,
            };
            let align = 1 << random.below(if len > 100_000 { 22 } else { 13 });
            let address = match heap.alloc(len, align) {
                Ok(address) => address,
                Err(HeapError::Limit { .. }) => continue,
                Err(error) => panic!("step {step}: {error}"),
            };
            assert_eq!(address % align.max(256), 0);
            if let Some((base, held)) = model.range(..address + len).next_back() {
                assert!(base + held <= address, "step {step}: {address:#x} meets {base:#x}");
            }
            write(address, address);
            write((address + len - 8) & !7, address ^ u64::MAX);
            model.insert(address, len);
        } else if let Some((&address, &len)) =
            model.range(random.below(u64::MAX)..).next().or(model.iter().next())
        {
            assert_eq!(read(address), address);
            assert_eq!(read((address + len - 8) & !7), address ^ u64::MAX);
            assert_eq!(heap.find(address), Some((address, len)));
            assert_eq!(heap.find(address + len - 1), Some((address, len)));
            assert_ne!(heap.find(address + len).map(|found| found.0), Some(address));
            assert!(!heap.free(address + 1));
            assert!(heap.free(address));
            assert!(!heap.free(address));
            assert_eq!(heap.find(address), None);
            model.remove(&address);
        }
        assert!(heap.held() <= 512 * MIB);
    }
    assert!(model.len() > 50, "too few blocks to show anything");
    for address in model.keys() {
        assert!(heap.free(*address));
    }
    // The first window, another shared one and a spare remain at most.
    assert!(agent.state.windows.lock().unwrap().len() <= 3);
    let held: u64 = agent.state.windows.lock().unwrap().iter().map(|window| window.1).sum();
    assert_eq!(held, heap.held());
}

#[test]
fn the_first_window_is_small_and_stays() {
    let agent = Agent::start(Behaviour::default());
    let heap = Heap::new(windows(&agent), 512 * MIB);
    let first = heap.alloc(2 * MIB, 2 * MIB).unwrap();
    assert_eq!(heap.held(), 2 * MIB);
    // With the next one that are 32 MiB, which take any small block; each further one is that large.
    let blocks: Vec<u64> = (0..2).map(|_| heap.alloc(16 * MIB - 1, 2 * MIB).unwrap()).collect();
    assert_eq!(heap.held(), 64 * MIB);
    assert!(heap.free(first));
    assert!(heap.free(blocks[1]));
    assert_eq!(heap.held(), 64 * MIB, "an empty one is kept");
    assert!(heap.free(blocks[0]));
    let left: Vec<u64> = agent.state.windows.lock().unwrap().iter().map(|window| window.1).collect();
    assert_eq!(left, [2 * MIB, 32 * MIB]);
    assert_eq!(heap.alloc(1, 1).unwrap(), first);
}

#[test]
fn large_blocks_use_the_spare_window_again() {
    let agent = Agent::start(Behaviour::default());
    let heap = Heap::new(windows(&agent), 512 * MIB);
    let first = heap.alloc(20 * MIB, 4096).unwrap();
    let number = agent.state.windows.lock().unwrap()[0].0;
    assert!(heap.free(first));
    assert_eq!(heap.alloc(17 * MIB, 4096).unwrap(), first);
    let windows: Vec<_> = agent.state.windows.lock().unwrap().iter().map(|window| window.0).collect();
    assert_eq!(windows, [number]);
    assert_eq!(heap.find(first + 17 * MIB - 1), Some((first, 17 * MIB)));
    assert_eq!(heap.find(first + 17 * MIB), None);
}

#[test]
fn the_limit_is_kept_and_the_spare_gives_way() {
    let agent = Agent::start(Behaviour::default());
    let heap = Heap::new(windows(&agent), 64 * MIB);
    let large = heap.alloc(40 * MIB, 256).unwrap();
    assert!(
        matches!(heap.alloc(3 * MIB, 1), Err(HeapError::Limit { in_use, limit, .. }) if (in_use, limit) == (40 * MIB, 64 * MIB))
    );
    assert!(heap.free(large));
    heap.alloc(3 * MIB, 1).unwrap();
    assert_eq!(heap.held(), 32 * MIB);
    for (len, align) in [(0, 1), (1, 3), (1, 0), (1, 4 * MIB), (u64::MAX, 1)] {
        assert!(matches!(heap.alloc(len, align), Err(HeapError::Request { .. })), "{len} {align}");
    }
}

#[test]
fn threads_allocate_at_the_same_time() {
    let agent = Agent::start(Behaviour::default());
    let heap = Heap::new(windows(&agent), 512 * MIB);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let heap = &heap;
            scope.spawn(move || {
                let mut random = Random::new(seed + 100);
                let mut mine = Vec::new();
                for _ in 0..1000 {
                    let address = heap.alloc(random.below(50_000) + 8, 64).unwrap();
                    write(address, seed);
                    mine.push(address);
                    if mine.len() > 20 {
                        let address = mine.swap_remove(random.below(20) as usize);
                        assert_eq!(read(address), seed);
                        assert!(heap.free(address));
                    }
                }
            });
        }
    });
}
