//! `vgpu-agent`: parses the command line and runs the agent.

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use vgpu_agent::config::{Config, ConfigError};

fn start_log(level: &str) -> Result<(), ConfigError> {
    let wrong = || ConfigError::Log(level.into());
    let level: tracing::Level = level.parse().map_err(|_| wrong())?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

fn main() -> ExitCode {
    let config = Config::parse();
    if let Err(error) = start_log(&config.log) {
        eprintln!("vgpu-agent: {error}");
        return ExitCode::from(2);
    }
    match vgpu_agent::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error.line());
            ExitCode::FAILURE
        }
    }
}
