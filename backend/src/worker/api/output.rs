//! What kernels print, on its way to the guest process.
#![allow(non_snake_case)]

use super::{error::CudaError, thread::Thread};
use crate::worker::output;

/// Gives at most `room` bytes of what was printed next, its length and where it belongs; length 0 when there is nothing.
pub fn vgpuReadOutput(_: &mut Thread, room: usize) -> Result<(Vec<u8>, u64, u32), CudaError> {
    let Some((stream, text)) = output::take(room) else { return Ok((Vec::new(), 0, 0)) };
    let len = text.len() as u64;
    Ok((text, len, stream as u32))
}
