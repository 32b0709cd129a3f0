//! Waiting for and writing values of memory in stream order.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    thread::Thread,
};
use vgpu_spec::plain::Blob8;

/// CUstreamBatchMemOpParams.
pub type Operation = Blob8<48>;

/// The operations of a message, as many as it says. The driver writes into them (a member is for its own use).
pub fn operations(list: Option<Vec<Operation>>, count: u32) -> Result<Vec<Operation>, CudaError> {
    let list = list.unwrap_or_default();
    if list.len() == count as usize { Ok(list) } else { Err(INVALID_VALUE) }
}

/// Whatever it is, the driver checks it: an operation names only memory of the device or of windows, by an address that it looks up.
pub fn vgpuStreamBatchMemOp(
    t: &mut Thread,
    stream: u64,
    version: u32,
    list: Option<Vec<Operation>>,
    count: u32,
    flags: u32,
) -> Result<(), CudaError> {
    let batch = match version {
        1 => t.driver.cuStreamBatchMemOp,
        2 => t.driver.cuStreamBatchMemOp_v2,
        _ => None,
    };
    let batch = batch.ok_or(NOT_SUPPORTED)?;
    let mut list = operations(list, count)?;
    // SAFETY: a live stream of this client; a private array of `count` operations that outlives the call.
    check(unsafe { batch(stream, count, list.as_mut_ptr(), flags) })
}
