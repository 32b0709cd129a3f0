//! `vgpu-backend sandbox-check`: how workers are confined on this machine, and whether the driver works in there.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use super::peer::{self, Peer};
use super::{Layer, Sandbox, SandboxArgs, State, refusals};
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
    /// This is the second process, with the link to the first.
    #[arg(long, hide = true)]
    peer: Option<i32>,
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
    let folders = super::library_folders(folder.as_deref());
    if let Some(link) = options.peer {
        return peer::run(link, &options.sandbox, &folders).map(|()| true);
    }
    super::prepare_devices();
    let peer = Peer::start()?;
    let mut sandbox = Sandbox::enter(&options.sandbox, &folders).map_err(|e| chain(&e))?;
    let warm = api::warm_up().inspect_err(|_| print(&layers(&sandbox)))?;
    let before = refusals::so_far().len();
    sandbox.close().map_err(|e| chain(&e))?;
    let name = warm.snapshot.devices.first().map_or_else(String::new, |d| d.name().to_owned());
    let ipc = if sandbox.is_active(Layer::Files) && super::is_softgpu(&folders) {
        // Said of softgpu where its layers are.
        None
    } else {
        Some(peer.try_ipc())
    };
    let (driver, works) = driver(ipc);
    let driver_refusals = refusals::so_far().split_off(before);
    let (attempts, holds) = forbidden(&sandbox);
    print(&format!(
        "{}\nDriver in the sandbox: {name}\n{driver}\nSystem calls that it was refused: {}\n\nWhat a worker must not do:\n{attempts}",
        layers(&sandbox),
        if driver_refusals.is_empty() { "none".into() } else { driver_refusals.join(", ") },
    ));
    Ok(works && holds)
}

/// A reader that goes away is no defect.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn layers(sandbox: &Sandbox) -> String {
    let line = |(layer, state): (Layer, &State)| {
        let (word, detail) = match state {
            State::Active(how) => ("active", how.as_str()),
            State::Off => ("off", ""),
            State::Missing(why) => ("missing", why.as_str()),
        };
        format!("  {:<12} {word:<8} {detail}\n", layer.name())
    };
    format!("Layers:\n{}", sandbox.states().map(line).collect::<String>())
}

/// What the driver could do, and whether that is all.
fn driver(ipc: Option<Result<(), String>>) -> (String, bool) {
    let (mut text, mut good) = (String::new(), true);
    let ipc = ipc.map(|result| ("memory and events of another worker", result));
    for (what, result) in api::trial().into_iter().chain(ipc) {
        let outcome = result.as_ref().map_or_else(|error| format!("FAILED: {error}"), |()| "ok".into());
        text.push_str(&format!("  {what:<38} {outcome}\n"));
        good &= result.is_ok();
    }
    (text, good)
}

/// What was attempted, and whether the layers that are in force have refused all that they should.
fn forbidden(sandbox: &Sandbox) -> (String, bool) {
    let (mut text, mut good) = (String::new(), true);
    for (what, layers, refused) in attempts() {
        let held = layers.iter().any(|&layer| sandbox.is_active(layer));
        let outcome = match (refused, held) {
            (true, _) => "refused",
            (false, true) => "POSSIBLE",
            (false, false) => "possible without the layers that are not there",
        };
        text.push_str(&format!("  {what:<38} {outcome}\n"));
        good &= refused || !held;
    }
    (text, good)
}

/// Attempts, the layers of which each forbids it, and whether it was refused.
fn attempts() -> [(&'static str, &'static [Layer], bool); 5] {
    let denied = |kind: ErrorKind| kind == ErrorKind::PermissionDenied;
    let file = std::env::temp_dir().join(format!("vgpu-sandbox-check-{}", std::process::id()));
    let written = std::fs::write(&file, "x");
    if written.is_ok() {
        let _ = std::fs::remove_file(&file);
    }
    // SAFETY: signal 0 is sent to nobody.
    let signalled = unsafe { libc::kill(libc::getppid(), 0) } == 0;
    let network =
        TcpStream::connect(("127.0.0.1", 9)).is_err_and(|e| e.kind() != ErrorKind::ConnectionRefused);
    [
        ("read /etc/shadow", &[Layer::Files], std::fs::read("/etc/shadow").is_err_and(|e| denied(e.kind()))),
        ("write a file", &[Layer::Files], written.is_err_and(|e| denied(e.kind()))),
        ("connect to a network", &[Layer::Namespaces, Layer::Calls], network),
        ("execute a program", &[Layer::Calls], Command::new("/bin/true").status().is_err()),
        ("signal another process", &[Layer::Files, Layer::Calls], !signalled),
    ]
}
