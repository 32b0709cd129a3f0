//! The broker and its workers, driven over a real vhost-user socket by a guest in this process.
//!
//! Workers load a driver that does nothing, so these tests show the transport, the life of workers and what becomes of bad
//! input. They cannot show anything about CUDA.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod broker;
mod control;
mod guest;
mod lanes;
mod life;
mod operator;
mod sandbox;
mod sharing;
mod start;
mod suspend;
mod windows;
