//! Copies of rows and planes.

use super::array::copied_array;
use crate::model::array::copy_shape;
use crate::model::copy::{Copy, Place, Side};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result};

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Memcpy2D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_type: u32,
    pub src_host: u64,
    pub src_device: u64,
    pub src_array: u64,
    pub src_pitch: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_type: u32,
    pub dst_host: u64,
    pub dst_device: u64,
    pub dst_array: u64,
    pub dst_pitch: usize,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`, which has contexts where the other has reserved words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Memcpy3D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_type: u32,
    pub src_host: u64,
    pub src_device: u64,
    pub src_array: u64,
    pub src_context: u64,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_type: u32,
    pub dst_host: u64,
    pub dst_device: u64,
    pub dst_array: u64,
    pub dst_context: u64,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CU_MEMORYTYPE_ARRAY`.
const ARRAY: u32 = 3;

/// One side as the structures name it.
struct Named {
    kind: u32,
    lod: usize,
    array: u64,
    host: u64,
    device: u64,
    origin: [usize; 3],
    pitch: usize,
    rows: usize,
}

impl Named {
    /// The side of a copy of `width` bytes by `height` rows; a pitch or a height of 0 is a copy's without gaps.
    fn side(&self, [width, height, depth]: [usize; 3]) -> Result<Side> {
        if self.kind == ARRAY {
            if self.lod != 0 {
                return Err(CudaError::InvalidValue);
            }
            return copied_array(self.array)?.side(self.origin, [width, height, depth]);
        }
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.rows == 0 { height } else { self.rows };
        if rows < height {
            return Err(CudaError::InvalidValue);
        }
        let plane = pitch.checked_mul(rows).ok_or(CudaError::InvalidValue)?;
        let [x, y, z] = self.origin;
        let offset = z.checked_mul(plane).zip(y.checked_mul(pitch));
        let offset = offset.and_then(|(z, y)| z.checked_add(y)?.checked_add(x));
        let offset = offset.and_then(|offset| u64::try_from(offset).ok()).ok_or(CudaError::InvalidValue)?;
        let at = |base: u64| base.checked_add(offset).ok_or(CudaError::InvalidValue);
        let place = match self.kind {
            1 => Place::Host(at(self.host)?),
            2 => Place::Device(at(self.device)?),
            4 => Place::Unified(at(self.device)?),
            _ => return Err(CudaError::InvalidValue),
        };
        let bytes = |size| u64::try_from(size).map_err(|_| CudaError::InvalidValue);
        Ok(Side { place, pitch: bytes(pitch)?, plane: bytes(plane)? })
    }
}

fn check_2d(copy: Option<&Memcpy2D>) -> Result<Option<Copy>> {
    let c = copy.ok_or(CudaError::InvalidValue)?;
    let from = Named {
        kind: c.src_type,
        lod: 0,
        array: c.src_array,
        host: c.src_host,
        device: c.src_device,
        origin: [c.src_x, c.src_y, 0],
        pitch: c.src_pitch,
        rows: 0,
    };
    let to = Named {
        kind: c.dst_type,
        lod: 0,
        array: c.dst_array,
        host: c.dst_host,
        device: c.dst_device,
        origin: [c.dst_x, c.dst_y, 0],
        pitch: c.dst_pitch,
        rows: 0,
    };
    let shape = [c.width, c.height, 1];
    if shape.contains(&0) {
        return Ok(None);
    }
    Copy::check(to.side(shape)?, from.side(shape)?, copy_shape(shape)?)
}

/// A checked copy; none if there is nothing to copy.
pub fn check_3d(copy: Option<&Memcpy3D>) -> Result<Option<Copy>> {
    let c = copy.ok_or(CudaError::InvalidValue)?;
    let from = Named {
        kind: c.src_type,
        lod: c.src_lod,
        array: c.src_array,
        host: c.src_host,
        device: c.src_device,
        origin: [c.src_x, c.src_y, c.src_z],
        pitch: c.src_pitch,
        rows: c.src_height,
    };
    let to = Named {
        kind: c.dst_type,
        lod: c.dst_lod,
        array: c.dst_array,
        host: c.dst_host,
        device: c.dst_device,
        origin: [c.dst_x, c.dst_y, c.dst_z],
        pitch: c.dst_pitch,
        rows: c.dst_height,
    };
    let shape = [c.width, c.height, c.depth];
    if shape.contains(&0) {
        return Ok(None);
    }
    Copy::check(to.side(shape)?, from.side(shape)?, copy_shape(shape)?)
}

fn now(default: DefaultStream, check: impl FnOnce() -> Result<Option<Copy>>) -> Result {
    let (context, stream) = special_stream::find(0, default)?;
    check()?.map_or(Ok(()), |copy| copy.perform(&context, &stream))
}

fn later(default: DefaultStream, stream: u64, check: impl FnOnce() -> Result<Option<Copy>>) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    check()?.map_or(Ok(()), |copy| copy.submit(&context, &stream))
}

stream_api! {
    /// Copies rows.
    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds(default; copy: Option<&Memcpy2D>) {
        now(default, || check_2d(copy))
    }

    /// Copies rows, whatever their pitch.
    fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(default; copy: Option<&Memcpy2D>) {
        now(default, || check_2d(copy))
    }

    /// Copies rows, in stream order.
    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(default; copy: Option<&Memcpy2D>, stream: u64) {
        later(default, stream, || check_2d(copy))
    }

    /// Copies planes.
    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(default; copy: Option<&Memcpy3D>) {
        now(default, || check_3d(copy))
    }

    /// Copies planes, in stream order.
    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(default; copy: Option<&Memcpy3D>, stream: u64) {
        later(default, stream, || check_3d(copy))
    }

    /// Copies planes between contexts.
    fn cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(default; copy: Option<&Memcpy3D>) {
        now(default, || check_3d(copy))
    }

    /// Copies planes between contexts, in stream order.
    fn cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(default; copy: Option<&Memcpy3D>, stream: u64) {
        later(default, stream, || check_3d(copy))
    }
}
