//! Tensor maps: 128 bytes that the host's driver makes. The device address in them is the program's own, which both sides share.

use crate::{call, call::put, calls, error};
use std::ffi::c_void;
use vgpu_spec::plain::{Blob128, Plain};

/// The most dimensions of a tensor.
const MAX_RANK: u32 = 5;

/// `count` values of the program's at the front of N, zeros behind.
///
/// # Safety
/// `values` is NULL or `count` readable values.
unsafe fn padded<T: Plain, const N: usize>(values: *const T, count: usize) -> error::Result<[T; N]> {
    let mut all = [T::default(); N];
    let place = all.get_mut(..count).ok_or(error::INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    place.copy_from_slice(unsafe { call::slice(values, count) }.ok_or(error::INVALID_VALUE)?);
    Ok(all)
}

/// The lengths that a rank gives to the arrays: dimensions, strides, and pixel boxes of the im2col mode.
fn lengths(rank: u32) -> error::Result<(usize, usize, usize)> {
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(error::INVALID_VALUE);
    }
    let rank = rank as usize;
    Ok((rank, rank - 1, rank.saturating_sub(2)))
}

fn address(pointer: *mut c_void) -> u64 {
    pointer.expose_provenance() as u64
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuTensorMapEncodeTiled(
    tensorMap: *mut Blob128<128>,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    boxDim: *const u32,
    elementStrides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> error::Result {
    let (rank, strides, _) = lengths(tensorRank)?;
    let mut map = Blob128::default();
    // SAFETY: the program's arrays, of the lengths that the rank gives.
    let (dim, stride, boxes, steps) = unsafe {
        (
            padded::<_, 5>(globalDim, rank)?,
            strides_of(globalStrides, strides)?,
            padded::<_, 5>(boxDim, rank)?,
            padded::<_, 5>(elementStrides, rank)?,
        )
    };
    calls::vgpuTensorMapTiled(
        &mut map,
        tensorDataType,
        tensorRank,
        address(globalAddress),
        &dim,
        &stride,
        &boxes,
        &steps,
        interleave,
        swizzle,
        l2Promotion,
        oobFill,
    )?;
    // SAFETY: the program's pointer.
    unsafe { put(tensorMap, map) }
}

/// A tensor of one dimension has no strides, and its pointer may be NULL.
///
/// # Safety
/// As [`padded`].
unsafe fn strides_of(values: *const u64, count: usize) -> error::Result<[u64; 4]> {
    // SAFETY: the caller's promise.
    if count == 0 { Ok([0; 4]) } else { unsafe { padded(values, count) } }
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuTensorMapEncodeIm2col(
    tensorMap: *mut Blob128<128>,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    pixelBoxLowerCorner: *const i32,
    pixelBoxUpperCorner: *const i32,
    channelsPerPixel: u32,
    pixelsPerColumn: u32,
    elementStrides: *const u32,
    interleave: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> error::Result {
    let (rank, strides, corners) = lengths(tensorRank)?;
    let mut map = Blob128::default();
    // SAFETY: the program's arrays, of the lengths that the rank gives.
    let (dim, stride, lower, upper, steps) = unsafe {
        (
            padded::<_, 5>(globalDim, rank)?,
            strides_of(globalStrides, strides)?,
            padded::<_, 3>(pixelBoxLowerCorner, corners)?,
            padded::<_, 3>(pixelBoxUpperCorner, corners)?,
            padded::<_, 5>(elementStrides, rank)?,
        )
    };
    calls::vgpuTensorMapIm2col(
        &mut map,
        tensorDataType,
        tensorRank,
        address(globalAddress),
        &dim,
        &stride,
        &lower,
        &upper,
        channelsPerPixel,
        pixelsPerColumn,
        &steps,
        interleave,
        swizzle,
        l2Promotion,
        oobFill,
    )?;
    // SAFETY: the program's pointer.
    unsafe { put(tensorMap, map) }
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuTensorMapEncodeIm2colWide(
    tensorMap: *mut Blob128<128>,
    tensorDataType: u32,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    pixelBoxLowerCornerWidth: i32,
    pixelBoxUpperCornerWidth: i32,
    channelsPerPixel: u32,
    pixelsPerColumn: u32,
    elementStrides: *const u32,
    interleave: u32,
    mode: u32,
    swizzle: u32,
    l2Promotion: u32,
    oobFill: u32,
) -> error::Result {
    let (rank, strides, _) = lengths(tensorRank)?;
    let mut map = Blob128::default();
    // SAFETY: the program's arrays, of the lengths that the rank gives.
    let (dim, stride, steps) = unsafe {
        (
            padded::<_, 5>(globalDim, rank)?,
            strides_of(globalStrides, strides)?,
            padded::<_, 5>(elementStrides, rank)?,
        )
    };
    calls::vgpuTensorMapIm2colWide(
        &mut map,
        tensorDataType,
        tensorRank,
        address(globalAddress),
        &dim,
        &stride,
        pixelBoxLowerCornerWidth,
        pixelBoxUpperCornerWidth,
        channelsPerPixel,
        pixelsPerColumn,
        &steps,
        interleave,
        mode,
        swizzle,
        l2Promotion,
        oobFill,
    )?;
    // SAFETY: the program's pointer.
    unsafe { put(tensorMap, map) }
}

pub unsafe fn cuTensorMapReplaceAddress(
    tensorMap: *mut Blob128<128>,
    globalAddress: *mut c_void,
) -> error::Result {
    // SAFETY: the program's map.
    let place = unsafe { tensorMap.as_mut() }.ok_or(error::INVALID_VALUE)?;
    let old = [*place];
    calls::vgpuTensorMapReplaceAddress(place, &old, address(globalAddress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_as_long_as_the_rank_says_and_padded() {
        assert_eq!(lengths(1), Ok((1, 0, 0)));
        assert_eq!(lengths(5), Ok((5, 4, 3)));
        assert_eq!(lengths(0), Err(error::INVALID_VALUE));
        assert_eq!(lengths(6), Err(error::INVALID_VALUE));
        let values = [1_u64, 2, 3];
        // SAFETY: three values of our own.
        assert_eq!(unsafe { padded::<u64, 5>(values.as_ptr(), 3) }, Ok([1, 2, 3, 0, 0]));
        // SAFETY: nothing is read.
        assert_eq!(unsafe { padded::<u64, 5>(std::ptr::null(), 3) }, Err(error::INVALID_VALUE));
        // SAFETY: nothing is read.
        assert_eq!(unsafe { strides_of(std::ptr::null(), 0) }, Ok([0; 4]));
    }
}
