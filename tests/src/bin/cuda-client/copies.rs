//! Copies between host and device, compared byte by byte.

use crate::driver::{Driver, INVALID_VALUE};
use crate::{refuses, say};
use vgpu_tests::noise::Noise;

/// Around the sizes at which the way of a copy changes: slots, 64 KiB in a message, 256 KiB in a block; pieces of 128 KiB; from 1 MiB on
/// by several threads. [`large`] has what goes round the ring of chunks.
const SIZES: &[usize] = &[
    1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 4095, 4096, 4097, 65_535, 65_536, 65_537, 100_003, 131_073, 262_144,
    262_145, 1_048_575, 1_048_576, 1_048_577, 2_097_153, 4_194_303, 4_194_304, 4_194_305, 5_242_879,
];
const LARGEST: usize = 5 << 20;
/// Room for offsets on both sides.
const MARGIN: usize = 64;

/// Where a copy begins, beyond an aligned address, on the device and in host memory.
const OFFSETS: &[(usize, usize)] = &[(0, 0), (1, 3), (13, 0), (0, 31)];

struct Buffers<'a> {
    d: &'a Driver,
    device: u64,
    other: u64,
    pageable: Vec<u8>,
    pinned: &'static mut [u8],
}

impl<'a> Buffers<'a> {
    fn new(d: &'a Driver) -> Self {
        let len = LARGEST + 2 * MARGIN;
        Buffers {
            d,
            device: d.allocate(len).unwrap(),
            other: d.allocate(len).unwrap(),
            pageable: vec![0; len],
            pinned: d.host_allocate(len).unwrap(),
        }
    }

    /// Takes `size` random bytes to the device, within it, and back, in all ways, and sees that the bytes around stay.
    fn round(&mut self, noise: &mut Noise, size: usize, (on_device, in_host): (usize, usize)) {
        let d = self.d;
        let (from, to) = (self.device + on_device as u64, self.other + on_device as u64);
        let host = MARGIN + in_host..MARGIN + in_host + size;
        let what = |how: &str| format!("{how}, {size} bytes, offsets {on_device} and {in_host}");
        for pinned in [false, true] {
            let bytes = noise.bytes(size);
            d.set8(self.device, 0xaa, on_device + size + MARGIN).unwrap();
            let source =
                if pinned { &mut self.pinned[host.clone()] } else { &mut self.pageable[host.clone()] };
            source.copy_from_slice(&bytes);
            d.to_device(from, source).unwrap();
            // The program may change its memory now.
            source.fill(0x55);
            d.within_device(to, from, size).unwrap();

            self.pageable.fill(0xbb);
            d.to_host(&mut self.pageable[host.clone()], to).unwrap();
            assert!(self.pageable[host.clone()] == bytes, "{}", what("to pageable memory"));
            let around = |memory: &[u8]| memory[host.start - 1] == 0xbb && memory[host.end] == 0xbb;
            assert!(around(&self.pageable), "{}", what("beside pageable memory"));

            self.pinned.fill(0xbb);
            d.to_host_async(&mut self.pinned[host.clone()], from, 0).unwrap();
            d.synchronize_stream(0).unwrap();
            assert!(self.pinned[host.clone()] == bytes, "{}", what("to pinned memory"));
            assert!(around(self.pinned), "{}", what("beside pinned memory"));

            let behind = d.download::<u8>(from + size as u64, MARGIN - 13).unwrap();
            assert!(behind.iter().all(|&b| b == 0xaa), "{}", what("behind the copy on the device"));
        }
    }

    fn give_back(self) {
        self.d.free(self.device).unwrap();
        self.d.free(self.other).unwrap();
        self.d.host_free(self.pinned).unwrap();
    }
}

/// All sizes, at changing offsets.
pub fn sizes(seed: u32) {
    let d = Driver::start();
    let mut noise = Noise::new(u64::from(seed));
    let mut buffers = Buffers::new(&d);
    for (i, &size) in SIZES.iter().enumerate() {
        // Small ones at all offsets.
        let offsets = if size <= 4097 { OFFSETS } else { &OFFSETS[i % OFFSETS.len()..][..1] };
        for &offset in offsets {
            buffers.round(&mut noise, size, offset);
        }
    }
    buffers.give_back();
    say("copied");
}

/// Several threads at once, each with memory of its own.
pub fn threads(seed: u32) {
    let d = Driver::start();
    std::thread::scope(|scope| {
        let d = &d;
        for thread in 0..4 {
            scope.spawn(move || {
                d.enter();
                let mut noise = Noise::new(u64::from(seed + thread));
                let mut buffers = Buffers::new(d);
                for _ in 0..12 {
                    let size = 1 + noise.below(300_000) as usize;
                    let offsets = noise.pick(OFFSETS);
                    buffers.round(&mut noise, size, offsets);
                }
                buffers.give_back();
            });
        }
    });
    say("copied");
}

/// Around where chunks become longer (4 and 16 MiB), once round the ring of 8 MiB, twice, and more.
const LARGE_SIZES: &[usize] = &[
    (2 << 20) - 1,
    2 << 20,
    (8 << 20) - 1,
    8 << 20,
    (8 << 20) + 1,
    (16 << 20) - 1,
    16 << 20,
    (16 << 20) + 1,
    (25 << 20) + 13,
];
const PATCH: usize = 70_001;

/// Copies `size` bytes of pageable memory there and back in `stream`, between other work of the stream, which shows that the order is
/// the stream's.
fn ordered_round(d: &Driver, noise: &mut Noise, size: usize, (memory, stream): (u64, u64)) {
    let mut expected = noise.bytes(size);
    let mut source = vec![0; MARGIN + size];
    source[MARGIN - 1..MARGIN - 1 + size].copy_from_slice(&expected);
    d.set8_async(memory, 0x11, size, stream).unwrap();
    d.to_device_async(memory, &source[MARGIN - 1..MARGIN - 1 + size], stream).unwrap();
    // The program may change its memory now.
    source.fill(0x55);
    d.set8_async(memory + (size / 2) as u64, 0xcc, PATCH, stream).unwrap();
    expected[size / 2..size / 2 + PATCH].fill(0xcc);
    let mut back = vec![0xbb; size + 2];
    d.to_host_async(&mut back[1..=size], memory, stream).unwrap();
    // What comes later in the stream is not in the copy.
    d.set8_async(memory, 0x22, size, stream).unwrap();
    assert!(back[1..=size] == expected, "{size} bytes");
    assert!((back[0], back[size + 1]) == (0xbb, 0xbb), "beside {size} bytes");
}

/// Copies of many chunks: in the legacy stream and in one of the program's, of several threads at once, and refused ones between them.
pub fn large(seed: u32) {
    let d = Driver::start();
    let run = |seed: u32, sizes: &[usize], own_stream: bool| {
        d.enter();
        let mut noise = Noise::new(u64::from(seed));
        let stream = if own_stream { d.stream().unwrap() } else { 0 };
        let memory = d.allocate(26 << 20).unwrap();
        for &size in sizes {
            ordered_round(&d, &mut noise, size, (memory, stream));
        }
        d.free(memory).unwrap();
    };
    run(seed, LARGE_SIZES, true);
    run(seed + 1, &LARGE_SIZES[4..], false);
    refused(&d);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || run(seed + 2 + thread, &[(9 << 20) + thread as usize, 17 << 20], true));
        }
    });
    say("copied");
}

/// A copy beyond the device's memory fails, and the next one does not.
fn refused(d: &Driver) {
    const LEN: usize = 20 << 20;
    let memory = d.allocate(LEN).unwrap();
    let mut bytes = vec![3; 2 * LEN];
    for round in 0..3 {
        refuses("to an address that is none", d.to_device(0x12_3000, &bytes), INVALID_VALUE);
        refuses("from an address that is none", d.to_host(&mut bytes, 0x12_3000), INVALID_VALUE);
        refuses("beyond an allocation", d.to_device(memory + 4096, &bytes), INVALID_VALUE);
        d.to_device(memory, &bytes[..LEN]).unwrap();
        bytes[..LEN].fill(round);
        d.to_host(&mut bytes[..LEN], memory).unwrap();
        assert!(bytes.iter().all(|&b| b == 3), "a copy after refused ones");
    }
    d.free(memory).unwrap();
}

/// Copies from memory of which a page in the middle is not there: the process ends by the signal, as natively.
pub fn unmapped() {
    const LEN: usize = 24 << 20;
    let d = Driver::start();
    let memory = d.allocate(LEN).unwrap();
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, and a page of it.
    let bytes = unsafe {
        let bytes = libc::mmap(std::ptr::null_mut(), LEN, access, flags, -1, 0);
        assert_ne!(bytes, libc::MAP_FAILED);
        libc::mprotect(bytes.byte_add(LEN / 2), 4096, libc::PROT_NONE);
        std::slice::from_raw_parts(bytes.cast::<u8>(), LEN)
    };
    d.to_device(memory, &bytes[..LEN / 2]).unwrap();
    say("copied the first half");
    let _ = d.to_device(memory, bytes);
    say("copied what is not there");
}
