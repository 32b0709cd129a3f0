//! `vgpu-agent doctor`: what keeps programs from the GPU, from the kernel up, and what to do.
//!
//! | module | what it looks at |
//! |---|---|
//! | [`device`] | the virtio device, its driver, the IOMMU |
//! | [`huge_pages`] | memory for lanes and windows |
//! | [`agent`] | the agent's socket, versions, the host's devices |
//! | [`library`] | which libcuda and NVML the loader picks, and whether they load |
//! | [`cuda`], [`nvml`], [`runtime`] | the driver API with a computation, NVML, cudart 12 and 13 |
//! | [`ollama`] | ollama's folders and its runner's environment |
//! | [`follow`] | the processes of a command: what they load, and the first call that fails |
//! | [`report`], [`faults`], [`subject`], [`probe`] | findings, and their names; what is looked at; libraries in processes of their own |

pub mod agent;
pub mod cuda;
pub mod device;
pub mod faults;
pub mod follow;
pub mod huge_pages;
pub mod library;
pub mod nvml;
pub mod ollama;
pub mod probe;
pub mod report;
pub mod runtime;
pub mod subject;

use crate::system::root::Root;
use clap::Args;
use report::{Report, Severity};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use subject::{Environment, Facts, Subject};

/// What `doctor` is told.
#[derive(Debug, Clone, Args)]
pub struct DoctorOptions {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,

    /// Look at the files of another system, such as a mounted image; nothing is run there
    #[arg(long, value_name = "DIR", default_value = "/", conflicts_with = "command")]
    pub root: PathBuf,

    /// A program and its arguments: it is run, and its processes are followed
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A check: looks at the subject, learns facts, reports.
type Check = (&'static str, fn(&Subject, &mut Facts, &mut Report));

/// From the kernel up.
const CHECKS: [Check; 8] = [
    ("device", device::check),
    ("huge pages", huge_pages::check),
    ("agent", agent::check),
    ("library", library::check),
    ("cuda", cuda::check),
    ("nvml", nvml::check),
    ("runtime", runtime::check),
    ("ollama", ollama::check),
];

/// Checks, prints the report; failure if something is wrong.
pub fn main(options: &DoctorOptions) -> ExitCode {
    let Ok(folder) = options.root.canonicalize() else {
        eprintln!("vgpu-agent: looking at {}: there is no such folder", options.root.display());
        return ExitCode::from(2);
    };
    let mut subject = Subject::new(Root::new(folder), environment());
    subject.program = options.command.first().map(PathBuf::from);
    let mut report = examine(&subject);
    let mut processes = Vec::new();
    if !options.command.is_empty() {
        report.begin("command");
        processes = follow::check(&options.command, options.json, &mut report);
    }
    let text = if options.json { json(&report, &processes) } else { people(&report, &processes) };
    let printed = std::io::stdout().write_all(text.as_bytes());
    if report.worst() == Severity::Error || printed.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every check that needs no command.
pub fn examine(subject: &Subject) -> Report {
    let (mut report, mut facts) = (Report::default(), Facts::default());
    for (name, check) in CHECKS {
        report.begin(name);
        check(subject, &mut facts, &mut report);
    }
    report
}

/// This process's environment; what is no text is of no interest to the libraries.
fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn people(report: &Report, processes: &[follow::process::Process]) -> String {
    let lines: String = processes.iter().map(|process| format!("{process}\n")).collect();
    format!("{lines}{}", report.text())
}

fn json(report: &Report, processes: &[follow::process::Process]) -> String {
    let value = serde_json::json!({
        "release": env!("CARGO_PKG_VERSION"),
        "worst": report.worst(),
        "findings": report.findings,
        "processes": processes,
    });
    format!("{value:#}\n")
}
