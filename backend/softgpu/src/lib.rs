//! softgpu: vgpu's own CUDA driver library for machines without a GPU.
//!
//! Built as `libcuda.so.1`. It runs PTX on the CPU, and says so: its device is named "vgpu softgpu (CPU)".

pub mod driver;
pub mod exec;
pub mod image;
pub mod model;
pub mod ptx;
