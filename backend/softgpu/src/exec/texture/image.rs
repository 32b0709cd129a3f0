//! Texels in memory: rows without gaps, planes or layers one after another, levels each with a place of its own.

use std::any::Any;
use std::sync::Arc;

use super::Format;
use super::sample::BadTexel;
use crate::exec::Memory;
use crate::exec::memory::{read_global, write_global};

/// What the third dimension of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Depth, or nothing.
    Plain,
    /// Layers.
    Layered,
    /// Faces of a cube.
    Cube,
    /// Faces of one cube after another.
    LayeredCube,
    /// Device memory without rows: beyond its end all is 0.
    Linear,
}

/// One level of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The address of the first texel.
    pub base: u64,
    /// Texels in x and y, and planes or layers: at least 1 each.
    pub size: [u32; 3],
    /// Bytes from a row to the next.
    pub pitch: u64,
    /// Bytes from a plane to the next.
    pub plane: u64,
}

/// Texels.
#[derive(Clone, Debug)]
pub struct Image {
    /// Each texel.
    pub format: Format,
    /// What the third dimension is.
    pub layout: Layout,
    /// At least one, the largest first.
    pub levels: Vec<Level>,
    /// What keeps the memory; none for device memory, which may be gone and is checked at each access.
    pub owner: Option<Arc<dyn Any + Send + Sync>>,
}

/// Values beyond the edges of a surface (PTX `.trap`, `.clamp`, `.zero`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// A fault.
    Trap,
    /// The nearest place within.
    Clamp,
    /// Reads give 0, writes do nothing.
    Zero,
}

/// An access beyond an edge that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

impl Image {
    /// The level with this number, the last if there are fewer.
    pub fn level(&self, number: usize) -> &Level {
        const EMPTY: &Level = &Level { base: 0, size: [0; 3], pitch: 0, plane: 0 };
        self.levels.get(number).or(self.levels.last()).unwrap_or(EMPTY)
    }

    /// The raw channels of a texel that exists.
    pub(super) fn texel(
        &self,
        level: &Level,
        [x, y, z]: [u32; 3],
        memory: &dyn Memory,
    ) -> Result<[u32; 4], BadTexel> {
        let bytes = u64::from(self.format.bytes());
        let address =
            level.base + u64::from(z) * level.plane + u64::from(y) * level.pitch + u64::from(x) * bytes;
        if level.size.contains(&0) || self.owner.is_none() && !memory.accessible(address, bytes) {
            return Err(BadTexel { address, length: bytes });
        }
        let size = self.format.channel.size();
        let mut channels = [0; 4];
        for (channel, place) in channels.iter_mut().take(self.format.channels as usize).zip(0u64..) {
            // SAFETY: the texel is in the owner's memory or in memory of the device; images begin at, and have pitches
            // of, multiples of their channels' size.
            *channel = unsafe { read_global(address + place * u64::from(size), size) } as u32;
        }
        Ok(channels)
    }

    /// Where `length` bytes at byte `x` of row `y` of plane `z` are; none where nothing is to be done.
    pub fn place(
        &self,
        [x, y, z]: [i32; 3],
        length: u32,
        boundary: Boundary,
    ) -> Result<Option<u64>, OutOfBounds> {
        let level = self.level(0);
        let [width, height, depth] = level.size.map(i64::from);
        let row = width * i64::from(self.format.bytes());
        let (x, y, z) = (i64::from(x), i64::from(y), i64::from(z));
        let last = row - i64::from(length);
        let is_inside =
            (0..=last).contains(&x) && (0..height).contains(&y) && (0..depth).contains(&z) && last >= 0;
        let (x, y, z) = match boundary {
            _ if is_inside => (x, y, z),
            Boundary::Trap => return Err(OutOfBounds),
            Boundary::Clamp if last >= 0 && height > 0 && depth > 0 => {
                // The number of a layer has no sign: a negative one is the last.
                let is_layered = self.layout != Layout::Plain;
                let z = if is_layered && z < 0 { depth - 1 } else { z.clamp(0, depth - 1) };
                (x.clamp(0, last), y.clamp(0, height - 1), z)
            }
            Boundary::Zero | Boundary::Clamp => return Ok(None),
        };
        let [x, y, z] = [x, y, z].map(|n| u64::try_from(n).unwrap_or(0));
        Ok(Some(level.base + z * level.plane + y * level.pitch + x))
    }
}

/// Reads `size` bytes of an array, in pieces that its alignment allows.
///
/// # Safety
/// The bytes must be mapped.
pub(in crate::exec) unsafe fn read_array(address: u64, size: u32) -> u64 {
    let piece = size.min(1 << address.trailing_zeros().min(3));
    let mut value = 0;
    for at in (0..size).step_by(piece as usize) {
        // SAFETY: the caller answers for the bytes; a piece is no larger than the address's alignment.
        value |= unsafe { read_global(address + u64::from(at), piece) } << (8 * at);
    }
    value
}

/// Writes `size` bytes of an array, in pieces that its alignment allows.
///
/// # Safety
/// The bytes must be mapped writable.
pub(in crate::exec) unsafe fn write_array(address: u64, size: u32, value: u64) {
    let piece = size.min(1 << address.trailing_zeros().min(3));
    for at in (0..size).step_by(piece as usize) {
        // SAFETY: the caller answers for the bytes; a piece is no larger than the address's alignment.
        unsafe { write_global(address + u64::from(at), piece, value >> (8 * at)) };
    }
}
