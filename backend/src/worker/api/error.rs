//! CUresult codes that the worker itself returns, and how decoding errors become one.

use crate::log::Limit;
use vgpu_spec::wire::args::ArgsError;

/// A CUresult other than CUDA_SUCCESS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaError(pub u32);

pub const INVALID_VALUE: CudaError = CudaError(1);
pub const OUT_OF_MEMORY: CudaError = CudaError(2);
pub const NOT_INITIALIZED: CudaError = CudaError(3);
pub const INVALID_IMAGE: CudaError = CudaError(200);
pub const INVALID_CONTEXT: CudaError = CudaError(201);
pub const MAP_FAILED: CudaError = CudaError(205);
pub const OPERATING_SYSTEM: CudaError = CudaError(304);
pub const INVALID_HANDLE: CudaError = CudaError(400);
pub const NOT_SUPPORTED: CudaError = CudaError(801);
pub const UNKNOWN: CudaError = CudaError(999);

/// What a call gives: results written, or the code.
pub type Outcome = Result<(), CudaError>;

impl From<ArgsError> for CudaError {
    fn from(error: ArgsError) -> Self {
        complain(&error);
        INVALID_VALUE
    }
}

/// Logs what a guest did wrong, within limits: it could go on for ever.
pub fn complain(what: &dyn std::fmt::Display) {
    static LIMIT: std::sync::LazyLock<Limit> = std::sync::LazyLock::new(Limit::new);
    if let Some(left_out) = LIMIT.pass() {
        // Text of the guest's own must not make lines that look like others'.
        tracing::warn!(left_out, "refused: {}", what.to_string().escape_debug());
    }
}

/// A CUresult of the driver as a `Result`.
pub fn check(status: u32) -> Outcome {
    if status == 0 { Ok(()) } else { Err(CudaError(status)) }
}
