//! `vgpu-trace COMMAND…`: shows the calls that a program makes on the virtual GPU.

use clap::Parser;
use std::{
    error::Error,
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use vgpu_trace::{
    call::Call,
    command::{self, CommandError},
    summary::Summary,
};

/// Runs a command and shows each CUDA and NVML call that it and its children make on the virtual GPU.
///
/// The exit code is the command's. The trace goes to stderr.
#[derive(Parser)]
#[command(version, trailing_var_arg = true)]
struct Arguments {
    /// Write the trace there instead of stderr
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write each call as a line of JSON too, and last the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show only calls that failed, and the summary
    #[arg(long, conflicts_with = "summary")]
    errors: bool,
    /// Show only the summary
    #[arg(short, long)]
    summary: bool,
    /// The program and its arguments
    #[arg(required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum TraceError {
    #[error("writing {}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Command(#[from] CommandError),
}

fn create(path: &Path) -> Result<Box<dyn Write>, TraceError> {
    match File::create(path) {
        Ok(file) => Ok(Box::new(BufWriter::new(file))),
        Err(source) => Err(TraceError::Output { path: path.into(), source }),
    }
}

fn trace(arguments: &Arguments) -> Result<u8, TraceError> {
    let mut text = match &arguments.output {
        Some(path) => create(path)?,
        None => Box::new(io::stderr()),
    };
    let mut json = arguments.json.as_deref().map(create).transpose()?;
    let mut summary = Summary::default();
    let mut start = None;
    // What cannot be written (a closed pipe, a full disk) is said once, at the end; the program goes on.
    let mut written = Ok(());
    let mut keep = |result: io::Result<()>| {
        if written.is_ok() {
            written = result;
        }
    };
    let status = command::run(&arguments.command, |line| {
        if let Some(json) = &mut json {
            keep(writeln!(json, "{line}"));
        }
        let Ok(call) = serde_json::from_str::<Call>(line) else {
            summary.unreadable += 1;
            return;
        };
        let start = *start.get_or_insert(call.at_ns);
        if !arguments.summary && (!arguments.errors || call.failed()) {
            keep(writeln!(text, "{}", call.line(start)));
        }
        summary.add(&call);
    })?;
    keep(write!(text, "{summary}").and_then(|()| text.flush()));
    if let Some(json) = &mut json {
        let last = serde_json::json!({ "summary": summary });
        keep(writeln!(json, "{last}").and_then(|()| json.flush()));
    }
    if let Err(source) = written {
        let path = arguments.output.clone().or(arguments.json.clone()).unwrap_or_else(|| "stderr".into());
        return Err(TraceError::Output { path, source });
    }
    Ok(command::exit_code(status))
}

fn main() -> ExitCode {
    match trace(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("vgpu-trace: {error}{cause}");
            ExitCode::from(127)
        }
    }
}
