//! Decompression by the device's own engine, which Hopper has not. It is hidden where there is one (the attributes say 0).

use crate::{calls, error, handles};
use vgpu_spec::{plain::Blob8, result::CudaError};

/// The driver of a device without the engine looks at no argument.
pub unsafe fn cuMemBatchDecompressAsync(
    _paramsArray: *mut Blob8<64>,
    _count: usize,
    _flags: u32,
    _errorIndex: *mut usize,
    stream: u64,
) -> error::Result {
    handles::check_stream(stream)?;
    // What is wrong with the stream is said first, and a capture ends.
    match calls::cuStreamQuery(stream) {
        Err(status) if status != CudaError::NotReady as u32 => Err(status),
        _ => Err(error::NOT_SUPPORTED),
    }
}
