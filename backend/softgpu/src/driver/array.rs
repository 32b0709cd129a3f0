//! CUDA arrays and mipmapped arrays.

use std::sync::Arc;

use super::{Out, put};
use crate::model::array::{Array, Descriptor, Mipmapped};
use crate::model::graph::forbid_unsafe;
use crate::model::{CudaError, Result, current, graph, special_stream, state};

/// `CUDA_ARRAY_DESCRIPTOR`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Descriptor2D {
    pub width: usize,
    pub height: usize,
    pub format: u32,
    pub channels: u32,
}

/// `CUDA_ARRAY_MEMORY_REQUIREMENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    size: usize,
    alignment: usize,
    reserved: [u32; 4],
}

/// `CUDA_ARRAY_SPARSE_PROPERTIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SparseProperties {
    tile: [u32; 3],
    tail_first_level: u32,
    tail_size: u64,
    flags: u32,
    reserved: [u32; 4],
}

/// One side of a copy that is an array: `INVALID_VALUE` for none, as copies answer it.
pub(super) fn copied_array(handle: u64) -> Result<Arc<Array>> {
    array(handle).map_err(|_| CudaError::InvalidValue)
}

/// A live array: `INVALID_HANDLE` for none.
pub(super) fn array(handle: u64) -> Result<Arc<Array>> {
    state()?.arrays.get(handle)
}

fn mipmapped(handle: u64) -> Result<Arc<Mipmapped>> {
    state()?.mipmapped_arrays.get(handle)
}

fn create(out: Out<'_, u64>, descriptor: &Descriptor) -> Result {
    let context = current::working_context()?;
    let out = out.ok_or(CudaError::InvalidValue)?;
    out.write(Array::create(&context, descriptor)?.handle());
    Ok(())
}

driver_api! {
    /// Makes an array of one or two dimensions.
    fn cuArrayCreate_v2(out: Out<'_, u64>, descriptor: Option<&Descriptor2D>) {
        forbid_unsafe()?;
        let two = descriptor.ok_or(CudaError::InvalidValue)?;
        let Descriptor2D { width, height, format, channels } = *two;
        create(out, &Descriptor { width, height, depth: 0, format, channels, flags: 0 })
    }

    /// Makes an array.
    fn cuArray3DCreate_v2(out: Out<'_, u64>, descriptor: Option<&Descriptor>) {
        forbid_unsafe()?;
        create(out, descriptor.ok_or(CudaError::InvalidValue)?)
    }

    /// What an array was made with, as far as it has two dimensions.
    fn cuArrayGetDescriptor_v2(out: Out<'_, Descriptor2D>, handle: u64) {
        let Descriptor { width, height, format, channels, .. } = *array(handle)?.descriptor();
        put(out, Descriptor2D { width, height, format, channels })
    }

    /// What an array was made with.
    fn cuArray3DGetDescriptor_v2(out: Out<'_, Descriptor>, handle: u64) {
        put(out, *array(handle)?.descriptor())
    }

    /// Ends an array. A level goes with its mipmapped array, not before.
    fn cuArrayDestroy(handle: u64) {
        forbid_unsafe()?;
        let array = array(handle)?;
        if array.is_level() { Ok(()) } else { array.destroy() }
    }

    /// A plane of a planar format, which no array here has.
    fn cuArrayGetPlane(_plane: Out<'_, u64>, handle: u64, _index: u32) {
        array(handle)?;
        Err(CudaError::InvalidValue)
    }

    /// What memory an array with deferred mapping needs; no array here has that.
    fn cuArrayGetMemoryRequirements(out: Out<'_, Requirements>, handle: u64, device: i32) {
        let _ = (out, handle, device);
        state()?;
        Err(CudaError::InvalidValue)
    }

    /// How a sparse array is mapped; no array here is sparse.
    fn cuArrayGetSparseProperties(out: Out<'_, SparseProperties>, handle: u64) {
        let _ = (out, handle);
        state()?;
        Err(CudaError::InvalidValue)
    }

    /// Makes an array with levels, each half as large as the one before.
    fn cuMipmappedArrayCreate(out: Out<'_, u64>, descriptor: Option<&Descriptor>, levels: u32) {
        forbid_unsafe()?;
        let context = current::working_context()?;
        let (out, descriptor) = out.zip(descriptor).ok_or(CudaError::InvalidValue)?;
        out.write(Mipmapped::create(&context, descriptor, levels)?.handle());
        Ok(())
    }

    /// A level as an array of its own.
    fn cuMipmappedArrayGetLevel(out: Out<'_, u64>, handle: u64, level: u32) {
        let mipmapped = mipmapped(handle)?;
        let level = usize::try_from(level).ok().and_then(|level| mipmapped.levels().get(level).cloned());
        put(out, level.ok_or(CudaError::InvalidValue)?.handle())
    }

    /// Ends an array with levels, and them.
    fn cuMipmappedArrayDestroy(handle: u64) {
        forbid_unsafe()?;
        mipmapped(handle)?.destroy()
    }

    /// What memory an array with deferred mapping needs; no array here has that.
    fn cuMipmappedArrayGetMemoryRequirements(out: Out<'_, Requirements>, handle: u64, device: i32) {
        let _ = (out, handle, device);
        state()?;
        Err(CudaError::InvalidValue)
    }

    /// How a sparse array is mapped; no array here is sparse.
    fn cuMipmappedArrayGetSparseProperties(out: Out<'_, SparseProperties>, handle: u64) {
        let _ = (out, handle);
        state()?;
        Err(CudaError::InvalidValue)
    }
}

stream_api! {
    /// Maps parts of sparse arrays; no array here is sparse.
    fn cuMemMapArrayAsync | cuMemMapArrayAsync_ptsz(default; list: u64, count: u32, stream: u64) {
        let _ = (list, count);
        let (_, stream) = special_stream::find(stream, default)?;
        graph::forbid(&stream)?;
        Err(CudaError::InvalidValue)
    }
}
