//! The system that the agent lives in, as files: what install changes and doctor looks at. Below a root, so that an image, or a
//! test's folder, can stand for it.
//!
//! | module | what |
//! |---|---|
//! | [`root`] | paths and links below a root |
//! | [`elf`] | what a library says of itself |
//! | [`library`] | whose a libcuda.so.1 or libnvidia-ml.so.1 is |
//! | [`cache`], [`loader`] | where the loader finds a library |

pub mod cache;
pub mod elf;
pub mod library;
pub mod loader;
pub mod root;

/// The libraries that we stand in for, by the name that programs ask for.
pub const CUDA: &str = "libcuda.so.1";
pub const NVML: &str = "libnvidia-ml.so.1";
