//! The harness of the end-to-end tests: the real binaries as `./scripts/build` puts them, started and watched.
//!
//! | module | what |
//! |---|---|
//! | [`artifacts`] | where the built files are |
//! | [`daemon`], [`host`] | broker and agent in a folder of their own |
//! | [`client`] | a program that uses CUDA through the shim: `cuda-client`, in `src/bin` |
//! | [`lane`], [`vm`] | a shim and a front end driven by hand, for bad input |
//! | [`arguments`] | arguments of any function, of its shape more or less |
//! | [`kernels`], [`noise`], [`poll`], [`process`], [`soak`], [`stats`] | small helpers |
//!
//! The tests are in `tests/e2e`. They run on softgpu: they show the transport, the life of processes and error codes, not
//! NVIDIA's driver.
// A failed expectation of the harness is a failed test.
#![allow(clippy::unwrap_used)]

pub mod arguments;
pub mod artifacts;
pub mod client;
pub mod daemon;
pub mod host;
pub mod kernels;
pub mod lane;
pub mod noise;
pub mod operator;
pub mod poll;
pub mod process;
pub mod soak;
pub mod stats;
pub mod vm;
