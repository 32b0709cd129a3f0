//! Fills.

use crate::model::copy::{Element, Fill};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result};

/// The elements to fill: rows of `width`, `pitch` bytes apart.
#[derive(Clone, Copy)]
struct Area {
    address: u64,
    pitch: usize,
    width: usize,
    height: usize,
}

impl Area {
    fn row(address: u64, width: usize) -> Area {
        Area { address, pitch: 0, width, height: 1 }
    }

    fn check(self, element: Element) -> Result<Option<Fill>> {
        let number = |number| u64::try_from(number).map_err(|_| CudaError::InvalidValue);
        Fill::check(self.address, number(self.pitch)?, number(self.width)?, number(self.height)?, element)
    }
}

fn now(default: DefaultStream, area: Area, element: Element) -> Result {
    let (context, stream) = special_stream::find(0, default)?;
    area.check(element)?.map_or(Ok(()), |fill| fill.perform(&context, &stream))
}

fn later(default: DefaultStream, area: Area, element: Element, stream: u64) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    area.check(element)?.map_or(Ok(()), |fill| fill.submit(&context, &stream))
}

stream_api! {
    /// Fills with bytes.
    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(default; address: u64, value: u8, count: usize) {
        now(default, Area::row(address, count), Element::Byte(value))
    }

    /// Fills with bytes, in stream order.
    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(default; address: u64, value: u8, count: usize, stream: u64) {
        later(default, Area::row(address, count), Element::Byte(value), stream)
    }

    /// Fills rows with bytes.
    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(
        default; address: u64, pitch: usize, value: u8, width: usize, height: usize
    ) {
        now(default, Area { address, pitch, width, height }, Element::Byte(value))
    }

    /// Fills rows with bytes, in stream order.
    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(
        default; address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: u64
    ) {
        later(default, Area { address, pitch, width, height }, Element::Byte(value), stream)
    }

    /// Fills with 16-bit values.
    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(default; address: u64, value: u16, count: usize) {
        now(default, Area::row(address, count), Element::Half(value))
    }

    /// Fills with 16-bit values, in stream order.
    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(default; address: u64, value: u16, count: usize, stream: u64) {
        later(default, Area::row(address, count), Element::Half(value), stream)
    }

    /// Fills rows with 16-bit values.
    fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(
        default; address: u64, pitch: usize, value: u16, width: usize, height: usize
    ) {
        now(default, Area { address, pitch, width, height }, Element::Half(value))
    }

    /// Fills rows with 16-bit values, in stream order.
    fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(
        default; address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: u64
    ) {
        later(default, Area { address, pitch, width, height }, Element::Half(value), stream)
    }

    /// Fills with 32-bit values.
    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(default; address: u64, value: u32, count: usize) {
        now(default, Area::row(address, count), Element::Word(value))
    }

    /// Fills with 32-bit values, in stream order.
    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(default; address: u64, value: u32, count: usize, stream: u64) {
        later(default, Area::row(address, count), Element::Word(value), stream)
    }

    /// Fills rows with 32-bit values.
    fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(
        default; address: u64, pitch: usize, value: u32, width: usize, height: usize
    ) {
        now(default, Area { address, pitch, width, height }, Element::Word(value))
    }

    /// Fills rows with 32-bit values, in stream order.
    fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(
        default; address: u64, pitch: usize, value: u32, width: usize, height: usize, stream: u64
    ) {
        later(default, Area { address, pitch, width, height }, Element::Word(value), stream)
    }
}
