//! Streams: waits for them, and their attributes.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, Outcome, check},
    thread::Thread,
};
use std::sync::atomic::Ordering;
use vgpu_spec::plain::Blob8;

/// Attributes that are plain numbers: access policy window, synchronization policy, priority, memory synchronization domain map and
/// domain. These are all that a stream has.
const ATTRIBUTES: &[u32] = &[1, 3, 8, 9, 10];

fn known(attribute: u32) -> Result<(), CudaError> {
    if ATTRIBUTES.contains(&attribute) { Ok(()) } else { Err(INVALID_VALUE) }
}

/// Waits for all that was issued in the stream.
pub fn cuStreamSynchronize(t: &mut Thread, stream: u64) -> Outcome {
    t.wait_for(stream)
}

/// Asks for an attribute.
pub fn cuStreamGetAttribute(t: &mut Thread, stream: u64, attribute: u32) -> Result<Blob8<64>, CudaError> {
    known(attribute)?;
    let get = t.driver.cuStreamGetAttribute.ok_or(NOT_SUPPORTED)?;
    let mut value = Blob8::default();
    // SAFETY: a live stream of this client, and a place for any attribute's value.
    check(unsafe { get(stream, attribute, &raw mut value) })?;
    Ok(value)
}

/// Sets an attribute.
pub fn cuStreamSetAttribute(
    t: &mut Thread,
    stream: u64,
    attribute: u32,
    value: Option<Vec<Blob8<64>>>,
) -> Result<(), CudaError> {
    known(attribute)?;
    let set = t.driver.cuStreamSetAttribute.ok_or(NOT_SUPPORTED)?;
    let value = value.as_deref().and_then(<[_]>::first).ok_or(INVALID_VALUE)?;
    t.session.streams_differ.store(true, Ordering::Release);
    // SAFETY: a live stream of this client, and a private copy of a value without pointers that are followed.
    check(unsafe { set(stream, attribute, &raw const *value) })
}
