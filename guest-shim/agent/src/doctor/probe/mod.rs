//! Loading libraries and calling them, in a process of its own: it may crash or hang, and each try wants another environment.
//!
//! | module | what |
//! |---|---|
//! | [`answer`] | what a probe finds out |
//! | [`library`] | a library that was loaded as programs do it |
//! | [`cuda`], [`runtime`], [`nvml`] | what is called |

pub mod answer;
pub mod cuda;
pub mod library;
pub mod nvml;
pub mod runtime;

use super::subject::Environment;
use answer::{Answer, Broken, Outcome};
use clap::{Args, ValueEnum};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a probe may take: the start of a worker on a large GPU, and more.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(5);
/// Lines of the libraries' log that are shown.
const LOG_LINES: usize = 5;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The driver API and a computation
    Cuda,
    /// A libcudart
    Runtime,
    Nvml,
    /// Whether a library loads
    Load,
}

/// `vgpu-agent probe`.
#[derive(Debug, Clone, Args)]
pub struct ProbeOptions {
    pub kind: Kind,
    /// Name or path of the library
    pub library: PathBuf,
}

/// The probe's process: prints the answer.
pub fn main(options: &ProbeOptions) -> ExitCode {
    let library = &options.library;
    let answer = match options.kind {
        Kind::Cuda => cuda::probe(library),
        Kind::Runtime => runtime::probe(library),
        Kind::Nvml => nvml::probe(library),
        Kind::Load => library::probe(library),
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts probes.
#[derive(Debug, Clone)]
pub struct Prober {
    program: PathBuf,
    patience: Duration,
}

impl Prober {
    /// With this program.
    pub fn new() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, patience: PATIENCE })
    }

    /// Probes `library` in `environment`.
    pub fn run(&self, kind: Kind, library: &str, environment: &Environment) -> Outcome {
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(["probe", &name, library]).env_clear().envs(environment).env_remove("VGPU_LOG_FILE");
        self.answer(command)
    }

    fn answer(&self, mut command: Command) -> Outcome {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Outcome { answer: Err(Broken::Start(error.to_string())), log: Vec::new() },
        };
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let ended = self.wait(&mut child);
        let text = stdout.join().unwrap_or_default();
        let log = stderr.join().unwrap_or_default();
        let log: Vec<String> =
            log.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        let log = log.get(log.len().saturating_sub(LOG_LINES)..).unwrap_or_default().to_vec();
        let answer = ended.and_then(|()| {
            serde_json::from_str::<Answer>(&text).map_err(|error| Broken::Unreadable(error.to_string()))
        });
        Outcome { answer, log }
    }

    fn wait(&self, child: &mut Child) -> Result<(), Broken> {
        let start = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    return status.signal().map_or(Ok(()), |signal| Err(Broken::Signal(signal)));
                }
                Err(error) => return Err(Broken::Start(error.to_string())),
                Ok(None) if start.elapsed() > self.patience => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Broken::Hung(self.patience.as_secs()));
                }
                Ok(None) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Reads a pipe to its end, beside the child.
fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Outcome {
        let prober = Prober { program: "sh".into(), patience: Duration::from_millis(300) };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        prober.answer(command)
    }

    #[test]
    fn a_probe_that_crashes_hangs_or_babbles_is_told_apart() {
        let killed = shell("echo last words >&2; kill -SEGV $$");
        assert_eq!((killed.answer, killed.log), (Err(Broken::Signal(11)), vec!["last words".to_owned()]));
        assert!(matches!(shell("exec sleep 5").answer, Err(Broken::Hung(_))));
        assert!(matches!(shell("echo nonsense").answer, Err(Broken::Unreadable(_))));
    }
}
