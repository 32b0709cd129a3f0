//! What kernels print, on its way to the guest process.
#![allow(non_snake_case)]

use super::{dispatch::cut, error::CudaError, thread::Thread};
use crate::worker::{executor::ClientState, output};
use std::sync::{Mutex, PoisonError};

/// Text that did not fit in a reply yet.
static LEFT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Whether kernels have printed something that the guest has not fetched.
pub fn pending(_client: &ClientState) -> bool {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.extend(output::drain());
    !left.is_empty()
}

/// Gives at most `room` bytes of what was printed.
pub fn vgpuReadOutput(_: &mut Thread, room: usize) -> Result<(Vec<u8>, u64), CudaError> {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.extend(output::drain());
    let at = room.min(left.len());
    let rest = left.split_off(at);
    let text = cut(std::mem::replace(&mut left, rest), room);
    let len = text.len() as u64;
    Ok((text, len))
}
