//! Copies in two and three dimensions, as rows.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use vgpu_spec::structure::{Memcpy3D, Memcpy3DSide, memory_type};

/// `slice` is a whole number of rows.
fn side(address: u64, pitch: usize, slice: usize, on_host: bool) -> Result<Memcpy3DSide, CudaError> {
    if pitch == 0 || !slice.is_multiple_of(pitch) {
        return Err(INVALID_VALUE);
    }
    let (kind, host, device) =
        if on_host { (memory_type::HOST, address, 0) } else { (memory_type::DEVICE, 0, address) };
    Ok(Memcpy3DSide { kind, host, device, pitch, height: slice / pitch, ..Memcpy3DSide::default() })
}

/// Bytes from the first to the last.
pub fn span(pitch: usize, slice: usize, width: usize, height: usize, depth: usize) -> Option<usize> {
    let rows = pitch.checked_mul(height.checked_sub(1)?)?;
    let planes = slice.checked_mul(depth.checked_sub(1)?)?;
    rows.checked_add(planes)?.checked_add(width)
}

/// Copies rows in stream order.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuCopyStrided(
    t: &mut Thread,
    dst: u64,
    dst_pitch: usize,
    dst_slice: usize,
    dst_host: u32,
    src: u64,
    src_pitch: usize,
    src_slice: usize,
    src_host: u32,
    width: usize,
    height: usize,
    depth: usize,
    stream: u64,
) -> Result<(), CudaError> {
    let (dst_host, src_host) = (dst_host != 0, src_host != 0);
    for (on_host, address, pitch, slice) in
        [(dst_host, dst, dst_pitch, dst_slice), (src_host, src, src_pitch, src_slice)]
    {
        let len = span(pitch, slice, width, height, depth).ok_or(INVALID_VALUE)?;
        if on_host && !t.client.windows.contains(address, len as u64) {
            return Err(INVALID_VALUE);
        }
    }
    let description = Memcpy3D {
        src: side(src, src_pitch, src_slice, src_host)?,
        dst: side(dst, dst_pitch, dst_slice, dst_host)?,
        width,
        height,
        depth,
    };
    let copy = t.driver.cuMemcpy3DAsync_v2.ok_or(NOT_SUPPORTED)?;
    // SAFETY: the description outlives the call; host sides lie in windows of this client, the driver checks device sides.
    check(unsafe { copy((&raw const description).cast(), stream) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_rows_is_exact_and_overflow_is_refused() {
        assert_eq!(span(10, 50, 4, 3, 2), Some(20 + 50 + 4));
        assert_eq!(span(10, 50, 4, 1, 1), Some(4));
        assert_eq!(span(usize::MAX, 1, 4, 3, 1), None);
        assert_eq!(span(10, 50, 4, 0, 1), None);
    }
}
