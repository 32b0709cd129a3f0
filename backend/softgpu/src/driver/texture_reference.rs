//! Texture references.

use std::ffi::c_char;
use std::sync::Arc;

use super::array::{Descriptor2D, array};
use super::{Out, array_at, name_at, put, put_if_wanted};
use crate::model::array::format;
use crate::model::texture::{ARRAY, FLAGS, MIPMAPPED_ARRAY};
use crate::model::texture_reference::TextureReference;
use crate::model::{CudaError, Result, state};

/// `CU_TRSA_OVERRIDE_FORMAT`, as which 0 passes too.
const OVERRIDE_FORMAT: u32 = 1;

fn find(handle: u64) -> Result<Arc<TextureReference>> {
    state()?.texture_references.get(handle)
}

fn axis(dimension: i32) -> Result<usize> {
    usize::try_from(dimension).ok().filter(|axis| *axis < 3).ok_or(CudaError::InvalidValue)
}

fn set_rows(handle: u64, descriptor: Option<&Descriptor2D>, address: u64, pitch: usize) -> Result {
    let reference = find(handle)?;
    let Descriptor2D { width, height, format: number, channels } =
        *descriptor.ok_or(CudaError::InvalidValue)?;
    format(number, channels)?;
    let [width, height, pitch] = [width, height, pitch].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    reference.change(|settings| {
        (settings.format, settings.channels) = (number, channels);
        settings.show_rows(address, width, height, pitch)
    })
}

driver_api! {
    /// A texture reference of a module by its name: `NOT_FOUND` if there is none.
    fn cuModuleGetTexRef(out: Out<'_, u64>, module: u64, name: *const c_char) {
        let module = super::module::find(module)?;
        // SAFETY: the caller answers for the string.
        let name = unsafe { name_at(name) }?;
        put(out, module.texture_reference(name).ok_or(CudaError::NotFound)?.handle())
    }

    /// Makes a reference that no module has.
    fn cuTexRefCreate(out: Out<'_, u64>) {
        crate::model::current::working_context()?;
        let out = out.ok_or(CudaError::InvalidValue)?;
        out.write(TextureReference::create(0)?.handle());
        Ok(())
    }

    /// Ends a reference.
    fn cuTexRefDestroy(handle: u64) {
        find(handle)?.forget()
    }

    /// Shows an array, in its format.
    fn cuTexRefSetArray(handle: u64, shown: u64, flags: u32) {
        let reference = find(handle)?;
        let array = array(shown)?;
        if flags & !OVERRIDE_FORMAT != 0 {
            return Err(CudaError::InvalidValue);
        }
        let descriptor = *array.descriptor();
        reference.change(|settings| {
            settings.show_array(ARRAY, shown, descriptor.format, descriptor.channels);
            Ok(())
        })
    }

    /// Shows an array with levels, in its format.
    fn cuTexRefSetMipmappedArray(handle: u64, shown: u64, flags: u32) {
        let reference = find(handle)?;
        let mipmapped = state()?.mipmapped_arrays.get(shown)?;
        if flags & !OVERRIDE_FORMAT != 0 {
            return Err(CudaError::InvalidValue);
        }
        let descriptor = *mipmapped.levels().first().ok_or(CudaError::InvalidValue)?.descriptor();
        reference.change(|settings| {
            settings.show_array(MIPMAPPED_ARRAY, shown, descriptor.format, descriptor.channels);
            Ok(())
        })
    }

    /// Shows device memory. The offset is what the address has beyond an aligned one; it must be wanted then.
    fn cuTexRefSetAddress_v2(offset: Out<'_, usize>, handle: u64, address: u64, bytes: usize) {
        let reference = find(handle)?;
        reference.change(|settings| {
            let between = settings.show_linear(address, u64::try_from(bytes).unwrap_or(u64::MAX));
            if between != 0 && offset.is_none() {
                return Err(CudaError::InvalidValue);
            }
            put_if_wanted(offset, usize::try_from(between).unwrap_or(0));
            Ok(())
        })
    }

    /// Shows rows of device memory.
    fn cuTexRefSetAddress2D_v2(handle: u64, descriptor: Option<&Descriptor2D>, address: u64, pitch: usize) {
        set_rows(handle, descriptor, address, pitch)
    }

    /// Shows rows of device memory.
    fn cuTexRefSetAddress2D_v3(handle: u64, descriptor: Option<&Descriptor2D>, address: u64, pitch: usize) {
        set_rows(handle, descriptor, address, pitch)
    }

    /// The format of memory that is shown from now on.
    fn cuTexRefSetFormat(handle: u64, number: u32, channels: i32) {
        let reference = find(handle)?;
        let channels = u32::try_from(channels).map_err(|_| CudaError::InvalidValue)?;
        match format(number, channels) {
            // Not read here, but known.
            Ok(_) | Err(CudaError::NotSupported) => {}
            Err(error) => return Err(error),
        }
        reference.change(|settings| {
            (settings.format, settings.channels) = (number, channels);
            Ok(())
        })
    }

    /// What is beyond the edges; an unknown mode is clamping.
    fn cuTexRefSetAddressMode(handle: u64, dimension: i32, mode: u32) {
        let (reference, axis) = (find(handle)?, axis(dimension)?);
        reference.change(|settings| {
            settings.sampling.address[axis] = if mode > 3 { 1 } else { mode };
            Ok(())
        })
    }

    /// Point or linear.
    fn cuTexRefSetFilterMode(handle: u64, mode: u32) {
        find(handle)?.change(|settings| {
            settings.sampling.filter = mode;
            Ok(())
        })
    }

    /// Between levels: point or linear.
    fn cuTexRefSetMipmapFilterMode(handle: u64, mode: u32) {
        find(handle)?.change(|settings| {
            settings.sampling.mipmap_filter = mode;
            Ok(())
        })
    }

    /// What is added to levels.
    fn cuTexRefSetMipmapLevelBias(handle: u64, bias: f32) {
        find(handle)?.change(|settings| {
            settings.sampling.bias = bias;
            Ok(())
        })
    }

    /// The least and the greatest level.
    fn cuTexRefSetMipmapLevelClamp(handle: u64, least: f32, greatest: f32) {
        find(handle)?.change(|settings| {
            settings.sampling.clamp = [least, greatest];
            Ok(())
        })
    }

    /// Kept, and not used.
    fn cuTexRefSetMaxAnisotropy(handle: u64, anisotropy: u32) {
        find(handle)?.change(|settings| {
            settings.sampling.anisotropy = anisotropy;
            Ok(())
        })
    }

    /// The color beyond the edges.
    fn cuTexRefSetBorderColor(handle: u64, color: *const f32) {
        let reference = find(handle)?;
        // SAFETY: the caller answers for four values.
        let color: &[f32; 4] =
            unsafe { array_at(color, 4) }?.try_into().map_err(|_| CudaError::InvalidValue)?;
        reference.change(|settings| {
            settings.sampling.border = *color;
            Ok(())
        })
    }

    /// How it is read.
    fn cuTexRefSetFlags(handle: u64, flags: u32) {
        let reference = find(handle)?;
        if flags & !FLAGS != 0 {
            return Err(CudaError::InvalidValue);
        }
        reference.change(|settings| {
            settings.sampling.flags = flags;
            Ok(())
        })
    }

    /// The memory that is shown: `INVALID_VALUE` if it is not memory.
    fn cuTexRefGetAddress_v2(out: Out<'_, u64>, handle: u64) {
        put(out, find(handle)?.settings().address()?)
    }

    /// The array that is shown.
    fn cuTexRefGetArray(out: Out<'_, u64>, handle: u64) {
        let shown = find(handle)?.settings().array(ARRAY)?;
        state()?.arrays.get(shown).map_err(|_| CudaError::InvalidValue)?;
        put(out, shown)
    }

    /// The array with levels that is shown.
    fn cuTexRefGetMipmappedArray(out: Out<'_, u64>, handle: u64) {
        let shown = find(handle)?.settings().array(MIPMAPPED_ARRAY)?;
        state()?.mipmapped_arrays.get(shown).map_err(|_| CudaError::InvalidValue)?;
        put(out, shown)
    }

    /// What is beyond the edges.
    fn cuTexRefGetAddressMode(out: Out<'_, u32>, handle: u64, dimension: i32) {
        let reference = find(handle)?;
        put(out, reference.settings().sampling.address[axis(dimension)?])
    }

    /// Point or linear.
    fn cuTexRefGetFilterMode(out: Out<'_, u32>, handle: u64) {
        put(out, find(handle)?.settings().sampling.filter)
    }

    /// Between levels: point or linear.
    fn cuTexRefGetMipmapFilterMode(out: Out<'_, u32>, handle: u64) {
        put(out, find(handle)?.settings().sampling.mipmap_filter)
    }

    /// What is added to levels.
    fn cuTexRefGetMipmapLevelBias(out: Out<'_, f32>, handle: u64) {
        put(out, find(handle)?.settings().sampling.bias)
    }

    /// The least and the greatest level.
    fn cuTexRefGetMipmapLevelClamp(least: Out<'_, f32>, greatest: Out<'_, f32>, handle: u64) {
        let [low, high] = find(handle)?.settings().sampling.clamp;
        let (least, greatest) = least.zip(greatest).ok_or(CudaError::InvalidValue)?;
        least.write(low);
        greatest.write(high);
        Ok(())
    }

    /// As it was set.
    fn cuTexRefGetMaxAnisotropy(out: Out<'_, u32>, handle: u64) {
        put(out, find(handle)?.settings().sampling.anisotropy)
    }

    /// The color beyond the edges.
    fn cuTexRefGetBorderColor(out: Out<'_, [f32; 4]>, handle: u64) {
        put(out, find(handle)?.settings().sampling.border)
    }

    /// How it is read.
    fn cuTexRefGetFlags(out: Out<'_, u32>, handle: u64) {
        put(out, find(handle)?.settings().sampling.flags)
    }

    /// The format, and how many channels.
    fn cuTexRefGetFormat(number: Out<'_, u32>, channels: Out<'_, u32>, handle: u64) {
        let settings = find(handle)?.settings();
        put_if_wanted(number, settings.format);
        put_if_wanted(channels, settings.channels);
        Ok(())
    }

    /// Kernels need no parameters for their references any more: always `INVALID_VALUE`, as the real driver answers.
    fn cuParamSetTexRef(_function: u64, _unit: i32, handle: u64) {
        find(handle)?;
        Err(CudaError::InvalidValue)
    }
}
