//! `vgpu-fuzz`: fuzz targets without cargo-fuzz.

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use vgpu_fuzz::{TARGETS, Target, smoke};

/// Runs the decoders of bytes that a guest or a worker writes, on bytes that are nearly right.
#[derive(Parser)]
#[command(name = "vgpu-fuzz")]
struct Line {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Each target's corpus, then changed copies of it
    Smoke {
        /// Seconds for each target
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Where the random numbers begin
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Folder of softgpu's libcuda.so
        #[arg(long)]
        softgpu: PathBuf,
        /// Folder of the corpus
        #[arg(long)]
        corpus: PathBuf,
        /// Where the input that made a target fail is left
        #[arg(long)]
        failures: PathBuf,
        /// Only these targets
        targets: Vec<String>,
    },
    /// One target, in this process
    #[command(hide = true)]
    One { target: String, seconds: f64, seed: u64, corpus: PathBuf, last: PathBuf },
    /// Runs a target on files, for example on an input that made it fail
    Run { target: String, files: Vec<PathBuf> },
    /// Writes each target's seeds into folders beneath this one, for cargo-fuzz
    Seeds { folder: PathBuf },
}

fn main() -> ExitCode {
    match run(Line::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vgpu-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Result<&'static Target, String> {
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    TARGETS.iter().find(|t| t.name == name).ok_or_else(|| format!("no target {name}; there are {}", names()))
}

fn run(action: Action) -> Result<bool, String> {
    match action {
        Action::Smoke { seconds, seed, softgpu, corpus, failures, targets } => {
            let chosen: Vec<&Target> = match targets.as_slice() {
                [] => TARGETS.iter().collect(),
                names => names.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
            };
            std::fs::create_dir_all(&failures).map_err(|e| format!("making {}: {e}", failures.display()))?;
            let mut good = true;
            for target in chosen {
                let last = failures.join(target.name);
                let mut command = Command::new("/proc/self/exe");
                command.arg("one").arg(target.name).arg(seconds.to_string()).arg(seed.to_string());
                command.arg(&corpus).arg(&last).env("LD_LIBRARY_PATH", &softgpu).stdin(Stdio::null());
                good &= smoke_one(target, command, seconds, &last)?;
            }
            Ok(good)
        }
        Action::One { target, seconds, seed, corpus, last } => {
            let target = find(&target)?;
            let inputs = smoke::inputs(target, &corpus).map_err(|error| error.to_string())?;
            let count = smoke::run(target, &inputs, seed, Duration::from_secs_f64(seconds), &last)
                .map_err(|error| format!("keeping the last input: {error}"))?;
            println!("{:<16} {} inputs, {count} changed ones", target.name, inputs.len());
            Ok(true)
        }
        Action::Run { target, files } => {
            let target = find(&target)?;
            for file in files {
                let bytes = std::fs::read(&file).map_err(|e| format!("reading {}: {e}", file.display()))?;
                (target.run)(&bytes);
                println!("{}: ok", file.display());
            }
            Ok(true)
        }
        Action::Seeds { folder } => seeds(&folder).map(|()| true),
    }
}

/// Waits for a target's process; what it failed at stays in `last`.
fn smoke_one(
    target: &Target,
    mut command: Command,
    seconds: f64,
    last: &std::path::Path,
) -> Result<bool, String> {
    let mut child = command.spawn().map_err(|error| format!("executing itself: {error}"))?;
    // An input takes milliseconds, but machines of tests are slow.
    let limit = Duration::from_secs_f64(seconds * 3.0 + 60.0);
    let failed = match wait(&mut child, limit) {
        None => format!("it does not end ({limit:?})"),
        Some(Ok(status)) if status.success() => {
            let _ = std::fs::remove_file(last);
            return Ok(true);
        }
        Some(Ok(status)) => status.to_string(),
        Some(Err(error)) => error.to_string(),
    };
    println!(
        "{:<16} FAILED: {failed}; run it again: vgpu-fuzz run {} {}",
        target.name,
        target.name,
        last.display()
    );
    Ok(false)
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::io::Result<std::process::ExitStatus>> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if begun.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(status)) => return Some(Ok(status)),
            Err(error) => return Some(Err(error)),
        }
    }
}

fn seeds(folder: &std::path::Path) -> Result<(), String> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        let failed = |error: std::io::Error| format!("writing {}: {error}", folder.display());
        std::fs::create_dir_all(&folder).map_err(failed)?;
        for (number, bytes) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), bytes).map_err(failed)?;
        }
    }
    Ok(())
}
