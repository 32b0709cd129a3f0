//! A guest that does its worst for some seconds, while another VM of the same broker computes.
//!
//! The guest is random, from a seed that is printed: VGPU_SEED has it again. VGPU_SOAK is for how many seconds it goes on.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vgpu_spec::wire::control::{
    ClientClose, ClientOpen, LaneAttach, RequestHeader, WindowMap, WindowUnmap, kind, status,
};
use vgpu_spec::wire::lane::{Dependency, Layout};
use vgpu_spec::wire::{HUGE_PAGE, Range, WINDOW_AREA};
use vgpu_tests::arguments::Arguments;
use vgpu_tests::host::{Host, HostOptions};
use vgpu_tests::lane::Message;
use vgpu_tests::noise::Noise;
use vgpu_tests::poll::steady;
use vgpu_tests::process::{children, descriptors, threads};
use vgpu_tests::soak;
use vgpu_tests::vm::{BASE, Memory, PAGES, QUEUES, Vm};
use zerocopy::IntoBytes;

/// Entries of a ring.
const SIZE: u64 = 64;
/// Clients that the guest opens at once at most: each is a process, and the test's machine may be small.
const CLIENTS: u64 = 3;

/// For how long one life of the guest lasts.
const LIFE: Duration = Duration::from_millis(700);

struct Hostile {
    vm: Vm,
    noise: Noise,
    layout: Layout,
    arguments: Arguments,
    functions: Vec<vgpu_spec::api::Function>,
    /// What it has published on each queue, true or not.
    avail: [u16; QUEUES as usize],
}

impl Hostile {
    fn new(socket: &Path, seed: u64) -> Self {
        let mut vm = Vm::connect(socket);
        assert_eq!(vm.hello(), status::OK);
        assert_eq!(vm.open(1), status::OK);
        for queue in 2..QUEUES {
            assert_eq!(vm.attach(1, queue, Vm::page(queue)), status::OK);
        }
        let avail = std::array::from_fn(|queue| if queue == 0 { vm.avail() } else { 0 });
        Hostile {
            vm,
            noise: Noise::new(seed),
            layout: Layout::new(SIZE as u16).unwrap(),
            arguments: Arguments::new(seed, WINDOW_AREA, HUGE_PAGE),
            functions: vgpu_spec::api::cuda().unwrap(),
            avail,
        }
    }

    fn queue(&mut self) -> u64 {
        self.noise.below(u64::from(QUEUES))
    }

    fn at(queue: u64, offset: u64) -> u64 {
        queue * HUGE_PAGE + offset
    }

    /// An address of a descriptor: in a lane an offset in its page, else guest-physical; or nothing of the kind.
    fn address(&mut self, queue: u64) -> u64 {
        let inside = self.layout.commands + self.noise.below(64) * 64;
        match self.noise.below(6) {
            0 => self.noise.number(),
            1 => u64::MAX - self.noise.below(64),
            2 => BASE + PAGES * HUGE_PAGE - self.noise.below(128),
            _ if queue < 2 => BASE + Self::at(queue, inside),
            _ => inside,
        }
    }

    fn random_descriptor(&mut self) {
        let queue = self.queue();
        let address = self.address(queue);
        let len = self.noise.pick(&[0_u32, 1, 8, 23, 24, 64, 4096, 65_536, 1 << 20, 1 << 31, u32::MAX]);
        let (flags, next) = (self.noise.below(8) as u16, self.noise.below(SIZE + 4) as u16);
        let index = self.noise.below(SIZE);
        let bytes =
            [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                .concat();
        self.vm.put(Self::at(queue, self.layout.desc + 16 * index), &bytes);
    }

    fn random_entry(&mut self) {
        let (queue, slot) = (self.queue(), self.noise.below(SIZE));
        let head = self.noise.pick(&[0, 1, 2, SIZE as u16 - 1, SIZE as u16, u16::MAX]);
        self.vm.put(Self::at(queue, self.layout.avail + 4 + 2 * slot), &head.to_le_bytes());
    }

    /// Says how far the available ring is: one more, the same again, back, or anywhere.
    fn publish(&mut self) {
        let queue = self.queue();
        let old = self.avail[queue as usize];
        let new = match self.noise.below(12) {
            0 => old.wrapping_sub(1 + self.noise.below(SIZE) as u16),
            1 => self.noise.pick(&[0, 1, 0x7fff, 0x8000, u16::MAX]),
            2 => old.wrapping_add(SIZE as u16 + 1),
            3 => old,
            _ => old.wrapping_add(1 + self.noise.below(4) as u16),
        };
        self.avail[queue as usize] = new;
        self.vm.put(Self::at(queue, self.layout.avail + 2), &new.to_le_bytes());
        self.vm.kick(queue as u16);
    }

    /// A request that is nearly in order, somewhere in the command area of queue 0.
    fn request(&mut self) {
        let client = self.noise.below(CLIENTS) as u32 + 1;
        let queue = self.noise.below(u64::from(QUEUES) + 1) as u16;
        let page = self.noise.pick(&[Vm::page(2), Vm::page(3), BASE + PAGES * HUGE_PAGE, 0, u64::MAX]);
        let window = self.noise.below(4) as u32;
        let range = Range { base: BASE + self.noise.below(PAGES + 2) * HUGE_PAGE, len: HUGE_PAGE };
        let address = WINDOW_AREA + self.noise.below(3) * HUGE_PAGE;
        let extents = self.noise.pick(&[1_u32, 1, 1, 0, 2, u32::MAX]);
        let (kind, body) = match self.noise.below(7) {
            0 => {
                let open =
                    ClientOpen { client, pid: 1, uid: 7, reserved: 0, name: *b"hostile\x1b[2J\n\0\0\0\0" };
                (kind::CLIENT_OPEN, open.as_bytes().to_vec())
            }
            1 => (kind::CLIENT_CLOSE, ClientClose { client, reserved: 0 }.as_bytes().to_vec()),
            2 => (kind::LANE_ATTACH, LaneAttach { client, queue, reserved: 0, page }.as_bytes().to_vec()),
            3 => (kind::WINDOW_UNMAP, WindowUnmap { client, window }.as_bytes().to_vec()),
            4 => (kind::SNAPSHOT, Vec::new()),
            5 => (self.noise.below(16) as u32, self.noise.bytes(40)),
            _ => {
                let map = WindowMap { client, window, address, len: range.len, extents, reserved: 0 };
                (kind::WINDOW_MAP, [map.as_bytes(), range.as_bytes()].concat())
            }
        };
        let len = if self.noise.below(10) == 0 { u32::MAX } else { body.len() as u32 };
        let bytes = [RequestHeader { kind, len }.as_bytes(), &body].concat();
        let place = self.layout.commands + self.noise.below(64) * 64;
        self.vm.put(place, &bytes);
    }

    /// A message of any function with arguments of its shape, in a lane's command area.
    fn message(&mut self) {
        let queue = 2 + self.noise.below(u64::from(QUEUES) - 2);
        let number = self.noise.below(self.functions.len() as u64) as usize;
        let args = self.arguments.of(&self.functions[number]);
        let depends =
            Dependency { lane: self.noise.below(6) as u16, reserved: 0, count: self.noise.below(4) as u32 };
        let dependencies: &[Dependency] = if self.noise.below(5) == 0 { &[depends] } else { &[] };
        let message =
            Message { context: 1, dependencies, ..Message::new(&self.functions[number].name, &args) };
        let bytes = message.encode();
        let place = self.layout.commands + self.noise.below(64) * 64;
        self.vm.put(Self::at(queue, place), &bytes[..bytes.len().min(4096)]);
    }

    fn act(&mut self) {
        match self.noise.below(8) {
            0 | 1 => self.random_descriptor(),
            2 => self.random_entry(),
            3 | 4 => self.publish(),
            5 => self.request(),
            _ => self.message(),
        }
    }
}

/// Writes into the pages of the queues while others read them.
fn race(memory: &Memory, seed: u64, over: &AtomicBool) {
    let mut noise = Noise::new(seed);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let page = noise.below(u64::from(QUEUES)) * HUGE_PAGE;
            let place = match noise.below(8) {
                0 => noise.below(HUGE_PAGE / 4) * 4,
                // Where descriptors and messages are.
                _ => noise.below(2048) * 4,
            };
            memory.write(page + place, noise.number() as u32);
        }
        std::thread::yield_now();
    }
}

/// One life of the guest, which is what it is from its seed on.
fn live(socket: &Path, seed: u64) {
    let mut hostile = Hostile::new(socket, seed);
    let (memory, over) = (hostile.vm.share(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Every other one is raced: alone, more of what it does makes sense.
        if seed.is_multiple_of(2) {
            scope.spawn(|| race(&memory, seed ^ 1, &over));
        }
        let begun = Instant::now();
        while begun.elapsed() < LIFE {
            (0..32).for_each(|_| hostile.act());
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn guest_that_does_its_worst_harms_no_other_vm() {
    let (mut host, second) = HostOptions::default().start_with_second_socket();
    let seed = soak::seed();
    println!("seed {seed}");
    let broker = host.broker.pid();
    let held = || (children(broker).len(), descriptors(broker), threads(broker));
    let rest = |host: &Host| {
        host.settle();
        steady(held)
    };
    live(&second, seed);
    let before = rest(&host);
    let over = AtomicBool::new(false);
    let computed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            let lives = (1..).take_while(|_| begun.elapsed() < soak::seconds(4));
            lives.for_each(|life| live(&second, seed.wrapping_add(life)));
            over.store(true, Ordering::Release);
        });
        let mut computed = 0;
        while !over.load(Ordering::Acquire) {
            host.client(&["compute-once"]).succeed();
            computed += 1;
        }
        computed
    });
    assert!(computed > 0);
    host.broker.assert_alive();
    let log = host.broker.log();
    assert!(!log.contains("panicked") && !log.contains("\x1b[2J"), "{log}");
    let after = rest(&host);
    assert!(after.0 == before.0 && after.1 <= before.1 && after.2 <= before.2, "{after:?} after {before:?}");
    // The socket is as good as before.
    let mut vm = Vm::connect(&second);
    assert_eq!((vm.hello(), vm.open(1), vm.attach(1, 2, Vm::page(2))), (status::OK, status::OK, status::OK));
}
