//! Texture objects: a resource, how it is read, and perhaps another view of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::Context;
use super::{CudaError, Result, array, state};
use crate::exec::texture::{AddressMode, Channel, Format, Image, Layout, Level, Sampler, Texture};

/// `CU_RESOURCE_TYPE_ARRAY`.
pub const ARRAY: u32 = 0;
/// `CU_RESOURCE_TYPE_MIPMAPPED_ARRAY`.
pub const MIPMAPPED_ARRAY: u32 = 1;
/// `CU_RESOURCE_TYPE_LINEAR`.
pub const LINEAR: u32 = 2;
/// `CU_RESOURCE_TYPE_PITCH2D`.
pub const PITCH2D: u32 = 3;

/// `CU_TRSF_READ_AS_INTEGER`.
const AS_INTEGER: u32 = 0x01;
/// `CU_TRSF_NORMALIZED_COORDINATES`.
const NORMALIZED: u32 = 0x02;
/// `CU_TRSF_SRGB`.
const SRGB: u32 = 0x10;
/// `CU_TRSF_DISABLE_TRILINEAR_OPTIMIZATION`, of which there is none.
const NO_OPTIMIZATION: u32 = 0x20;
/// `CU_TRSF_SEAMLESS_CUBEMAP`.
const SEAMLESS: u32 = 0x40;
/// All flags.
pub const FLAGS: u32 = AS_INTEGER | NORMALIZED | SRGB | NO_OPTIMIZATION | SEAMLESS;

/// What textures in device memory begin at a multiple of (`CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT`).
pub const ALIGNMENT: u64 = 512;
/// What their pitch is a multiple of (`CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT`).
pub const PITCH_ALIGNMENT: u64 = 32;

/// `CUDA_RESOURCE_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// `CUresourcetype`.
    pub kind: u32,
    /// The union: a handle; or an address, format and channels, and bytes; or those and width, height and pitch.
    pub words: [u64; 16],
    /// Must be 0.
    pub flags: u32,
}

/// `CUDA_TEXTURE_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Sampling {
    pub address: [u32; 3],
    pub filter: u32,
    pub flags: u32,
    pub anisotropy: u32,
    pub mipmap_filter: u32,
    pub bias: f32,
    pub clamp: [f32; 2],
    pub border: [f32; 4],
    pub reserved: [u32; 12],
}

/// `CUDA_RESOURCE_VIEW_DESC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct View {
    pub format: u32,
    pub size: [usize; 3],
    pub levels: [u32; 2],
    pub layers: [u32; 2],
    pub reserved: [u32; 16],
}

const _: () = assert!(size_of::<Resource>() == 144 && size_of::<Sampling>() == 104);
const _: () = assert!(size_of::<View>() == 112);

impl Resource {
    /// Words of the union that its kind has.
    pub fn used_words(&self) -> usize {
        match self.kind {
            LINEAR => 3,
            PITCH2D => 5,
            _ => 1,
        }
    }

    /// The size that an array was made with; none for memory.
    fn array_size(&self) -> Result<Option<[usize; 3]>> {
        let (state, handle) = (state()?, self.words[0]);
        let array = match self.kind {
            ARRAY => state.arrays.get(handle).map_err(|_| CudaError::InvalidValue)?,
            MIPMAPPED_ARRAY => {
                let array = state.mipmapped_arrays.get(handle).map_err(|_| CudaError::InvalidValue)?;
                array.levels().first().cloned().ok_or(CudaError::InvalidValue)?
            }
            _ => return Ok(None),
        };
        let array::Descriptor { width, height, depth, .. } = *array.descriptor();
        Ok(Some([width, height, depth]))
    }

    /// The texels: `INVALID_VALUE` for what is none.
    pub fn image(&self) -> Result<Image> {
        if self.flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        let state = state()?;
        let [first, format, a, b, pitch, ..] = self.words;
        match self.kind {
            ARRAY => state.arrays.get(first).map_err(|_| CudaError::InvalidValue)?.image(),
            MIPMAPPED_ARRAY => {
                state.mipmapped_arrays.get(first).map_err(|_| CudaError::InvalidValue)?.image()
            }
            LINEAR | PITCH2D => {
                // The format is in the low half of the word, the number of channels in the high one.
                let format = array::format(format as u32, (format >> 32) as u32)?;
                let size = if self.kind == LINEAR { [a / u64::from(format.bytes()), 1] } else { [a, b] };
                let layout = if self.kind == LINEAR { Layout::Linear } else { Layout::Plain };
                memory_image(first, format, layout, size, if self.kind == LINEAR { 0 } else { pitch })
            }
            _ => Err(CudaError::InvalidValue),
        }
    }
}

/// Texels in device memory, which is looked at only when it is read.
pub fn memory_image(
    base: u64,
    format: Format,
    layout: Layout,
    [width, height]: [u64; 2],
    pitch: u64,
) -> Result<Image> {
    if base == 0 || !base.is_multiple_of(ALIGNMENT) || !pitch.is_multiple_of(PITCH_ALIGNMENT) {
        return Err(CudaError::InvalidValue);
    }
    let [width, height] = [width, height].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    let level = Level { base, size: [width, height, 1], pitch, plane: 0 };
    Ok(Image { format, layout, levels: vec![level], owner: None })
}

fn address_mode(mode: u32) -> Result<AddressMode> {
    Ok(match mode {
        0 => AddressMode::Wrap,
        1 => AddressMode::Clamp,
        2 => AddressMode::Mirror,
        3 => AddressMode::Border,
        _ => return Err(CudaError::InvalidValue),
    })
}

impl Sampling {
    /// How it reads `image`: `INVALID_VALUE` for what does not exist.
    pub fn sampler(&self, image: &Image) -> Result<Sampler> {
        let is_cube = matches!(image.layout, Layout::Cube | Layout::LayeredCube);
        let is_wrong = self.filter > 1
            || self.mipmap_filter > 1
            || self.flags & !FLAGS != 0
            || self.flags & SEAMLESS != 0 && !is_cube
            || self.reserved != [0; 12];
        if is_wrong {
            return Err(CudaError::InvalidValue);
        }
        // Modes of coordinates that the image does not have are not looked at.
        let size = image.level(0).size;
        let used = |axis: usize| match (axis, image.layout) {
            (_, Layout::Linear) => false,
            (0, _) => true,
            (1, _) => size[1] > 1,
            (_, layout) => layout == Layout::Plain && size[2] > 1,
        };
        let mut address = [AddressMode::Clamp; 3];
        for (axis, place) in address.iter_mut().enumerate() {
            match address_mode(self.address[axis]) {
                Ok(mode) => *place = mode,
                Err(error) if used(axis) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(Sampler {
            address,
            linear: self.filter == 1,
            linear_levels: self.mipmap_filter == 1,
            bias: self.bias,
            clamp: self.clamp,
            normalized: self.flags & NORMALIZED != 0,
            as_integer: self.flags & AS_INTEGER != 0,
            srgb: self.flags & SRGB != 0,
            seamless: self.flags & SEAMLESS != 0,
            border: self.border,
        })
    }
}

/// The format of `CUresourceViewFormat`.
fn view_format(format: u32) -> Result<Format> {
    use Channel::{F16, F32, S8, S16, S32, U8, U16, U32};
    const CHANNELS: [Channel; 8] = [U8, S8, U16, S16, U32, S32, F16, F32];
    let index = format.checked_sub(1).ok_or(CudaError::InvalidValue)?;
    let channel = CHANNELS.get((index / 3) as usize).copied().ok_or(CudaError::InvalidValue)?;
    Ok(Format { channel, channels: 1 << (index % 3) })
}

impl View {
    /// The part of `image` that it shows, as it shows it: `INVALID_VALUE` if that is not there.
    ///
    /// `size` is the array's as it was made. What begins within it and ends beyond ends with it, as in the real driver.
    fn apply(&self, mut image: Image, size: [usize; 3], is_mipmapped: bool) -> Result<Image> {
        let format = view_format(self.format)?;
        let is_layered = !matches!(image.layout, Layout::Plain | Layout::Linear);
        let ([first, last], [first_layer, last_layer]) = (self.levels, self.layers);
        let is_wrong = self.reserved != [0; 16]
            || self.size != size
            || format.bytes() != image.format.bytes()
            || first > last
            || first_layer > last_layer
            || !is_mipmapped && last > 0
            || !is_layered && last_layer > 0;
        if is_wrong {
            return Err(CudaError::InvalidValue);
        }
        image.format = format;
        let [first, last] = [first, last].map(|level| usize::try_from(level).unwrap_or(usize::MAX));
        let last = last.min(image.levels.len().saturating_sub(1));
        image.levels = image.levels.get(first..=last).ok_or(CudaError::InvalidValue)?.to_vec();
        for level in image.levels.iter_mut().filter(|_| is_layered) {
            let last = last_layer.min(level.size[2].saturating_sub(1));
            let count = last.checked_sub(first_layer).ok_or(CudaError::InvalidValue)?;
            level.base += u64::from(first_layer) * level.plane;
            level.size[2] = count + 1;
        }
        Ok(image)
    }
}

/// What a resource, read so and viewed so, shows. A view of device memory is not looked at.
pub fn texture(resource: &Resource, sampling: &Sampling, view: Option<&View>) -> Result<Texture> {
    let mut image = resource.image()?;
    if let (Some(view), Some(size)) = (view, resource.array_size()?) {
        image = view.apply(image, size, resource.kind == MIPMAPPED_ARRAY)?;
    }
    let sampler = sampling.sampler(&image)?;
    Ok(Texture { image, sampler })
}

/// A `CUtexObject`.
#[derive(Debug)]
pub struct TextureObject {
    context: u64,
    texture: Arc<Texture>,
    /// What it was made of.
    pub resource: Resource,
    /// How it is read.
    pub sampling: Sampling,
    /// Its view, where there is one.
    pub view: Option<View>,
}

impl TextureObject {
    /// Makes one and returns its handle: a small number, as the real driver's.
    pub fn create(
        context: &Context,
        resource: &Resource,
        sampling: &Sampling,
        view: Option<&View>,
    ) -> Result<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let texture = Arc::new(texture(resource, sampling, view)?);
        let (resource, sampling, view) = (*resource, *sampling, view.copied());
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        let object = TextureObject { context: context.handle(), texture, resource, sampling, view };
        state()?.textures.insert(handle, Arc::new(object));
        Ok(handle)
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// What it shows.
    pub fn texture(&self) -> &Arc<Texture> {
        &self.texture
    }
}
