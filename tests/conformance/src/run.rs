//! Starts a process for each unit, several at a time, and another one when it dies.

use crate::{
    child::{DIRTY, MARK, RENEW},
    plan::Unit,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Names the run's folder for files.
pub const FOLDER: &str = "VGPU_CONFORMANCE_FOLDER";

/// How a list is run.
pub struct Options {
    pub jobs: usize,
    pub output: String,
    /// How long a case may take.
    pub patience: Duration,
    /// No unit starts later than this.
    pub deadline: Duration,
    /// An earlier run's output: what is in it comes last, and fills in for what there was no time for.
    pub known: Option<String>,
    /// The arguments that choose cases, for the processes.
    pub choice: Vec<String>,
}

struct Run<'a> {
    options: &'a Options,
    units: &'a [Unit],
    /// Indexes of units, in the order in which they are run.
    order: Vec<usize>,
    next: AtomicUsize,
    started: Instant,
    file: Mutex<File>,
}

/// Runs all units and writes the results, sorted, to the output file; how many.
///
/// # Errors
/// The output file cannot be written.
pub fn run(units: &[Unit], options: &Options) -> Result<usize, String> {
    let say = |e: std::io::Error| format!("writing {}: {e}", options.output);
    let known = match &options.known {
        Some(name) => std::fs::read_to_string(name).map_err(|e| format!("reading {name}: {e}"))?,
        None => String::new(),
    };
    let run = Run {
        options,
        units,
        order: order(units, &known),
        next: AtomicUsize::new(0),
        started: Instant::now(),
        file: Mutex::new(File::create(&options.output).map_err(say)?),
    };
    let folder = std::env::temp_dir().join(format!("vgpu-conformance.{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("making {}: {e}", folder.display()))?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var(FOLDER, &folder) };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| run.work());
        }
    });
    // Gone already is fine too.
    let _ = std::fs::remove_dir_all(&folder);
    sort(units, &options.output, &known).map_err(say)
}

fn id(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(value.get("id")?.as_str()?.to_string())
}

/// Units with much that is not known first.
fn order(units: &[Unit], known: &str) -> Vec<usize> {
    let known: BTreeSet<String> = known.lines().filter_map(id).collect();
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|i| {
        let cases = &units[*i].cases;
        let new = cases.iter().filter(|c| !known.contains(&c.id())).count();
        std::cmp::Reverse(new * 100 / cases.len().max(1))
    });
    order
}

/// Sorts the lines in the list's order, after filling in from `known`.
fn sort(units: &[Unit], name: &str, known: &str) -> std::io::Result<usize> {
    let text = std::fs::read_to_string(name)?;
    let mut lines: BTreeMap<String, &str> = known.lines().filter_map(|l| Some((id(l)?, l))).collect();
    lines.extend(text.lines().filter_map(|l| Some((id(l)?, l))));
    let mut out = std::io::BufWriter::new(File::create(name)?);
    let mut count = 0;
    for case in units.iter().flat_map(|u| &u.cases) {
        if let Some(line) = lines.get(&case.id()) {
            writeln!(out, "{line}")?;
            count += 1;
        }
    }
    out.flush()?;
    Ok(count)
}

enum Event {
    Line(String),
    End,
}

impl Run<'_> {
    fn work(&self) {
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(&index) = self.order.get(place) else { return };
            let Some(unit) = self.units.get(index) else { return };
            if place.is_multiple_of(20) {
                let seconds = self.started.elapsed().as_secs();
                eprintln!("vgpu-conformance: {place} of {} units, {seconds} s", self.units.len());
            }
            self.unit(index, unit);
        }
    }

    fn unit(&self, index: usize, unit: &Unit) {
        let mut done = 0;
        while done < unit.cases.len() {
            if self.started.elapsed() > self.options.deadline {
                eprintln!("vgpu-conformance: out of time at {}", unit.cases[done].id());
                return;
            }
            let (printed, dirty, how) = self.process(index, done);
            done += printed;
            // Dead before its next line: that case's fault, unless the process had recovered from a crash before.
            if let Some(how) = how
                && !dirty
                && let Some(case) = unit.cases.get(done)
            {
                self.write(&serde_json::json!({ "id": case.id(), "end": how }).to_string());
                done += 1;
            }
        }
    }

    fn write(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{line}") {
            eprintln!("vgpu-conformance: writing {}: {error}", self.options.output);
        }
    }

    fn start(&self, index: usize, from: usize) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("child").arg(index.to_string()).arg(from.to_string()).args(&self.options.choice);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: only system calls between fork and exec: no core files, and no process that outlives this one.
        unsafe {
            command.pre_exec(|| {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        command.spawn()
    }

    /// Runs one process: how many cases it printed, whether it recovered from a crash, and how it ended if that was not as it should.
    fn process(&self, index: usize, from: usize) -> (usize, bool, Option<String>) {
        let mut child = match self.start(index, from) {
            Ok(child) => child,
            Err(error) => return (0, false, Some(format!("not started: {error}"))),
        };
        let (sender, events) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if sender.send(Event::Line(line)).is_err() {
                        return;
                    }
                }
                let _ = sender.send(Event::End);
            });
        }
        let (mut printed, mut dirty) = (0, false);
        loop {
            let patience = if dirty { Duration::from_secs(3) } else { self.options.patience };
            match events.recv_timeout(patience) {
                Ok(Event::Line(line)) => {
                    dirty |= line.contains(DIRTY);
                    if let Some(at) = line.find(MARK) {
                        self.write(&line[at + MARK.len()..]);
                        printed += 1;
                    }
                }
                Ok(Event::End) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // It may have ended just now.
                    let _ = child.kill();
                    let _ = child.wait();
                    return (printed, dirty, Some("hung".into()));
                }
            }
        }
        match child.wait() {
            Ok(status) if matches!(status.code(), Some(0 | RENEW)) => (printed, dirty, None),
            Ok(status) => {
                let how = status
                    .signal()
                    .map_or(format!("exit code {}", status.code().unwrap_or(-1)), |s| format!("signal {s}"));
                (printed, dirty, Some(format!("crashed: {how}")))
            }
            Err(error) => (printed, dirty, Some(format!("lost: {error}"))),
        }
    }
}
