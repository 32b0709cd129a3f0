//! Tensor maps. No kernel here can use one, so a map is only checked and made: the address in front, as in a real one.

use super::{Out, array_at, put};
use crate::model::{CudaError, Result, state};

/// `CUtensorMap`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Map {
    address: u64,
    words: [u64; 15],
}

/// Bytes of an element by `CUtensorMapDataType`; the types below a byte are left out.
const ELEMENT: [u64; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

struct Tensor<'a> {
    kind: u32,
    rank: u32,
    address: u64,
    dimensions: &'a [u64],
    strides: &'a [u64],
    steps: &'a [u32],
}

impl Tensor<'_> {
    /// Checks what both kinds of maps have, and makes one.
    fn map(&self) -> Result<Map> {
        let good = self.address.is_multiple_of(16)
            && self.dimensions.iter().all(|&size| size > 0 && size <= 1 << 32)
            && self.strides.iter().all(|&stride| stride.is_multiple_of(16) && stride < 1 << 40)
            && self.steps.iter().all(|step| (1..=8).contains(step));
        if !good {
            return Err(CudaError::InvalidValue);
        }
        let mut words = [0; 15];
        words[0] = u64::from(self.kind) | u64::from(self.rank) << 32;
        for (place, size) in words.iter_mut().skip(1).zip(self.dimensions) {
            *place = *size;
        }
        Ok(Map { address: self.address, words })
    }

    fn element(&self) -> Result<u64> {
        usize::try_from(self.kind)
            .ok()
            .and_then(|kind| ELEMENT.get(kind))
            .copied()
            .ok_or(CudaError::InvalidValue)
    }
}

/// The rank as a length.
fn length(rank: u32, least: u32) -> Result<usize> {
    if (least..=5).contains(&rank) { Ok(rank as usize) } else { Err(CudaError::InvalidValue) }
}

driver_api! {
    /// A map for boxes of a tensor.
    fn cuTensorMapEncodeTiled(
        map: Out<'_, Map>, kind: u32, rank: u32, address: u64, dimensions: *const u64, strides: *const u64,
        boxes: *const u32, steps: *const u32, interleave: u32, swizzle: u32, promotion: u32, fill: u32
    ) {
        state()?;
        let n = length(rank, 1)?;
        // SAFETY: the caller answers for arrays of the rank's lengths.
        let (dimensions, strides, boxes, steps) = unsafe {
            (array_at(dimensions, n)?, array_at(strides, n - 1)?, array_at(boxes, n)?, array_at(steps, n)?)
        };
        let tensor = Tensor { kind, rank, address, dimensions, strides, steps };
        let row = boxes.first().map_or(0, |&size| u64::from(size)) * tensor.element()?;
        let good = boxes.iter().all(|size| (1..=256).contains(size)) && row.is_multiple_of(16);
        if !good || interleave > 2 || swizzle > 6 || promotion > 3 || fill > 1 {
            return Err(CudaError::InvalidValue);
        }
        put(map, tensor.map()?)
    }

    /// A map for the columns of an image.
    fn cuTensorMapEncodeIm2col(
        map: Out<'_, Map>, kind: u32, rank: u32, address: u64, dimensions: *const u64, strides: *const u64,
        lower: *const i32, upper: *const i32, channels: u32, pixels: u32, steps: *const u32, interleave: u32,
        swizzle: u32, promotion: u32, fill: u32
    ) {
        state()?;
        let n = length(rank, 3)?;
        // SAFETY: the caller answers for arrays of the rank's lengths.
        let (dimensions, strides, steps) =
            unsafe { (array_at(dimensions, n)?, array_at(strides, n - 1)?, array_at(steps, n)?) };
        // SAFETY: as above.
        unsafe { (array_at(lower, n - 2)?, array_at(upper, n - 2)?) };
        let tensor = Tensor { kind, rank, address, dimensions, strides, steps };
        tensor.element()?;
        let good = channels <= 256 && pixels <= 1024;
        if !good || interleave > 2 || swizzle > 6 || promotion > 3 || fill > 1 {
            return Err(CudaError::InvalidValue);
        }
        put(map, tensor.map()?)
    }

    /// A map for the columns of an image, by its width only.
    fn cuTensorMapEncodeIm2colWide(
        map: Out<'_, Map>, kind: u32, rank: u32, address: u64, dimensions: *const u64, strides: *const u64,
        _lower: i32, _upper: i32, channels: u32, pixels: u32, steps: *const u32, interleave: u32, mode: u32,
        swizzle: u32, promotion: u32, fill: u32
    ) {
        state()?;
        let n = length(rank, 3)?;
        // SAFETY: the caller answers for arrays of the rank's lengths.
        let (dimensions, strides, steps) =
            unsafe { (array_at(dimensions, n)?, array_at(strides, n - 1)?, array_at(steps, n)?) };
        let tensor = Tensor { kind, rank, address, dimensions, strides, steps };
        tensor.element()?;
        let good = channels <= 256 && pixels <= 1024 && mode <= 1;
        if !good || interleave > 2 || swizzle > 6 || promotion > 3 || fill > 1 {
            return Err(CudaError::InvalidValue);
        }
        put(map, tensor.map()?)
    }

    /// Puts another address into a map.
    fn cuTensorMapReplaceAddress(map: Option<&mut Map>, address: u64) {
        state()?;
        let map = map.ok_or(CudaError::InvalidValue)?;
        if address == 0 || !address.is_multiple_of(16) {
            return Err(CudaError::InvalidValue);
        }
        map.address = address;
        Ok(())
    }
}
