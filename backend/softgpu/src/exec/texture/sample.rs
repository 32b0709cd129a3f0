//! Fetches: from coordinates to texels to a value.

use super::axis::Axis;
use super::format::linear_of_srgb;
use super::{AddressMode, Channel, Geometry, Image, Layout, Level, cube};
use crate::exec::Memory;

/// How a texture is read (`CUDA_TEXTURE_DESC`).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    /// Beyond the edges, by coordinate.
    pub address: [AddressMode; 3],
    /// Whether neighbours are mixed.
    pub linear: bool,
    /// Whether neighbouring levels are mixed.
    pub linear_levels: bool,
    /// Added to every level.
    pub bias: f32,
    /// The least and the greatest level.
    pub clamp: [f32; 2],
    /// Coordinates from 0 to 1.
    pub normalized: bool,
    /// Small integers are read as they are, not as fractions.
    pub as_integer: bool,
    /// The first three channels of 8 bits are sRGB.
    pub srgb: bool,
    /// Filtering goes over the edges of cube faces.
    pub seamless: bool,
    /// What is beyond the edges in border mode.
    pub border: [f32; 4],
}

/// What a texture object or a bound texture reference shows.
#[derive(Clone, Debug)]
pub struct Texture {
    /// The texels.
    pub image: Image,
    /// How they are read.
    pub sampler: Sampler,
}

/// Which level of a mipmapped array is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lod {
    /// The first; the sampler's clamp still holds.
    Base,
    /// Its number.
    Level(f32),
    /// As the derivatives of the coordinates in x and y ask.
    Gradient([[f32; 3]; 2]),
}

/// Where to sample.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// What the coordinates are.
    pub geometry: Geometry,
    /// The coordinates within the layer.
    pub at: [f32; 3],
    /// The layer, where there is one.
    pub layer: u32,
    /// The level.
    pub lod: Lod,
}

/// A texel whose memory cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTexel {
    /// Where it would be.
    pub address: u64,
    /// Its bytes.
    pub length: u64,
}

type Answer = Result<[u32; 4], BadTexel>;

impl Texture {
    /// Whether fetches give floats; integers are never filtered.
    fn gives_floats(&self) -> bool {
        let channel = self.image.format.channel;
        channel.is_float() || channel.can_be_fraction() && !self.sampler.as_integer
    }

    fn mode(&self, axis: usize) -> AddressMode {
        let mode = self.sampler.address.get(axis).copied().unwrap_or(AddressMode::Clamp);
        match mode {
            // These exist for normalized coordinates only.
            AddressMode::Wrap | AddressMode::Mirror if !self.sampler.normalized => AddressMode::Clamp,
            mode => mode,
        }
    }

    /// The plane of a layer, and of a face of it.
    fn plane(&self, layer: u32, face: u32) -> u32 {
        let planes = self.image.level(0).size[2].max(1);
        match self.image.layout {
            Layout::Plain | Layout::Linear => 0,
            // The number has no sign: a negative one is the last.
            Layout::Layered => layer.min(planes - 1),
            Layout::Cube => face.min(planes - 1),
            Layout::LayeredCube => {
                let layer = layer.min((planes / 6).max(1) - 1);
                (layer * 6 + face).min(planes - 1)
            }
        }
    }

    /// `tex` with coordinates that are floats: filtered as the sampler says.
    pub fn sample(&self, position: &Position, memory: &dyn Memory) -> Answer {
        if self.image.layout == Layout::Linear {
            // Memory without rows is for integer coordinates.
            return Ok([0; 4]);
        }
        let (low, high, weight) = self.levels(position);
        let first = self.sample_level(position, low, memory)?;
        if weight == 0 || !self.gives_floats() {
            return Ok(first);
        }
        let second = self.sample_level(position, high, memory)?;
        let weight = f64::from(weight) / 256.0;
        let mix = |a: u32, b: u32| {
            let (a, b) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
            ((a * (1.0 - weight) + b * weight) as f32).to_bits()
        };
        Ok(std::array::from_fn(|channel| mix(first[channel], second[channel])))
    }

    /// `tex` with coordinates that are integers: never filtered, never normalized, and 0 beyond the edges. Arrays of one
    /// dimension have no such coordinates; an H100 answers 0.
    pub fn fetch(
        &self,
        geometry: Geometry,
        at: [i32; 3],
        layer: u32,
        level: i32,
        memory: &dyn Memory,
    ) -> Answer {
        if self.image.layout == Layout::Linear {
            return self.linear_texel(i64::from(at[0]), memory);
        }
        if geometry.dimensions() == 1 {
            return Ok([0; 4]);
        }
        let last = self.image.levels.len().saturating_sub(1);
        let level = self.image.level(usize::try_from(level).unwrap_or(0).min(last));
        let mut axes = [Axis::NONE; 3];
        for (dimension, axis) in axes.iter_mut().enumerate().take(geometry.dimensions()) {
            *axis = Axis::exact(i64::from(at[dimension]), level.size[dimension], AddressMode::Border);
            if axis.low.is_none() {
                return Ok([0; 4]);
            }
        }
        if geometry != Geometry::D3 {
            axes[2] = Axis::exact(i64::from(self.plane(layer, 0)), u32::MAX, AddressMode::Clamp);
        }
        self.single(level, axes.map(|axis| axis.low), memory)
    }

    /// `tld4`: one channel of the four texels that a linear filter would mix, counter-clockwise from the lower left.
    pub fn gather(&self, position: &Position, channel: usize, memory: &dyn Memory) -> Answer {
        let level = self.image.level(0);
        let axes = self.axes(position, level, true);
        let [x, y, z] = axes;
        let mut out = [0; 4];
        let places = [(x.low, y.high), (x.high, y.high), (x.high, y.low), (x.low, y.low)];
        for (out, (x, y)) in out.iter_mut().zip(places) {
            let texel = self.single(level, [x, y, z.low], memory)?;
            *out = texel.get(channel).copied().unwrap_or(0);
        }
        Ok(out)
    }

    fn linear_texel(&self, index: i64, memory: &dyn Memory) -> Answer {
        let level = self.image.level(0);
        match u32::try_from(index) {
            Ok(x) if x < level.size[0] => self.raw(level, [Some(x), Some(0), Some(0)], memory),
            _ => Ok([0; 4]),
        }
    }

    /// The two levels to mix and the second one's weight in 256ths.
    fn levels(&self, position: &Position) -> (usize, usize, u16) {
        let last = self.image.levels.len().saturating_sub(1);
        // Level and bias have eight bits of fraction each, cut and not rounded, as an H100 was seen to do.
        let cut = |x: f32| (x * 256.0).floor() / 256.0;
        let bias = cut(self.sampler.bias);
        let lod = match position.lod {
            Lod::Base => 0.0,
            Lod::Level(lod) => cut(lod) + bias,
            Lod::Gradient(gradients) => cut(self.gradient_lod(position, gradients)) + bias,
        };
        let [least, most] = self.sampler.clamp;
        let lod = lod.min(most).max(least).clamp(0.0, last as f32);
        let fixed = (lod * 256.0) as u32;
        if self.sampler.linear_levels {
            let low = (fixed >> 8) as usize;
            (low, (low + 1).min(last), (fixed & 0xff) as u16)
        } else {
            let level = ((fixed + 128) >> 8) as usize;
            (level, level, 0)
        }
    }

    fn gradient_lod(&self, position: &Position, gradients: [[f32; 3]; 2]) -> f32 {
        let size = self.image.level(0).size;
        let is_cube = matches!(position.geometry, Geometry::Cube | Geometry::LayeredCube);
        let major = position.at.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let dimensions = position.geometry.dimensions();
        let length = |gradient: [f32; 3]| {
            let scaled = (0..dimensions).map(|axis| match is_cube {
                // A face is two wide.
                true => gradient[axis] * size[0] as f32 / (2.0 * major),
                false if self.sampler.normalized => gradient[axis] * size[axis] as f32,
                false => gradient[axis],
            });
            scaled.map(|d| d * d).sum::<f32>().sqrt()
        };
        let rho = length(gradients[0]).max(length(gradients[1]));
        if rho > 0.0 { rho.log2() } else { 0.0 }
    }

    fn axes(&self, position: &Position, level: &Level, linear: bool) -> [Axis; 3] {
        let mut axes = [Axis::NONE; 3];
        let (mut at, mut face) = (position.at, 0);
        let mut dimensions = position.geometry.dimensions();
        let mut normalized = self.sampler.normalized;
        if matches!(position.geometry, Geometry::Cube | Geometry::LayeredCube) {
            let (found, [s, t]) = cube::face(position.at);
            (face, at, dimensions, normalized) = (found, [s, t, 0.0], 2, true);
        }
        for (dimension, axis) in axes.iter_mut().enumerate().take(dimensions) {
            let (x, count, mode) = (at[dimension], level.size[dimension], self.mode(dimension));
            *axis = if linear {
                Axis::linear(x, count, mode, normalized)
            } else {
                Axis::nearest(x, count, mode, normalized)
            };
        }
        if position.geometry == Geometry::D1 && linear {
            // Filtered as the row of an image of height 1, at its upper edge: half a border is mixed in where there is one.
            axes[1] = Axis::linear(0.0, 1, self.mode(1), normalized);
        }
        if dimensions < 3 {
            let plane = self.plane(position.layer, face);
            axes[2] = Axis::exact(i64::from(plane), u32::MAX, AddressMode::Clamp);
        }
        axes
    }

    fn sample_level(&self, position: &Position, level: usize, memory: &dyn Memory) -> Answer {
        let level = self.image.level(level);
        let linear = self.sampler.linear && self.gives_floats();
        let is_cube = matches!(position.geometry, Geometry::Cube | Geometry::LayeredCube);
        if linear && is_cube && self.sampler.seamless {
            return self.seamless(position, level, memory);
        }
        let axes = self.axes(position, level, linear);
        if !linear {
            return self.single(level, axes.map(|axis| axis.low), memory);
        }
        let mut sums = [0f64; 4];
        for corner in 0..8u32 {
            let pick = |axis: usize| {
                let Axis { low, high, weight } = axes[axis];
                let weight = f64::from(weight) / 256.0;
                if corner >> axis & 1 == 1 { (high, weight) } else { (low, 1.0 - weight) }
            };
            let [x, y, z] = [0, 1, 2].map(pick);
            let weight = x.1 * y.1 * z.1;
            if weight == 0.0 {
                continue;
            }
            let texel = self.raw(level, [x.0, y.0, z.0], memory)?;
            for (sum, bits) in sums.iter_mut().zip(texel) {
                *sum += weight * f64::from(f32::from_bits(bits));
            }
        }
        Ok(self.mixed(sums))
    }

    fn mixed(&self, sums: [f64; 4]) -> [u32; 4] {
        let channel = self.image.format.channel;
        // Linear light has more bits than the channel.
        let color = if self.sampler.srgb { Channel::F32 } else { channel };
        std::array::from_fn(|index| if index < 3 { color } else { channel }.mixed(sums[index]).to_bits())
    }

    /// Linear filtering on a cube whose faces continue each other. What lies beyond a corner is taken from the nearer face.
    fn seamless(&self, position: &Position, level: &Level, memory: &dyn Memory) -> Answer {
        let (face, at) = cube::face(position.at);
        let count = level.size[0].max(1);
        let fixed = at.map(|x| ((f64::from(x) * f64::from(count) - 0.5) * 256.0).round() as i64);
        let mut sums = [0f64; 4];
        for corner in 0..4u32 {
            let mut weight = 1.0;
            let index = [0, 1].map(|axis| {
                let second = corner >> axis & 1 == 1;
                let fraction = (fixed[axis] & 0xff) as f64 / 256.0;
                weight *= if second { fraction } else { 1.0 - fraction };
                (fixed[axis] >> 8) + i64::from(second)
            });
            if weight == 0.0 {
                continue;
            }
            let centre = index.map(|index| (index as f32 + 0.5) / count as f32);
            let (face, at) = match index.iter().all(|index| (0..i64::from(count)).contains(index)) {
                true => (face, centre),
                false => cube::face(cube::direction(face, centre)),
            };
            let [x, y] = at.map(|x| Axis::nearest(x, count, AddressMode::Clamp, true).low);
            let texel = self.raw(level, [x, y, Some(self.plane(position.layer, face))], memory)?;
            for (sum, bits) in sums.iter_mut().zip(texel) {
                *sum += weight * f64::from(f32::from_bits(bits));
            }
        }
        Ok(self.mixed(sums))
    }

    /// One texel as it is given where it is not mixed with others.
    fn single(&self, level: &Level, at: [Option<u32>; 3], memory: &dyn Memory) -> Answer {
        let mut texel = self.raw(level, at, memory)?;
        if self.gives_floats() {
            let channel = self.image.format.channel;
            texel.iter_mut().for_each(|bits| *bits = channel.limit(f32::from_bits(*bits)).to_bits());
        }
        Ok(texel)
    }

    /// One texel as an instruction gives it; the border color for none.
    fn raw(&self, level: &Level, at: [Option<u32>; 3], memory: &dyn Memory) -> Answer {
        let [Some(x), Some(y), Some(z)] = at else { return Ok(self.border()) };
        let channels = self.image.texel(level, [x, y, z], memory)?;
        let format = self.image.format;
        let floats = self.gives_floats();
        Ok(std::array::from_fn(|index| {
            let raw = channels[index];
            if index >= format.channels as usize {
                0
            } else if !floats {
                format.channel.integer(raw)
            } else {
                let value = format.channel.float(raw);
                let is_color = self.sampler.srgb && index < 3 && format.channel == Channel::U8;
                if is_color { linear_of_srgb(value) } else { value }.to_bits()
            }
        }))
    }

    /// The border color. Integers get its bits as they are.
    fn border(&self) -> [u32; 4] {
        let format = self.image.format;
        std::array::from_fn(|index| match self.sampler.border[index] {
            _ if index >= format.channels as usize => 0,
            value if self.gives_floats() => format.channel.border(value).to_bits(),
            value => value.to_bits(),
        })
    }
}
