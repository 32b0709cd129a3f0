//! Arguments for any function of the description: of its shape more or less, with numbers that hurt.

use crate::noise::Noise;
use vgpu_spec::api::{Direction, Function, HANDLE_KINDS, Parameter, Type};
use vgpu_spec::handle;
use vgpu_spec::wire::args::Writer;

const SCALARS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    63,
    64,
    65,
    255,
    1024,
    4096,
    65_536,
    1 << 20,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 47,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

pub struct Arguments {
    noise: Noise,
    /// The address of a window, which begins with an image.
    window: u64,
    /// Bytes of the image.
    image: u64,
}

impl Arguments {
    pub fn new(seed: u64, window: u64, image: u64) -> Self {
        Arguments { noise: Noise::new(seed), window, image }
    }

    /// The bytes behind the header.
    pub fn of(&mut self, function: &Function) -> Vec<u8> {
        match self.noise.below(8) {
            0 => {
                let len = self.noise.below(300) as usize;
                self.noise.bytes(len)
            }
            1 => {
                let count = self.noise.below(16);
                (0..count).flat_map(|_| self.number().to_le_bytes()).collect()
            }
            _ => self.shaped(function),
        }
    }

    fn shaped(&mut self, function: &Function) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        let mut writer = Writer::new(&mut bytes);
        for parameter in &function.parameters {
            self.write(&mut writer, parameter);
        }
        let mut len = writer.finish().unwrap();
        // Now and then a slot too few or too many.
        match self.noise.below(12) {
            0 => len = len.saturating_sub(8),
            1 => len += 8,
            _ => {}
        }
        bytes.truncate(len);
        bytes
    }

    fn write(&mut self, writer: &mut Writer<'_>, parameter: &Parameter) {
        // Has a test of its own.
        if parameter.name.ends_with("Capacity") {
            return writer.u64(self.noise.pick(&[0, 1, 100, 65_536]));
        }
        if self.noise.below(3) != 0 {
            match parameter.name.as_str() {
                "image" => return writer.u64(self.window),
                "len" => return writer.u64(self.image),
                _ => {}
            }
        }
        match (parameter.direction, &parameter.ty) {
            (Direction::Value, Type::Str) => writer.bytes(self.noise.pick(&[
                &b"empty\0"[..],
                b"count\0",
                b"\0",
                b"",
                b"no end",
                b"a\0b\0",
                b"%s%n\0",
            ])),
            (Direction::Value | Direction::New, Type::Handle(kind)) => writer.u64(self.handle(kind)),
            (Direction::Value, Type::DevPtr) => writer.u64(self.address()),
            (Direction::Value | Direction::New, _) => writer.u64(self.number()),
            (Direction::In, _) => {
                if self.noise.below(6) == 0 {
                    return writer.null();
                }
                let len = self.noise.pick(&[0, 0, 0, 1, 4, 8, 16, 24, 56, 72, 128, 200, 1000]);
                writer.bytes(&self.noise.bytes(len));
            }
            (Direction::Out | Direction::Made, _) if parameter.optional => writer.u64(self.noise.below(2)),
            (Direction::Out | Direction::Made, _) => {}
        }
    }

    fn number(&mut self) -> u64 {
        match self.noise.below(8) {
            0 => self.noise.number(),
            1 => self.address(),
            2 => self.noise.below(200),
            _ => self.noise.pick(SCALARS),
        }
    }

    fn address(&mut self) -> u64 {
        let near = self.noise.below(4096);
        self.noise.pick(&[
            0,
            1,
            4096,
            self.window,
            self.window + near,
            self.window + (2 << 20) - 4,
            1 << 46,
            u64::MAX - 4095,
        ])
    }

    /// Mostly of the right kind, with a small index, so that calls meet objects that other calls made.
    fn handle(&mut self, kind: &str) -> u64 {
        let name = if kind == "Callable" { self.noise.pick(&["Function", "Kernel"]) } else { kind };
        let number = HANDLE_KINDS.iter().position(|k| *k == name).map_or(1, |i| i as u64 + 1);
        match self.noise.below(10) {
            0 => self.number(),
            1 => self.noise.pick(&[0, 1, 2]),
            2 => handle_of(self.noise.below(30), self.noise.below(4), 0),
            3 => handle_of(number, self.noise.below(5000), self.noise.below(3)),
            _ => handle_of(number, 1 + self.noise.below(3), 0),
        }
    }
}

fn handle_of(kind: u64, index: u64, generation: u64) -> u64 {
    let number = kind << 40 | generation << 28 | index << 4;
    debug_assert!(index == 0 || kind == 0 || kind > 28 || handle::split(number).is_some());
    number
}
