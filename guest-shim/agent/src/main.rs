//! `vgpu-agent`: parses the command line and does what it says.

use clap::Parser;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use vgpu_agent::cli::{Cli, Command};
use vgpu_agent::config::ConfigError;
use vgpu_agent::install::InstallError;
use vgpu_agent::{doctor, error, install};

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

/// Prints a line; a closed pipe does not stop the work.
fn say(line: String) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn installed(result: Result<(), InstallError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-agent: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_log(cli.log_level()) {
        eprintln!("vgpu-agent: {error}");
        return ExitCode::from(2);
    }
    let config = match cli.command {
        None => cli.serve,
        Some(Command::Serve(config)) => config,
        Some(Command::Install(options)) => return installed(install::install(&options, &mut say)),
        Some(Command::Uninstall(options)) => return installed(install::uninstall(&options, &mut say)),
        Some(Command::Cdi) => return installed(install::cdi::own().map(|text| say(text.trim_end().into()))),
        Some(Command::Doctor(options)) => return doctor::main(&options),
        Some(Command::Probe(options)) => return doctor::probe::main(&options),
    };
    match vgpu_agent::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", error.line());
            ExitCode::FAILURE
        }
    }
}
