//! Copies of bytes of arrays, and batches of copies with arrays.

use super::array::copied_array;
use super::array_at;
use super::pool::Location;
use crate::model::array::copy_shape;
use crate::model::copy::{Copy, Place, Shape, Side};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result};

/// A side of a copy of bytes.
enum Bytes {
    Memory(Place),
    Array(u64, usize),
}

use Bytes::{Array, Memory};

impl Bytes {
    fn side(&self, length: usize) -> Result<Side> {
        match self {
            Memory(place) => Ok(Side::linear(*place)),
            Array(handle, offset) => copied_array(*handle)?.side([*offset, 0, 0], [length, 1, 1]),
        }
    }
}

/// Within the first row of each array; nothing at all is copied from and to anywhere.
fn check(to: &Bytes, from: &Bytes, length: usize) -> Result<Option<Copy>> {
    if length == 0 {
        return Ok(None);
    }
    let bytes = u64::try_from(length).map_err(|_| CudaError::InvalidValue)?;
    Copy::check(to.side(length)?, from.side(length)?, Shape::row(bytes))
}

fn now(default: DefaultStream, to: Bytes, from: Bytes, length: usize) -> Result {
    let (context, stream) = special_stream::find(0, default)?;
    check(&to, &from, length)?.map_or(Ok(()), |copy| copy.perform(&context, &stream))
}

fn later(default: DefaultStream, to: Bytes, from: Bytes, length: usize, stream: u64) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    check(&to, &from, length)?.map_or(Ok(()), |copy| copy.submit(&context, &stream))
}

stream_api! {
    /// Copies from an array to an array.
    fn cuMemcpyAtoA_v2 | cuMemcpyAtoA_v2_ptds(
        default; to: u64, to_offset: usize, from: u64, from_offset: usize, length: usize
    ) {
        now(default, Array(to, to_offset), Array(from, from_offset), length)
    }

    /// Copies from an array to device memory.
    fn cuMemcpyAtoD_v2 | cuMemcpyAtoD_v2_ptds(default; to: u64, from: u64, offset: usize, length: usize) {
        now(default, Memory(Place::Device(to)), Array(from, offset), length)
    }

    /// Copies from an array to the program's memory.
    fn cuMemcpyAtoH_v2 | cuMemcpyAtoH_v2_ptds(default; to: u64, from: u64, offset: usize, length: usize) {
        now(default, Memory(Place::Host(to)), Array(from, offset), length)
    }

    /// Copies from an array to the program's memory, in stream order.
    fn cuMemcpyAtoHAsync_v2 | cuMemcpyAtoHAsync_v2_ptsz(
        default; to: u64, from: u64, offset: usize, length: usize, stream: u64
    ) {
        later(default, Memory(Place::Host(to)), Array(from, offset), length, stream)
    }

    /// Copies from device memory to an array.
    fn cuMemcpyDtoA_v2 | cuMemcpyDtoA_v2_ptds(default; to: u64, offset: usize, from: u64, length: usize) {
        now(default, Array(to, offset), Memory(Place::Device(from)), length)
    }

    /// Copies from the program's memory to an array.
    fn cuMemcpyHtoA_v2 | cuMemcpyHtoA_v2_ptds(default; to: u64, offset: usize, from: u64, length: usize) {
        now(default, Array(to, offset), Memory(Place::Host(from)), length)
    }

    /// Copies from the program's memory to an array, in stream order.
    fn cuMemcpyHtoAAsync_v2 | cuMemcpyHtoAAsync_v2_ptsz(
        default; to: u64, offset: usize, from: u64, length: usize, stream: u64
    ) {
        later(default, Array(to, offset), Memory(Place::Host(from)), length, stream)
    }
}

/// `CUmemcpy3DOperand`: a pointer's address, row length, rows of a layer and location; or an array and an offset.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Operand {
    /// `CUmemcpy3DOperandType`.
    pub kind: u32,
    /// The union.
    pub words: [u64; 4],
}

/// `CUDA_MEMCPY3D_BATCH_OP`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct BatchCopy {
    pub from: Operand,
    pub to: Operand,
    /// In elements: of the array, or bytes where there is none.
    pub extent: [usize; 3],
    pub access_order: u32,
    pub flags: u32,
}

const POINTER: u32 = 1;
const ARRAY: u32 = 2;

impl Operand {
    /// Bytes of an element; none for a pointer.
    fn element(&self) -> Result<Option<usize>> {
        match self.kind {
            POINTER => Ok(None),
            ARRAY => {
                let bytes = copied_array(self.words[0])?.format().bytes();
                Ok(Some(usize::try_from(bytes).map_err(|_| CudaError::InvalidValue)?))
            }
            _ => Err(CudaError::InvalidValue),
        }
    }

    /// The side of a copy of `extent` elements of `element` bytes.
    fn side(&self, extent: [usize; 3], element: usize) -> Result<Side> {
        let [first, a, b, c] = self.words.map(|word| usize::try_from(word).unwrap_or(usize::MAX));
        let bytes = |count: usize| count.checked_mul(element).ok_or(CudaError::InvalidValue);
        let shape = [bytes(extent[0])?, extent[1], extent[2]];
        if self.kind == ARRAY {
            return copied_array(self.words[0])?.side([bytes(a)?, b, c], shape);
        }
        let (row, rows) = (if a == 0 { extent[0] } else { a }, if b == 0 { extent[1] } else { b });
        if row < extent[0] || rows < extent[1] || first == 0 {
            return Err(CudaError::InvalidValue);
        }
        let pitch = bytes(row)?;
        let plane = pitch.checked_mul(rows).ok_or(CudaError::InvalidValue)?;
        let [_, pitch, plane] = [0, pitch, plane].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
        Ok(Side { place: Place::Unified(self.words[0]), pitch, plane })
    }
}

/// `CU_STREAM_LEGACY`, which a batch refuses as it does a NULL stream.
const LEGACY: u64 = 1;

/// `CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE`, a hint.
const OVERLAP: u32 = 1;

impl BatchCopy {
    fn check(&self) -> Result<Option<Copy>> {
        if !(1..=3).contains(&self.access_order) || self.flags & !OVERLAP != 0 || self.extent.contains(&0) {
            return Err(CudaError::InvalidValue);
        }
        let (from, to) = (self.from.element()?, self.to.element()?);
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            return Err(CudaError::InvalidValue);
        }
        let element = from.or(to).unwrap_or(1);
        let [width, height, depth] = self.extent;
        let width = width.checked_mul(element).ok_or(CudaError::InvalidValue)?;
        let (to, from) = (self.to.side(self.extent, element)?, self.from.side(self.extent, element)?);
        Copy::check(to, from, copy_shape([width, height, depth])?)
    }
}

const _: () = assert!(size_of::<BatchCopy>() == 112 && size_of::<Location>() == 8);

stream_api! {
    /// Copies boxes of arrays and of memory, in stream order. The stream must be named.
    fn cuMemcpy3DBatchAsync_v2 | cuMemcpy3DBatchAsync_v2_ptsz(
        default; count: usize, copies: *const BatchCopy, flags: u64, stream: u64
    ) {
        if flags != 0 || count == 0 || stream <= LEGACY {
            return Err(CudaError::InvalidValue);
        }
        let (context, stream) = special_stream::find(stream, default)?;
        // SAFETY: the caller answers for the array.
        let copies = unsafe { array_at(copies, count) }?;
        let checked: Result<Vec<_>> = copies.iter().map(BatchCopy::check).collect();
        for copy in checked?.into_iter().flatten() {
            copy.submit(&context, &stream)?;
        }
        Ok(())
    }
}
