//! The forms of memset without a stream: the same work in the default stream (or the per-thread one, for `_ptds`).

use crate::{calls, error};

pub unsafe fn cuMemsetD8_v2(dstDevice: u64, uc: u8, N: usize, stream: u64) -> error::Result {
    calls::cuMemsetD8Async(dstDevice, uc, N, stream)
}

pub unsafe fn cuMemsetD16_v2(dstDevice: u64, us: u16, N: usize, stream: u64) -> error::Result {
    calls::cuMemsetD16Async(dstDevice, us, N, stream)
}

pub unsafe fn cuMemsetD32_v2(dstDevice: u64, ui: u32, N: usize, stream: u64) -> error::Result {
    calls::cuMemsetD32Async(dstDevice, ui, N, stream)
}

pub unsafe fn cuMemsetD2D8_v2(dst: u64, pitch: usize, uc: u8, width: usize, height: usize, stream: u64) -> error::Result {
    calls::cuMemsetD2D8Async(dst, pitch, uc, width, height, stream)
}

pub unsafe fn cuMemsetD2D16_v2(dst: u64, pitch: usize, us: u16, width: usize, height: usize, stream: u64) -> error::Result {
    calls::cuMemsetD2D16Async(dst, pitch, us, width, height, stream)
}

pub unsafe fn cuMemsetD2D32_v2(dst: u64, pitch: usize, ui: u32, width: usize, height: usize, stream: u64) -> error::Result {
    calls::cuMemsetD2D32Async(dst, pitch, ui, width, height, stream)
}
