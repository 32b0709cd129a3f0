//! Copies between host and device, compared byte by byte.

use crate::driver::Driver;
use crate::say;
use vgpu_tests::noise::Noise;

/// Around the sizes at which the way of a copy changes: slots, 64 KiB in a message, chunks of 1 MiB, blocks of 4 MiB.
const SIZES: &[usize] = &[
    1, 2, 3, 7, 8, 9, 63, 64, 65, 255, 4095, 4096, 4097, 65_535, 65_536, 65_537, 100_003, 262_144, 1_048_575,
    1_048_576, 1_048_577, 2_097_153, 4_194_303, 4_194_304, 4_194_305, 5_242_879,
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
