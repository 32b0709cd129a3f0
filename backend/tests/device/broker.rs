//! A broker process with a null driver, and its workers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const BROKER: &str = env!("CARGO_BIN_EXE_vgpu-backend");

/// A folder of its own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vgpu-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Puts the null driver into `dir`, under the names by which a driver is looked for.
pub fn install_driver(dir: &Path) {
    let built = Path::new(BROKER).with_file_name("examples").join("libvgpu_null_driver.so");
    assert!(built.exists(), "{built:?} is missing: cargo test builds it, cargo test --test device does not");
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::copy(&built, dir.join(name)).unwrap();
    }
}

/// A broker with one socket.
pub struct Broker {
    child: Child,
    pub socket: PathBuf,
    log: Arc<Mutex<String>>,
    _folder: Folder,
}

impl Broker {
    pub fn start(name: &str, options: &[&str]) -> Broker {
        let folder = Folder::new(name);
        install_driver(folder.path());
        let socket = folder.path().join("vm.sock");
        let mut child = Command::new(BROKER)
            .arg("--socket")
            .arg(&socket)
            .arg("--cuda-dir")
            .arg(folder.path())
            .args(["--log", "debug"])
            .current_dir(folder.path())
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let broker = Broker { child, socket, log, _folder: folder };
        broker.wait_log("listening on");
        broker
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text), || self.log());
    }

    /// Process ids of all its children.
    fn children(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
        pids
    }

    /// The child of that name.
    pub fn child_called(&self, name: &str) -> u32 {
        let named = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(name.as_bytes()))
        };
        self.children().into_iter().find(named).unwrap()
    }

    /// Process ids of its workers.
    pub fn workers(&self) -> Vec<u32> {
        let mut pids = self.children();
        // Its other children, and one that has not got its name yet.
        pids.retain(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                ![&b"vgpu-monitor"[..], b"vgpu-checkpointer"].iter().any(|name| line.starts_with(name))
            })
        });
        pids
    }

    /// The worker of the `n`th client that was opened (from 1), from the log, which lags behind replies.
    pub fn client_worker(&self, n: usize) -> u32 {
        eventually("a client is opened", || self.log().matches("client opened").count() >= n, || self.log());
        let log = self.log();
        let line = log.lines().filter(|l| l.contains("client opened")).nth(n - 1).unwrap();
        line.rsplit("pid=").next().unwrap().trim().parse().unwrap_or_else(|_| panic!("no pid in {line:?}"))
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As [`Broker::descriptors`], when no worker is being started any more, nor about to be: one that was given away is replaced after 250 ms.
    pub fn descriptors_at_rest(&self) -> usize {
        let (mut count, mut same) = (self.descriptors(), 0);
        while same < 25 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let now = self.descriptors();
            same = if now == count { same + 1 } else { 0 };
            count = now;
        }
        count
    }

    /// Open descriptors of the broker.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker's log:\n{}", self.log());
        }
    }
}

/// Whether a process exists and is no zombie.
pub fn runs(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

pub fn kill(pid: u32, signal: i32) {
    // SAFETY: a system call on a process of this test.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// Waits up to 20 s for `condition`.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool, detail: impl Fn() -> String) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}\n{}", detail());
        std::thread::sleep(Duration::from_millis(2));
    }
}
