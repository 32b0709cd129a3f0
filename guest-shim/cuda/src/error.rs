//! CUresult codes as the shim's functions give them.

use std::borrow::Cow;
use vgpu_client::{ConnectionError, HeapError, LaneError, WindowError};
use vgpu_spec::{result::CudaError, wire::control::status};

/// CUDA_SUCCESS, or the CUresult.
pub type Result<T = ()> = std::result::Result<T, u32>;

pub const INVALID_VALUE: u32 = CudaError::InvalidValue as u32;
pub const OUT_OF_MEMORY: u32 = CudaError::OutOfMemory as u32;
pub const NOT_INITIALIZED: u32 = CudaError::NotInitialized as u32;
pub const DEVICE_UNAVAILABLE: u32 = CudaError::DeviceUnavailable as u32;
pub const NO_DEVICE: u32 = CudaError::NoDevice as u32;
pub const INVALID_DEVICE: u32 = CudaError::InvalidDevice as u32;
pub const INVALID_IMAGE: u32 = CudaError::InvalidImage as u32;
pub const INVALID_CONTEXT: u32 = CudaError::InvalidContext as u32;
pub const CONTEXT_IS_DESTROYED: u32 = CudaError::ContextIsDestroyed as u32;
pub const FILE_NOT_FOUND: u32 = CudaError::FileNotFound as u32;
pub const INVALID_HANDLE: u32 = CudaError::InvalidHandle as u32;
pub const MAP_FAILED: u32 = CudaError::MapFailed as u32;
pub const OPERATING_SYSTEM: u32 = CudaError::OperatingSystem as u32;
pub const LOSSY_QUERY: u32 = CudaError::LossyQuery as u32;
pub const NOT_SUPPORTED: u32 = CudaError::NotSupported as u32;
pub const UNKNOWN: u32 = CudaError::Unknown as u32;

/// A code's name, for people.
pub fn name(code: u32) -> Cow<'static, str> {
    match vgpu_spec::result::describe(code) {
        Some((name, _)) => name.to_string_lossy(),
        None => format!("error {code}").into(),
    }
}

/// The CUresult for a lane that failed. The reason is logged once: later calls fail the same way.
pub fn lane(error: &LaneError) -> u32 {
    static LOGGED: std::sync::Once = std::sync::Once::new();
    LOGGED.call_once(|| vgpu_client::error!("{error}{}", sources(error)));
    match error {
        LaneError::Lost => DEVICE_UNAVAILABLE,
        LaneError::Forked => NOT_INITIALIZED,
        LaneError::TooLarge { .. } | LaneError::Encoding(_) | LaneError::TooManyDependencies { .. } => {
            INVALID_VALUE
        }
        LaneError::Agent(source) => connection(source),
        _ => UNKNOWN,
    }
}

/// The CUresult for an agent that did not do what was asked.
fn connection(error: &ConnectionError) -> u32 {
    match error {
        ConnectionError::Refused { status: status::LIMIT, .. } => OUT_OF_MEMORY,
        ConnectionError::Refused { status: status::NO_CLIENT, .. } => DEVICE_UNAVAILABLE,
        ConnectionError::Closed { .. } | ConnectionError::NoAgent { .. } => DEVICE_UNAVAILABLE,
        ConnectionError::Forked { .. } => NOT_INITIALIZED,
        _ => UNKNOWN,
    }
}

/// The CUresult for shared memory that could not be had.
pub fn heap(error: &HeapError) -> u32 {
    vgpu_client::warn!("{error}{}", sources(error));
    match error {
        HeapError::Request { .. } => INVALID_VALUE,
        HeapError::Forked => NOT_INITIALIZED,
        HeapError::Window { source: WindowError::Agent { source, .. }, .. }
            if connection(source) != UNKNOWN =>
        {
            connection(source)
        }
        _ => OUT_OF_MEMORY,
    }
}

/// ": " and the message of each source.
pub fn sources(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
