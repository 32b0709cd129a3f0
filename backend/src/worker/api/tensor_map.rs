//! Tensor maps. The driver only puts the address into the map; a kernel that uses it reaches what this client's memory map has.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use std::ffi::c_void;
use vgpu_spec::plain::Blob128;

/// The most dimensions of a tensor: the driver reads as many array elements as the rank says.
const MAX_RANK: u32 = 5;

fn fixed<T, const N: usize>(values: Option<Vec<T>>) -> Result<[T; N], CudaError> {
    values.and_then(|v| v.try_into().ok()).ok_or(INVALID_VALUE)
}

fn checked(rank: u32) -> Result<u32, CudaError> {
    if rank <= MAX_RANK { Ok(rank) } else { Err(INVALID_VALUE) }
}

fn pointer(address: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(address as usize)
}

/// cuTensorMapEncodeTiled.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuTensorMapTiled(
    t: &mut Thread,
    kind: u32,
    rank: u32,
    address: u64,
    dim: Option<Vec<u64>>,
    strides: Option<Vec<u64>>,
    boxes: Option<Vec<u32>>,
    steps: Option<Vec<u32>>,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<Blob128<128>, CudaError> {
    let encode = t.driver.cuTensorMapEncodeTiled.ok_or(NOT_SUPPORTED)?;
    let (dim, strides) = (fixed::<_, 5>(dim)?, fixed::<_, 4>(strides)?);
    let (boxes, steps) = (fixed::<_, 5>(boxes)?, fixed::<_, 5>(steps)?);
    let mut map = Blob128::default();
    // SAFETY: a place for the map, and arrays for the highest rank; the address is not followed.
    check(unsafe {
        encode(
            &raw mut map,
            kind,
            checked(rank)?,
            pointer(address),
            dim.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            interleave,
            swizzle,
            promotion,
            fill,
        )
    })?;
    Ok(map)
}

/// cuTensorMapEncodeIm2col.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuTensorMapIm2col(
    t: &mut Thread,
    kind: u32,
    rank: u32,
    address: u64,
    dim: Option<Vec<u64>>,
    strides: Option<Vec<u64>>,
    lower: Option<Vec<i32>>,
    upper: Option<Vec<i32>>,
    channels: u32,
    pixels: u32,
    steps: Option<Vec<u32>>,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<Blob128<128>, CudaError> {
    let encode = t.driver.cuTensorMapEncodeIm2col.ok_or(NOT_SUPPORTED)?;
    let (dim, strides) = (fixed::<_, 5>(dim)?, fixed::<_, 4>(strides)?);
    let (lower, upper) = (fixed::<_, 3>(lower)?, fixed::<_, 3>(upper)?);
    let steps = fixed::<_, 5>(steps)?;
    let mut map = Blob128::default();
    // SAFETY: a place for the map, and arrays for the highest rank; the address is not followed.
    check(unsafe {
        encode(
            &raw mut map,
            kind,
            checked(rank)?,
            pointer(address),
            dim.as_ptr(),
            strides.as_ptr(),
            lower.as_ptr(),
            upper.as_ptr(),
            channels,
            pixels,
            steps.as_ptr(),
            interleave,
            swizzle,
            promotion,
            fill,
        )
    })?;
    Ok(map)
}

/// cuTensorMapEncodeIm2colWide.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuTensorMapIm2colWide(
    t: &mut Thread,
    kind: u32,
    rank: u32,
    address: u64,
    dim: Option<Vec<u64>>,
    strides: Option<Vec<u64>>,
    lower: i32,
    upper: i32,
    channels: u32,
    pixels: u32,
    steps: Option<Vec<u32>>,
    interleave: u32,
    mode: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<Blob128<128>, CudaError> {
    let encode = t.driver.cuTensorMapEncodeIm2colWide.ok_or(NOT_SUPPORTED)?;
    let (dim, strides) = (fixed::<_, 5>(dim)?, fixed::<_, 4>(strides)?);
    let steps = fixed::<_, 5>(steps)?;
    let mut map = Blob128::default();
    // SAFETY: a place for the map, and arrays for the highest rank; the address is not followed.
    check(unsafe {
        encode(
            &raw mut map,
            kind,
            checked(rank)?,
            pointer(address),
            dim.as_ptr(),
            strides.as_ptr(),
            lower,
            upper,
            channels,
            pixels,
            steps.as_ptr(),
            interleave,
            mode,
            swizzle,
            promotion,
            fill,
        )
    })?;
    Ok(map)
}

/// A map with another address.
pub fn vgpuTensorMapReplaceAddress(
    t: &mut Thread,
    old: Option<Vec<Blob128<128>>>,
    address: u64,
) -> Result<Blob128<128>, CudaError> {
    let replace = t.driver.cuTensorMapReplaceAddress.ok_or(NOT_SUPPORTED)?;
    let mut map = old.as_deref().and_then(<[_]>::first).copied().ok_or(INVALID_VALUE)?;
    // SAFETY: a private copy of the map; the address is not followed.
    check(unsafe { replace(&raw mut map, pointer(address)) })?;
    Ok(map)
}
