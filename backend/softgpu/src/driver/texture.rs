//! Texture objects.

use std::sync::Arc;

use super::Out;
use crate::model::graph::forbid_unsafe;
use crate::model::texture::{Resource, Sampling, TextureObject, View};
use crate::model::{CudaError, Result, array, current, state};

/// Writes the parts of a resource that its kind has, as the real driver does.
pub(super) fn put_resource(out: Out<'_, Resource>, resource: &Resource) -> Result {
    let out = out.ok_or(CudaError::InvalidValue)?.as_mut_ptr();
    let count = resource.used_words();
    // SAFETY: the caller of the exported function answers for room for a resource, within which all fields lie; no
    // reference to what may not be written yet is made.
    unsafe {
        (&raw mut (*out).kind).write(resource.kind);
        std::ptr::copy_nonoverlapping(resource.words.as_ptr(), (&raw mut (*out).words).cast(), count);
        (&raw mut (*out).flags).write(resource.flags);
    }
    Ok(())
}

fn object(handle: u64) -> Result<Arc<TextureObject>> {
    state()?.textures.get(handle).map_err(|_| CudaError::InvalidValue)
}

/// Most texels of a texture in linear memory, and most bytes.
const MOST_TEXELS: usize = 1 << 30;
const MOST_BYTES: usize = 1 << 32;

driver_api! {
    /// How many texels a texture in linear memory may have.
    fn cuDeviceGetTexture1DLinearMaxWidth(out: Out<'_, usize>, format: u32, channels: u32, device: i32) {
        let out = out.ok_or(CudaError::InvalidValue)?;
        state()?.device(device)?;
        let bytes = usize::try_from(array::format(format, channels)?.bytes());
        let bytes = bytes.map_err(|_| CudaError::InvalidValue)?;
        out.write(MOST_TEXELS.min(MOST_BYTES / bytes.max(1)));
        Ok(())
    }

    /// Makes a texture object of an array or of device memory.
    fn cuTexObjectCreate(
        out: Out<'_, u64>, resource: Option<&Resource>, sampling: Option<&Sampling>, view: Option<&View>
    ) {
        forbid_unsafe()?;
        let context = current::working_context()?;
        let out = out.ok_or(CudaError::InvalidValue)?;
        let (resource, sampling) = resource.zip(sampling).ok_or(CudaError::InvalidValue)?;
        out.write(TextureObject::create(&context, resource, sampling, view)?);
        Ok(())
    }

    /// Ends a texture object. What is none is no error.
    fn cuTexObjectDestroy(handle: u64) {
        forbid_unsafe()?;
        current::working_context()?;
        let _ = state()?.textures.remove(handle);
        Ok(())
    }

    /// What a texture object was made of.
    fn cuTexObjectGetResourceDesc(out: Out<'_, Resource>, handle: u64) {
        put_resource(out, &object(handle)?.resource)
    }

    /// How a texture object is read. The border color is not told.
    fn cuTexObjectGetTextureDesc(out: Out<'_, Sampling>, handle: u64) {
        let out = out.ok_or(CudaError::InvalidValue)?.as_mut_ptr();
        let sampling = object(handle)?.sampling;
        let told = std::mem::offset_of!(Sampling, border);
        // SAFETY: the caller answers for room for the description, of which the first fields are copied.
        unsafe { std::ptr::copy_nonoverlapping((&raw const sampling).cast::<u8>(), out.cast(), told) };
        Ok(())
    }

    /// The view that a texture object was made with; nothing is written if there was none.
    fn cuTexObjectGetResourceViewDesc(out: Out<'_, View>, handle: u64) {
        let (out, object) = (out.ok_or(CudaError::InvalidValue)?, object(handle)?);
        if let Some(view) = object.view {
            out.write(view);
        }
        Ok(())
    }
}
