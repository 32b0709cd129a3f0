//! Memory sets. The forms without a stream do the same work in the default stream (or the per-thread one, for `_ptds`).

use crate::{call, calls, error, handles, host_memory, memory};

/// An address that is not known may be wrong: the program learns it from this call, as natively.
fn sure(dst: u64, len: Option<usize>) -> error::Result {
    let len = len.ok_or(error::INVALID_VALUE)?;
    if len == 0 || memory::known(dst, len as u64) { Ok(()) } else { call::settle() }
}

/// What the driver refuses at once: addresses and pitches that are no multiples of an element's size, rows that overlap. Bytes are counted
/// modulo 2⁶⁴, as the driver does.
fn check(dst: u64, pitch: usize, size: usize, width: usize, height: usize) -> error::Result {
    let row = width.wrapping_mul(size);
    if row == 0 || height == 0 {
        return Ok(());
    }
    let good_pitch = height == 1 || (pitch >= row && pitch.is_multiple_of(size));
    if dst == 0 || !dst.is_multiple_of(size as u64) || !good_pitch {
        return Err(error::INVALID_VALUE);
    }
    Ok(())
}

/// Bytes that a two-dimensional set spans.
fn span(pitch: usize, row: usize, height: usize) -> Option<usize> {
    match height.checked_sub(1) {
        Some(before) if row > 0 => pitch.checked_mul(before)?.checked_add(row),
        _ => Some(0),
    }
}

/// What the host can see is set when a form without a stream returns: the driver's promise for pinned memory (CUDA driver API, API
/// synchronization behavior, Memset).
fn wait_if_pinned(dst: u64, stream: u64) -> error::Result {
    if host_memory::find(dst).is_some() { calls::cuStreamSynchronize(stream) } else { Ok(()) }
}

macro_rules! sets {
    ($($value:ty: $line:ident, $line_async:ident, $plane:ident, $plane_async:ident;)*) => {$(
        pub unsafe fn $line(dst: u64, value: $value, n: usize, stream: u64) -> error::Result {
            // SAFETY: no pointers.
            unsafe { $line_async(dst, value, n, stream) }?;
            wait_if_pinned(dst, stream)
        }

        pub unsafe fn $line_async(dst: u64, value: $value, n: usize, stream: u64) -> error::Result {
            handles::check_stream(stream)?;
            check(dst, 0, size_of::<$value>(), n, 1)?;
            calls::$line_async(dst, value, n, stream)?;
            sure(dst, Some(n.wrapping_mul(size_of::<$value>())))
        }

        pub unsafe fn $plane(dst: u64, pitch: usize, value: $value, width: usize, height: usize, stream: u64) -> error::Result {
            // SAFETY: no pointers.
            unsafe { $plane_async(dst, pitch, value, width, height, stream) }?;
            wait_if_pinned(dst, stream)
        }

        pub unsafe fn $plane_async(
            dst: u64,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
            stream: u64,
        ) -> error::Result {
            handles::check_stream(stream)?;
            check(dst, pitch, size_of::<$value>(), width, height)?;
            calls::$plane_async(dst, pitch, value, width, height, stream)?;
            sure(dst, span(pitch, width.wrapping_mul(size_of::<$value>()), height))
        }
    )*};
}
sets! {
    u8: cuMemsetD8_v2, cuMemsetD8Async, cuMemsetD2D8_v2, cuMemsetD2D8Async;
    u16: cuMemsetD16_v2, cuMemsetD16Async, cuMemsetD2D16_v2, cuMemsetD2D16Async;
    u32: cuMemsetD32_v2, cuMemsetD32Async, cuMemsetD2D32_v2, cuMemsetD2D32Async;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_as_the_driver_does() {
        assert_eq!(check(0x1000, 0, 4, 1 << 62, 1), Ok(()), "nothing is set: 2⁶⁴ bytes are none");
        assert_eq!(
            check(0x1002, 0, 4, (1 << 62) + 1, 1),
            Err(error::INVALID_VALUE),
            "one element, misaligned"
        );
        assert_eq!(check(0x1000, 8, 4, 3, 2), Err(error::INVALID_VALUE), "rows overlap");
        assert_eq!(span(8, 0, 1 << 62), Some(0));
        assert_eq!(span(256, 16, 3), Some(528));
        assert_eq!(span(1 << 40, 16, 1 << 40), None);
    }
}
