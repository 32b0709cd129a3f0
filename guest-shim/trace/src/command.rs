//! Runs the program and hands over the lines of its trace while it runs.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

/// Environment variable of the shims: the file that calls are appended to.
const VARIABLE: &str = "VGPU_TRACE";
/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("making the trace file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("starting {}", program.to_string_lossy())]
    Start { program: OsString, source: io::Error },
    #[error("waiting for the program")]
    Wait { source: io::Error },
    #[error("reading the trace")]
    Read { source: io::Error },
}

/// Runs `command` (a program and its arguments) to its end; `line` gets each line of the trace.
///
/// # Errors
/// The trace file or the program cannot be had.
pub fn run(command: &[OsString], mut line: impl FnMut(&str)) -> Result<ExitStatus, CommandError> {
    let trace = TraceFile::new()?;
    let (program, arguments) =
        command.split_first().map_or((OsString::new(), &[][..]), |(p, a)| (p.clone(), a));
    let mut child = Command::new(&program)
        .args(arguments)
        .env(VARIABLE, &trace.path)
        .spawn()
        .map_err(|source| CommandError::Start { program, source })?;
    // An interrupt at the terminal is for the program; its summary is wanted then too.
    // SAFETY: ignoring a signal touches no memory; the program was started with the old disposition.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let mut lines = Lines::new(&trace.path)?;
    let status = loop {
        let ended = ended(&mut child)?;
        lines.read(&mut line)?;
        if let Some(status) = ended {
            break status;
        }
        std::thread::sleep(INTERVAL);
    };
    Ok(status)
}

/// What a shell makes of the program's end: its code, or 128 and the signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

fn ended(child: &mut Child) -> Result<Option<ExitStatus>, CommandError> {
    child.try_wait().map_err(|source| CommandError::Wait { source })
}

/// The file between the shims and this program; gone with it.
struct TraceFile {
    path: PathBuf,
}

impl TraceFile {
    fn new() -> Result<Self, CommandError> {
        let path = std::env::temp_dir().join(format!("vgpu-trace.{}.jsonl", std::process::id()));
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(_) => Ok(TraceFile { path }),
            Err(source) => Err(CommandError::File { path, source }),
        }
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        // If it cannot be removed it stays in the folder for temporary files.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The complete lines of a growing file.
struct Lines {
    file: File,
    rest: Vec<u8>,
}

impl Lines {
    fn new(path: &Path) -> Result<Self, CommandError> {
        let file = File::open(path).map_err(|source| CommandError::File { path: path.into(), source })?;
        Ok(Lines { file, rest: Vec::new() })
    }

    /// Hands over all lines that are complete now.
    fn read(&mut self, line: &mut impl FnMut(&str)) -> Result<(), CommandError> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let count = self.file.read(&mut chunk).map_err(|source| CommandError::Read { source })?;
            if count == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(chunk.get(..count).unwrap_or_default());
            let mut complete = 0;
            for end in
                self.rest.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index)
            {
                line(&String::from_utf8_lossy(self.rest.get(complete..end).unwrap_or_default()));
                complete = end + 1;
            }
            self.rest.drain(..complete);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(script: &str) -> (u8, Vec<String>) {
        let mut lines = Vec::new();
        let command = ["sh", "-c", script].map(OsString::from);
        let status = run(&command, |line| lines.push(line.to_string())).unwrap();
        (exit_code(status), lines)
    }

    // One test: the file's name has the process's number.
    #[test]
    fn complete_lines_arrive_and_the_exit_code_is_the_programs() {
        let (code, lines) =
            traced("printf 'one\\ntw' >> $VGPU_TRACE; sleep 0.1; printf 'o\\nhalf' >> $VGPU_TRACE; exit 3");
        assert_eq!((code, lines), (3, vec!["one".to_string(), "two".to_string()]));
        assert_eq!(traced("kill -9 $$").0, 137);
        let missing = run(&["/nonexistent/program".into()], |_| ()).unwrap_err();
        assert_eq!(missing.to_string(), "starting /nonexistent/program");
        let left = std::env::temp_dir().join(format!("vgpu-trace.{}.jsonl", std::process::id()));
        assert!(!left.exists());
    }
}
