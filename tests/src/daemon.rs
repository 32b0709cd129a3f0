//! A daemon of the product: started, its log kept, killed at the end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use crate::poll::{eventually, within};
use crate::process;

#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts `command`, whose standard error is the log.
    pub fn spawn(name: &'static str, mut command: Command) -> Self {
        process::end_with_this_thread(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("starting {command:?}: {e}"));
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&log));
        collect(child.stderr.take().unwrap(), Arc::clone(&log));
        Daemon { name, child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Fails the test if the daemon has ended.
    pub fn assert_alive(&mut self) {
        let ended = self.ended();
        assert!(ended.is_none(), "the {} ended: {ended:?}", self.name);
    }

    /// Waits until the log has `text`; fails the test if the daemon ends first.
    pub fn wait_log(&mut self, text: &str) {
        let mut ended = None;
        let found = within(crate::poll::PATIENCE, || {
            ended = self.ended();
            self.log().contains(text) || ended.is_some()
        });
        let has = self.log().contains(text);
        assert!(found && has, "the {}'s log never has {text:?} ({ended:?}):\n{}", self.name, self.log());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(&format!("the {} ends", self.name), || {
            status = self.ended();
            status.is_some()
        });
        status.unwrap()
    }

    /// Kills it as with `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the {}'s log, its last lines:\n{}", self.name, tail.join("\n"));
        }
    }
}

/// Collects lines until the last holder of the pipe closes it: workers write to their broker's.
fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
            to.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}
