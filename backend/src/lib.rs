//! The host side of vgpu.
//!
//! [`broker`] serves a vhost-user socket per VM and never loads CUDA; [`worker`] is a process per guest process, which
//! does; [`monitor`] is the process that asks the host's NVML, [`checkpoint`] the one that moves workers off the GPU and back. One binary:
//! the broker executes itself with the hidden subcommands `worker`, `monitor` and `checkpointer`.

pub mod broker;
pub mod checkpoint;
pub mod config;
pub mod devices;
pub mod identity;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod log;
pub mod monitor;
pub mod operator;
pub mod sandbox;
pub mod worker;

use std::process::ExitCode;

/// Parses the command line and runs the broker or a worker.
pub fn main() -> ExitCode {
    match config::parse() {
        config::Command::Broker(config) => broker::run(*config),
        config::Command::Operator(order) => operator::commands::run(*order),
        config::Command::Worker(options) => worker::run(options),
        config::Command::Monitor(options) => monitor::run(&options),
        config::Command::Checkpointer(options) => checkpoint::run(&options),
        config::Command::SandboxCheck(options) => sandbox::check::run(&options),
    }
}
