//! Decompression by the device's own engine, which Hopper has not. It is hidden where there is one (the attributes say 0).

use crate::{error, handles};
use vgpu_spec::plain::Blob8;

/// The driver of a device without the engine looks at no argument.
pub unsafe fn cuMemBatchDecompressAsync(
    _paramsArray: *mut Blob8<64>,
    _count: usize,
    _flags: u32,
    _errorIndex: *mut usize,
    stream: u64,
) -> error::Result {
    handles::check_stream(stream)?;
    Err(error::NOT_SUPPORTED)
}
