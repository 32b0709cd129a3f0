//! Rust code derived from the description, for the build scripts of the shim and of the worker.

mod first;
pub mod shim;
mod text;
mod trace;
pub mod worker;

/// Why code could not be derived.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    #[error(transparent)]
    Parse(#[from] crate::api::ParseError),
    #[error("deriving {function}: {reason}")]
    Unsupported { function: String, reason: String },
}
