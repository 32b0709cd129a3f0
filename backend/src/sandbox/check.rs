//! `vgpu-backend sandbox-check`: how workers are confined on this machine, and whether the driver works in there.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use super::{Sandbox, SandboxArgs, State, refusals};
use crate::config::{self, ConfigError};
use crate::log::chain;
use crate::worker::api;

#[derive(Args, Debug, Clone)]
pub struct CheckOptions {
    /// Try the software CUDA driver
    #[arg(long)]
    softgpu: bool,
    /// Load libcuda.so from this folder (overrides --softgpu)
    #[arg(long, value_name = "DIR")]
    cuda_dir: Option<PathBuf>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// This process has been executed with the folder in the path of libraries.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs the command: 0 if all that was tried went as it should.
pub fn run(options: &CheckOptions) -> ExitCode {
    // At debug, so that refused calls have names.
    crate::log::start("warn,vgpu_backend::sandbox=debug");
    match attempt(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vgpu-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(options: &CheckOptions) -> Result<bool, String> {
    let folder = config::driver_dir(options.softgpu, options.cuda_dir.as_deref())
        .map_err(|error: ConfigError| chain(&error))?;
    if let (Some(folder), false) = (&folder, options.inside) {
        let mut command = Command::new("/proc/self/exe");
        command.args(std::env::args_os().skip(1)).arg("--inside").env("LD_LIBRARY_PATH", folder);
        return Err(format!("executing itself: {}", command.exec()));
    }
    super::prepare_devices();
    let folders = super::library_folders(folder.as_deref());
    let mut sandbox = Sandbox::enter(&options.sandbox, &folders).map_err(|e| chain(&e))?;
    let warm = api::warm_up().inspect_err(|_| show(&sandbox))?;
    let begun = refusals::so_far().len();
    sandbox.close().map_err(|e| chain(&e))?;
    show(&sandbox);
    let name = warm.snapshot.devices.first().map_or_else(String::new, |d| d.name().to_owned());
    println!("\nDriver in the sandbox: {name}");
    let mut good = true;
    for (what, result) in api::trial() {
        let text = result.as_ref().map_or_else(|error| format!("FAILED: {error}"), |()| "ok".into());
        println!("  {what:<34} {text}");
        good &= result.is_ok();
    }
    println!("\nWhat a worker must not do:");
    for (what, refused) in forbidden() {
        println!("  {what:<34} {}", if refused { "refused" } else { "POSSIBLE" });
        good &= refused || options.sandbox.layers != super::Layers::ALL;
    }
    let refused = refusals::so_far();
    println!("\nSystem calls refused: {}", if refused.is_empty() { "none".into() } else { refused[begun..].join(", ") });
    Ok(good)
}

fn show(sandbox: &Sandbox) {
    println!("Layers:");
    for (layer, state) in sandbox.states() {
        let (word, detail) = match state {
            State::Active(how) => ("active", how.as_str()),
            State::Off => ("off", ""),
            State::Missing(why) => ("missing", why.as_str()),
        };
        println!("  {:<12} {word:<8} {detail}", layer.name());
    }
}

/// Attempts, and whether each was refused.
fn forbidden() -> [(&'static str, bool); 5] {
    let denied = |kind: ErrorKind| kind == ErrorKind::PermissionDenied;
    let file = std::env::temp_dir().join(format!("vgpu-sandbox-check-{}", std::process::id()));
    let written = std::fs::write(&file, "x");
    if written.is_ok() {
        let _ = std::fs::remove_file(&file);
    }
    // SAFETY: signal 0 is sent to nobody.
    let signalled = unsafe { libc::kill(libc::getppid(), 0) } == 0;
    [
        ("read /etc/shadow", std::fs::read("/etc/shadow").is_err()),
        ("write a file", written.is_err_and(|e| denied(e.kind()))),
        ("connect to a network", TcpStream::connect(("127.0.0.1", 9)).is_err_and(|e| denied(e.kind()))),
        ("execute a program", Command::new("/bin/true").status().is_err()),
        ("signal another process", !signalled),
    ]
}
