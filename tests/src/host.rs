//! A host in local mode: broker and agent, with sockets in a folder of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::artifacts::Artifacts;
use crate::client::ClientCommand;
use crate::daemon::Daemon;
use crate::poll::{eventually, found};
use crate::process;

/// A folder of a test's own, removed at the end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vgpu-e2e-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A copy of a program, in a folder where every user may execute it. Made by a process of its own: what this one has open for
    /// writing, its other threads' children have too for a moment, and what is open for writing cannot be executed.
    pub fn copy_program(&self, program: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let copy = self.join("program");
        let copied = Command::new("install").args(["-m", "755"]).arg(program).arg(&copy).status().unwrap();
        assert!(copied.success());
        std::fs::set_permissions(self.path(), PermissionsExt::from_mode(0o755)).unwrap();
        copy
    }
}

impl Default for Folder {
    fn default() -> Self {
        Folder::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a host is started.
#[derive(Debug, Default)]
pub struct HostOptions {
    broker: Vec<String>,
    agent: Vec<String>,
    environment: Vec<(String, String)>,
}

impl HostOptions {
    /// More options for the broker.
    pub fn broker(mut self, options: &[&str]) -> Self {
        self.broker.extend(options.iter().map(|&o| o.into()));
        self
    }

    /// More options for the agent.
    pub fn agent(mut self, options: &[&str]) -> Self {
        self.agent.extend(options.iter().map(|&o| o.into()));
        self
    }

    /// An environment variable of the broker, which its workers inherit.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts broker and agent.
    pub fn start(self) -> Host {
        let artifacts = Artifacts::find();
        let folder = Folder::new();
        let broker = self.start_broker(&artifacts, &folder);
        let agent = self.start_agent(&artifacts, &folder);
        Host { agent, broker, artifacts, options: self, folder }
    }

    /// The same, with another socket of the broker that nobody is connected to.
    pub fn start_with_second_socket(self) -> (Host, PathBuf) {
        let artifacts = Artifacts::find();
        let folder = Folder::new();
        let second = folder.join("second.sock");
        let options = self.broker(&["--socket", second.to_str().unwrap()]);
        let broker = options.start_broker(&artifacts, &folder);
        let agent = options.start_agent(&artifacts, &folder);
        (Host { agent, broker, artifacts, options, folder }, second)
    }

    fn start_broker(&self, artifacts: &Artifacts, folder: &Folder) -> Daemon {
        let mut command = Command::new(&artifacts.broker);
        command.arg("--socket").arg(folder.join("broker.sock")).args(["--softgpu", "--log", "debug"]);
        command.args(&self.broker).envs(self.environment.iter().cloned());
        let mut broker = Daemon::spawn("broker", command);
        broker.wait_log("listening on");
        broker
    }

    fn start_agent(&self, artifacts: &Artifacts, folder: &Folder) -> Daemon {
        let mut command = Command::new(&artifacts.agent);
        command
            .arg("--backend")
            .arg(folder.join("broker.sock"))
            .arg("--socket")
            .arg(folder.join("agent.sock"));
        command.args(["--log", "debug"]).args(&self.agent);
        let mut agent = Daemon::spawn("agent", command);
        agent.wait_log("ready");
        agent
    }
}

/// Broker and agent, running.
#[derive(Debug)]
pub struct Host {
    // Dropped in this order.
    pub agent: Daemon,
    pub broker: Daemon,
    pub artifacts: Artifacts,
    options: HostOptions,
    folder: Folder,
}

impl Host {
    /// A host as the defaults have it.
    pub fn start() -> Self {
        HostOptions::default().start()
    }

    pub fn options() -> HostOptions {
        HostOptions::default()
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub fn broker_socket(&self) -> PathBuf {
        self.folder.join("broker.sock")
    }

    pub fn agent_socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Starts the agent again, after it ended.
    pub fn restart_agent(&mut self) {
        self.agent = self.options.start_agent(&self.artifacts, &self.folder);
    }

    /// Starts the broker again, after it ended.
    pub fn restart_broker(&mut self) {
        self.broker = self.options.start_broker(&self.artifacts, &self.folder);
    }

    /// The test program, to run `scenario` on this host.
    pub fn client(&self, scenario: &[&str]) -> ClientCommand {
        ClientCommand::new(&self.artifacts, &self.agent_socket(), scenario)
    }

    /// Another agent, on a socket of the broker's that is not the first: another VM. And its own socket.
    pub fn another_vm(&self, name: &str, broker_socket: &Path) -> (Daemon, PathBuf) {
        let socket = self.folder.join(name);
        let mut command = Command::new(&self.artifacts.agent);
        command.arg("--backend").arg(broker_socket).arg("--socket").arg(&socket).args(["--log", "debug"]);
        let mut agent = Daemon::spawn("agent", command);
        agent.wait_log("ready");
        (agent, socket)
    }

    /// Worker processes, warm ones included.
    pub fn workers(&self) -> Vec<u32> {
        process::children(self.broker.pid())
    }

    /// The workers that process `pid` has had on this host, from the broker's log. In a long run the numbers of processes come again: the
    /// last one is the process's that runs.
    fn workers_of(&self, pid: u32) -> Vec<u32> {
        let label = format!("[{pid}]\"");
        let log = self.broker.log();
        let opened = log.lines().filter(|line| line.contains("client opened") && line.contains(&label));
        opened.filter_map(|line| line.rsplit("pid=").next()?.trim().parse().ok()).collect()
    }

    /// The worker of process `pid`, by its connection number `nth` (from 0) on this host.
    pub fn worker_of(&self, pid: u32, nth: usize) -> u32 {
        found(&format!("the broker's log names the worker of {pid}"), || {
            self.workers_of(pid).get(nth).copied()
        })
    }

    /// The worker of process `pid`, which has one connection.
    pub fn worker_now(&self, pid: u32) -> u32 {
        found(&format!("process {pid} has a worker"), || {
            self.workers_of(pid).last().copied().filter(|worker| self.workers().contains(worker))
        })
    }

    /// Waits until no client is left and the warm pool is filled, as after the start.
    pub fn settle(&self) {
        let settled = || matches!(self.workers()[..], [worker] if self.is_warm(worker));
        eventually("only the warm worker is left", settled);
    }

    /// Whether a worker is ready and was not given to a client: what the broker's log says last of its number.
    pub fn is_warm(&self, worker: u32) -> bool {
        let (ready, opened) = (format!("worker ready pid={worker} "), format!("pid={worker}"));
        let log = self.broker.log();
        let last = log.lines().rev().find(|line| {
            line.contains(&ready) || (line.contains("client opened") && line.trim_end().ends_with(&opened))
        });
        last.is_some_and(|line| line.contains(&ready))
    }
}
