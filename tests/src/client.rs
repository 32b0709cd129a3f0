//! A program that uses CUDA through the shim: `cuda-client` with one of its scenarios.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::poll::PATIENCE;
use crate::process;

/// A program to start.
#[derive(Debug)]
pub struct ClientCommand {
    command: Command,
    scenario: String,
}

impl ClientCommand {
    /// `scenario` with its arguments, on the agent at `socket`.
    pub fn new(artifacts: &Artifacts, socket: &Path, scenario: &[&str]) -> Self {
        let mut command = Command::new(&artifacts.client);
        command.args(scenario).env("LD_LIBRARY_PATH", &artifacts.shim).env("VGPU_AGENT_SOCKET", socket);
        for name in [
            "CUDA_VISIBLE_DEVICES",
            "CUDA_DEVICE_ORDER",
            "CUDA_LAUNCH_BLOCKING",
            "VGPU_LOG",
            "VGPU_LOG_FILE",
            "VGPU_STATS",
        ] {
            command.env_remove(name);
        }
        process::end_with_this_thread(&mut command);
        ClientCommand { command, scenario: scenario.join(" ") }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Client {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("starting {:?}: {e}", self.command));
        let (sender, lines) = channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(
            move || while stdout.next().is_some_and(|l| l.is_ok_and(|l| sender.send(l).is_ok())) {},
        );
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let stdin = child.stdin.take();
        Client { child, stdin, lines, stderr: Some(stderr), scenario: self.scenario }
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().finish()
    }

    /// Runs it to its end, which must be success; what it said.
    pub fn succeed(self) -> Vec<String> {
        let outcome = self.run();
        outcome.assert_success();
        outcome.lines
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    /// Standard output, from where it was not read yet.
    pub lines: Vec<String>,
    pub stderr: String,
    scenario: String,
}

impl Outcome {
    pub fn assert_success(&self) {
        assert!(
            self.status.success(),
            "{}: {}\n{:#?}\n{}",
            self.scenario,
            self.status,
            self.lines,
            self.stderr
        );
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// A program that runs; killed if the test ends first.
#[derive(Debug)]
pub struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    scenario: String,
}

impl Client {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let status = self.child.try_wait();
            self.kill();
            let errors = self.errors();
            panic!("{} says nothing ({status:?}); its errors: {errors}", self.scenario)
        })
    }

    /// Waits until it says `line`, which must be the next thing that it says.
    pub fn expect(&mut self, line: &str) {
        let said = self.line();
        assert_eq!(said, line, "{}", self.scenario);
    }

    /// Lets it go on: it waits for a line.
    pub fn go(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn errors(&mut self) -> String {
        self.stderr.take().map(|thread| thread.join().unwrap()).unwrap_or_default()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        // Whoever waits for a line gets the end of the input.
        self.stdin = None;
        let deadline = Instant::now() + 2 * PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.kill();
                let (lines, errors) = (self.lines.iter().collect::<Vec<_>>(), self.errors());
                panic!("{} does not end; it said {lines:#?} and {errors}", self.scenario);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let stderr = self.errors();
        Outcome { status, lines: self.lines.iter().collect(), stderr, scenario: self.scenario.clone() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}
