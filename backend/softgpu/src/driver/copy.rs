//! Copies without rows.

use crate::model::copy::{Copy, Place, Shape, Side};
use crate::model::special_stream::{self, DefaultStream};
use crate::model::{CudaError, Result, state};

fn check(to: Place, from: Place, bytes: usize) -> Result<Option<Copy>> {
    let bytes = u64::try_from(bytes).map_err(|_| CudaError::InvalidValue)?;
    Copy::check(Side::linear(to), Side::linear(from), Shape::row(bytes))
}

/// Copies before it returns, in the order of the default stream.
fn copy(default: DefaultStream, to: Place, from: Place, bytes: usize) -> Result {
    let (context, stream) = special_stream::find(0, default)?;
    check(to, from, bytes)?.map_or(Ok(()), |copy| copy.perform(&context, &stream))
}

/// Copies in the order of a stream.
fn copy_async(default: DefaultStream, to: Place, from: Place, bytes: usize, stream: u64) -> Result {
    let (context, stream) = special_stream::find(stream, default)?;
    check(to, from, bytes)?.map_or(Ok(()), |copy| copy.submit(&context, &stream))
}

fn check_contexts(to: u64, from: u64) -> Result {
    let contexts = &state()?.contexts;
    for context in [to, from] {
        contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
    }
    Ok(())
}

use Place::{Device, Host, Unified};

stream_api! {
    /// Copies between any two places.
    fn cuMemcpy | cuMemcpy_ptds(default; to: u64, from: u64, bytes: usize) {
        copy(default, Unified(to), Unified(from), bytes)
    }

    /// Copies to the device.
    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(default; to: u64, from: u64, bytes: usize) {
        copy(default, Device(to), Host(from), bytes)
    }

    /// Copies from the device.
    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(default; to: u64, from: u64, bytes: usize) {
        copy(default, Host(to), Device(from), bytes)
    }

    /// Copies within the device.
    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(default; to: u64, from: u64, bytes: usize) {
        copy(default, Device(to), Device(from), bytes)
    }

    /// Copies between contexts.
    fn cuMemcpyPeer | cuMemcpyPeer_ptds(
        default; to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize
    ) {
        check_contexts(to_context, from_context)?;
        copy(default, Device(to), Device(from), bytes)
    }

    /// Copies between any two places, in stream order.
    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(default; to: u64, from: u64, bytes: usize, stream: u64) {
        copy_async(default, Unified(to), Unified(from), bytes, stream)
    }

    /// Copies to the device, in stream order.
    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(default; to: u64, from: u64, bytes: usize, stream: u64) {
        copy_async(default, Device(to), Host(from), bytes, stream)
    }

    /// Copies from the device, in stream order.
    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(default; to: u64, from: u64, bytes: usize, stream: u64) {
        copy_async(default, Host(to), Device(from), bytes, stream)
    }

    /// Copies within the device, in stream order.
    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(default; to: u64, from: u64, bytes: usize, stream: u64) {
        copy_async(default, Device(to), Device(from), bytes, stream)
    }

    /// Copies between contexts, in stream order.
    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(
        default; to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64
    ) {
        check_contexts(to_context, from_context)?;
        copy_async(default, Device(to), Device(from), bytes, stream)
    }
}
