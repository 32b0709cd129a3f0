//! What the driver answers: the one table of results, shared with the shim and the worker.

pub use vgpu_spec::result::{CudaError, Result, describe};
