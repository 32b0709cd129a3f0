//! CUDA arrays and mipmapped arrays: memory without an address, which copies, textures and surfaces use.

use std::any::Any;
use std::sync::Arc;

use super::allocation::{Allocation, RangeKind};
use super::context::Context;
use super::copy::{Place, Shape, Side};
use super::handle::{self, Kind};
use super::{CudaError, Result, state};
use crate::exec::texture::{Channel, Format, Image, Layout, Level};

/// `CUDA_ARRAY3D_LAYERED`.
pub const LAYERED: u32 = 0x01;
/// `CUDA_ARRAY3D_SURFACE_LDST`.
pub const SURFACE: u32 = 0x02;
/// `CUDA_ARRAY3D_CUBEMAP`.
pub const CUBEMAP: u32 = 0x04;
/// `CUDA_ARRAY3D_TEXTURE_GATHER`.
pub const GATHER: u32 = 0x08;
/// Sparse arrays and deferred mapping, which softgpu lacks.
const LACKING: u32 = 0x40 | 0x80;

/// Levels begin at multiples of this.
const ALIGNMENT: u64 = 512;

/// `CUDA_ARRAY3D_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Descriptor {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub format: u32,
    pub channels: u32,
    pub flags: u32,
}

/// The format of `CUarray_format` with so many channels: `INVALID_VALUE` for none, `NOT_SUPPORTED` for what is packed or
/// compressed, `INVALID_VALUE` for what is planar, which an H100 lacks too.
pub fn format(format: u32, channels: u32) -> Result<Format> {
    let channel = match format {
        0x01 => Channel::U8,
        0x02 => Channel::U16,
        0x03 => Channel::U32,
        0x08 => Channel::S8,
        0x09 => Channel::S16,
        0x0a => Channel::S32,
        0x10 => Channel::F16,
        0x20 => Channel::F32,
        0x50 | 0x91..=0x9e | 0xc0..=0xcb if is_packed_format(format, channels) => {
            return Err(CudaError::NotSupported);
        }
        _ => return Err(CudaError::InvalidValue),
    };
    if matches!(channels, 1 | 2 | 4) {
        Ok(Format { channel, channels })
    } else {
        Err(CudaError::InvalidValue)
    }
}

/// Whether a packed or compressed format has so many channels.
fn is_packed_format(format: u32, channels: u32) -> bool {
    match format {
        0x97 | 0x98 => channels == 1,
        0x99 | 0x9a => channels == 2,
        0x9b | 0x9c => channels == 3,
        // Normalized integers come with one, two and four channels in turn.
        0xc0..=0xcb => channels == 1 << ((format - 0xc0) % 3),
        _ => channels == 4,
    }
}

impl Descriptor {
    /// What the third dimension is.
    fn layout(&self) -> Layout {
        match self.flags & (LAYERED | CUBEMAP) {
            0 => Layout::Plain,
            LAYERED => Layout::Layered,
            CUBEMAP => Layout::Cube,
            _ => Layout::LayeredCube,
        }
    }

    /// Refuses what an H100 cannot have, with `INVALID_VALUE`.
    fn check(&self) -> Result<Format> {
        let format = format(self.format, self.channels)?;
        // The rest is for graphics and video, which the real driver refuses here too.
        let known = LAYERED | SURFACE | CUBEMAP | GATHER;
        if self.flags & !(known | LACKING) != 0 {
            return Err(CudaError::InvalidValue);
        }
        if self.flags & LACKING != 0 {
            return Err(CudaError::NotSupported);
        }
        let (w, h, d) = (self.width, self.height, self.depth);
        let within = |mw, mh, md| w <= mw && h <= mh && d <= md;
        let is_possible = match (self.layout(), h, d) {
            (Layout::Layered, 0, _) => d > 0 && within(32_768, 0, 2048),
            (Layout::Layered, _, _) => d > 0 && within(32_768, 32_768, 2048),
            (Layout::Cube, _, _) => w == h && d == 6 && within(32_768, 32_768, 6),
            (Layout::LayeredCube, _, _) => w == h && d > 0 && d % 6 == 0 && within(32_768, 32_768, 2046),
            (_, 0, 0) => within(131_072, 0, 0),
            (_, _, 0) => within(131_072, 65_536, 0),
            (_, 0, _) => false,
            _ => within(16_384, 16_384, 16_384),
        };
        let is_gatherable = self.flags & GATHER == 0 || (h > 0 && d == 0 && within(32_768, 32_768, 0));
        if w == 0 || !is_possible || !is_gatherable {
            return Err(CudaError::InvalidValue);
        }
        Ok(format)
    }

    /// The descriptor of a level.
    fn level(&self, number: u32) -> Descriptor {
        let half = |size: usize| if size == 0 { 0 } else { (size >> number).max(1) };
        let depth = if self.layout() == Layout::Plain { half(self.depth) } else { self.depth };
        Descriptor { width: half(self.width), height: half(self.height), depth, ..*self }
    }

    /// The most levels that it can have.
    fn most_levels(&self) -> u32 {
        let depth = if self.layout() == Layout::Plain { self.depth } else { 0 };
        let largest = self.width.max(self.height).max(depth).max(1);
        usize::BITS - largest.leading_zeros()
    }

    /// The level's place at `base`, and its bytes.
    fn place(&self, format: Format, base: u64) -> Result<(Level, u64)> {
        let size = [self.width, self.height.max(1), self.depth.max(1)];
        let narrow = |size: usize| u32::try_from(size).map_err(|_| CudaError::InvalidValue);
        let size = [narrow(size[0])?, narrow(size[1])?, narrow(size[2])?];
        let pitch = u64::from(size[0]) * u64::from(format.bytes());
        // No product overflows: the sizes have been checked.
        let plane = pitch * u64::from(size[1]);
        Ok((Level { base, size, pitch, plane }, plane * u64::from(size[2])))
    }
}

/// A `CUarray`: one of its own, or a level of a mipmapped one.
#[derive(Debug)]
pub struct Array {
    handle: u64,
    context: u64,
    descriptor: Descriptor,
    format: Format,
    level: Level,
    memory: Arc<Allocation>,
    /// The mipmapped array that it is a level of; 0 if none.
    mipmapped: u64,
}

/// A `CUmipmappedArray`.
#[derive(Debug)]
pub struct Mipmapped {
    handle: u64,
    context: u64,
    levels: Vec<Arc<Array>>,
    memory: Arc<Allocation>,
}

fn image_of(arrays: &[Arc<Array>]) -> Option<Image> {
    let first = arrays.first()?;
    let owner: Arc<dyn Any + Send + Sync> = Arc::clone(&first.memory) as _;
    Some(Image {
        format: first.format,
        layout: first.descriptor.layout(),
        levels: arrays.iter().map(|array| array.level).collect(),
        owner: Some(owner),
    })
}

impl Array {
    /// A new array of zeros, which the state knows.
    pub fn create(context: &Context, descriptor: &Descriptor) -> Result<Arc<Array>> {
        let format = descriptor.check()?;
        let bytes = descriptor.place(format, 0)?.1;
        let memory = state()?.array_memory.allocate(context, RangeKind::Device, bytes)?;
        Array::at(context.handle(), descriptor, format, memory.base(), &memory, 0)
    }

    fn at(
        context: u64,
        descriptor: &Descriptor,
        format: Format,
        base: u64,
        memory: &Arc<Allocation>,
        mipmapped: u64,
    ) -> Result<Arc<Array>> {
        let level = descriptor.place(format, base)?.0;
        let (handle, memory) = (handle::new_handle(Kind::Array), Arc::clone(memory));
        let descriptor = *descriptor;
        let array = Arc::new(Array { handle, context, descriptor, format, level, memory, mipmapped });
        state()?.arrays.insert(handle, Arc::clone(&array));
        Ok(array)
    }

    /// The `CUarray`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// What it was made with.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its texels.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is a level of a mipmapped array, and goes with it.
    pub fn is_level(&self) -> bool {
        self.mipmapped != 0
    }

    /// Its texels for textures and surfaces.
    pub fn image(self: &Arc<Array>) -> Result<Image> {
        image_of(std::slice::from_ref(self)).ok_or(CudaError::InvalidValue)
    }

    /// Forgets it. Its memory goes when no texture, surface or copy has it.
    pub fn destroy(&self) -> Result {
        let state = state()?;
        state.arrays.remove(self.handle)?;
        state.array_memory.remove(self.memory.base());
        Ok(())
    }

    /// The side of a copy of `shape` from byte x, row y and plane z: `INVALID_VALUE` beyond the edges. Bytes may be parts of
    /// texels, as in the real driver.
    pub fn side(&self, origin: [usize; 3], shape: [usize; 3]) -> Result<Side> {
        let [width, height, depth] = self.level.size.map(u64::from);
        let limits = [width * u64::from(self.format.bytes()), height, depth];
        let mut start = [0; 3];
        for (axis, start) in start.iter_mut().enumerate() {
            let [from, length] = [origin[axis], shape[axis]].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            let end = from.checked_add(length).ok_or(CudaError::InvalidValue)?;
            if end > limits[axis] {
                return Err(CudaError::InvalidValue);
            }
            *start = from;
        }
        let Level { base, pitch, plane, .. } = self.level;
        let address = base + start[2] * plane + start[1] * pitch + start[0];
        Ok(Side { place: Place::Array(address), pitch, plane })
    }

    /// Byte x, row y and plane z of an address that [`Array::side`] gave; none if it is not this array's.
    pub fn origin(&self, address: u64) -> Option<[usize; 3]> {
        let Level { base, pitch, plane, size: [_, height, depth] } = self.level;
        let offset = address.checked_sub(base)?;
        let (z, rest) = (offset.checked_div(plane).unwrap_or(0), offset.checked_rem(plane).unwrap_or(offset));
        let (y, x) = (rest.checked_div(pitch).unwrap_or(0), rest.checked_rem(pitch).unwrap_or(rest));
        let inside = z < u64::from(depth) && y < u64::from(height);
        let index = |n: u64| usize::try_from(n).ok();
        inside.then_some(())?;
        Some([index(x)?, index(y)?, index(z)?])
    }
}

impl Mipmapped {
    /// A new one of zeros with at most `count` levels, which the state knows.
    pub fn create(context: &Context, descriptor: &Descriptor, count: u32) -> Result<Arc<Mipmapped>> {
        let format = descriptor.check()?;
        let count = count.clamp(1, descriptor.most_levels());
        let mut offsets = Vec::new();
        let mut end = 0u64;
        for number in 0..count {
            offsets.push(end);
            let bytes = descriptor.level(number).place(format, 0)?.1;
            end = (end + bytes).next_multiple_of(ALIGNMENT);
        }
        let memory = state()?.array_memory.allocate(context, RangeKind::Device, end)?;
        let handle = handle::new_handle(Kind::MipmappedArray);
        let levels: Result<Vec<_>> = (0..count)
            .zip(offsets)
            .map(|(number, offset)| {
                let base = memory.base() + offset;
                Array::at(context.handle(), &descriptor.level(number), format, base, &memory, handle)
            })
            .collect();
        let mipmapped = Arc::new(Mipmapped { handle, context: context.handle(), levels: levels?, memory });
        state()?.mipmapped_arrays.insert(handle, Arc::clone(&mipmapped));
        Ok(mipmapped)
    }

    /// The `CUmipmappedArray`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// Its levels, the largest first.
    pub fn levels(&self) -> &[Arc<Array>] {
        &self.levels
    }

    /// Its texels for textures.
    pub fn image(&self) -> Result<Image> {
        image_of(&self.levels).ok_or(CudaError::InvalidValue)
    }

    /// Forgets it and its levels.
    pub fn destroy(&self) -> Result {
        let state = state()?;
        state.mipmapped_arrays.remove(self.handle)?;
        for level in &self.levels {
            let _ = state.arrays.remove(level.handle);
        }
        state.array_memory.remove(self.memory.base());
        Ok(())
    }
}

/// The shape of a copy whose width is in bytes.
pub fn copy_shape(shape: [usize; 3]) -> Result<Shape> {
    let size = |size| u64::try_from(size).map_err(|_| CudaError::InvalidValue);
    Ok(Shape { width: size(shape[0])?, height: size(shape[1])?, depth: size(shape[2])? })
}
