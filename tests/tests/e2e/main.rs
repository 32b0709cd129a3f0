//! End to end: broker, agent, shim and softgpu as `./scripts/build` puts them, each test with a host of its own.
//!
//! They show what crosses processes: order, back-pressure, error codes, the life of clients, workers and daemons, and what
//! becomes of bad input. On softgpu; what NVIDIA's driver would do is not shown here.
// A failed expectation is a failed test.
#![allow(clippy::unwrap_used)]

mod broker_socket;
mod command_line;
mod copies;
mod daemons;
mod device_sets;
mod devices;
mod doctor;
mod errors;
mod garbage_lane;
mod garbage_socket;
mod hostile;
mod identity;
mod install;
mod life;
mod no_agent;
mod operator;
mod order;
mod quota;
mod shared_files;
mod turns;
