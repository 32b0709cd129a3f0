//! What vgpu's libraries in the followed processes say: their calls (`VGPU_TRACE`) and their log (`VGPU_LOG_FILE`), by pipes with
//! names, so that nothing grows on a disk.

use super::process::FirstError;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use vgpu_trace::call::Call;

const PAUSE: Duration = Duration::from_millis(5);

/// Lines of the log that are kept of a process.
const LOG_LINES: usize = 5;

/// What the libraries in one process said.
#[derive(Debug, Default)]
pub struct Said {
    pub calls: u64,
    pub first_error: Option<FirstError>,
    /// The first errors and warnings.
    pub log: Vec<String>,
}

/// By process.
pub type All = BTreeMap<u32, Said>;

/// The pipes, and who reads them.
#[derive(Debug)]
pub struct Shims {
    folder: PathBuf,
    ended: Arc<AtomicBool>,
    readers: Vec<JoinHandle<All>>,
}

impl Shims {
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("vgpu-doctor-{}-{number}", std::process::id()));
        fs::create_dir(&folder)?;
        let mut shims = Self { folder, ended: Arc::default(), readers: Vec::new() };
        // The command may become another user; only it knows the name.
        fs::set_permissions(&shims.folder, Permissions::from_mode(0o711))?;
        for (name, keep) in [("calls", keep_call as Keep), ("log", keep_log)] {
            let pipe = pipe(&shims.folder.join(name))?;
            let ended = shims.ended.clone();
            shims.readers.push(std::thread::spawn(move || read(pipe, &ended, keep)));
        }
        Ok(shims)
    }

    /// Has the libraries in `command` write there.
    pub fn environment(&self, command: &mut Command) {
        command.env("VGPU_TRACE", self.folder.join("calls")).env("VGPU_LOG_FILE", self.folder.join("log"));
    }

    /// All that was said, after the last process has ended.
    pub fn finish(mut self) -> All {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = All::new();
        for reader in std::mem::take(&mut self.readers) {
            for (pid, said) in reader.join().unwrap_or_default() {
                let into = all.entry(pid).or_default();
                into.calls += said.calls;
                into.first_error = into.first_error.take().or(said.first_error);
                into.log.extend(said.log);
            }
        }
        all
    }
}

impl Drop for Shims {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A pipe that is open for writing here as well: it has no end while this process lives.
fn pipe(path: &Path) -> io::Result<File> {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o622), 0)?;
    fs::set_permissions(path, Permissions::from_mode(0o622))?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Reads lines until all processes have ended and the pipe is empty.
fn read(mut pipe: File, ended: &AtomicBool, keep: Keep) -> All {
    let (mut all, mut rest, mut chunk) = (All::new(), Vec::new(), vec![0; 1 << 16]);
    loop {
        let last = ended.load(Ordering::Relaxed);
        match pipe.read(&mut chunk) {
            Ok(count) => {
                rest.extend_from_slice(chunk.get(..count).unwrap_or_default());
                let end = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
                for line in rest.get(..end).unwrap_or_default().split(|&byte| byte == b'\n') {
                    // What is none of our lines is somebody else's.
                    let _ = keep(&mut all, &String::from_utf8_lossy(line));
                }
                rest.drain(..end);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && !last => std::thread::sleep(PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return all,
        }
    }
}

/// Adds a line to what its process said; `None` for a line of another form.
type Keep = fn(&mut All, &str) -> Option<()>;

fn keep_call(all: &mut All, line: &str) -> Option<()> {
    let call: Call = serde_json::from_str(line).ok()?;
    let said = all.entry(call.pid).or_default();
    said.calls += 1;
    if call.failed() && !is_question(&call) && said.first_error.is_none() {
        let name = call.error.unwrap_or_default();
        said.first_error = Some(FirstError { call: call.call, code: call.result, name });
    }
    Some(())
}

/// CUDA_ERROR_INVALID_CONTEXT.
const INVALID_CONTEXT: u32 = 201;

/// Whether a failure is an answer that whoever asks goes on with: names are looked up by those who have a way without them, and NVIDIA's
/// runtime asks for the current context's device to learn whether there is a context.
fn is_question(call: &Call) -> bool {
    let looks_up = ["cuGetExportTable", "cuGetProcAddress"].iter().any(|name| call.call.starts_with(name));
    looks_up || (call.call.starts_with("cuCtxGetDevice") && call.result == INVALID_CONTEXT)
}

/// `TIME vgpu[PID] LEVEL: TEXT`: errors and warnings.
fn keep_log(all: &mut All, line: &str) -> Option<()> {
    let (_, rest) = line.split_once(" vgpu[")?;
    let (pid, rest) = rest.split_once("] ")?;
    let (level, text) = rest.split_once(": ")?;
    let said = all.entry(pid.parse().ok()?).or_default();
    if matches!(level, "error" | "warn") && said.log.len() < LOG_LINES {
        said.log.push(text.to_owned());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_question_is_no_error() {
        let mut all = All::default();
        for (call, result) in [("cuGetProcAddress_v2", 500), ("cuCtxGetDevice_v2", 201), ("cuMemAlloc_v2", 0)]
        {
            keep_call(&mut all, &line(call, result)).unwrap();
        }
        assert!(all[&7].first_error.is_none() && all[&7].calls == 3);
        keep_call(&mut all, &line("cuCtxGetDevice_v2", 700)).unwrap();
        keep_call(&mut all, &line("cuMemAlloc_v2", 2)).unwrap();
        let first = all[&7].first_error.as_ref().unwrap();
        assert_eq!((first.call.as_str(), first.code), ("cuCtxGetDevice_v2", 700));
    }

    fn line(call: &str, result: u32) -> String {
        let times = r#""tid":7,"at_ns":1,"ns":1,"messages":0,"round_trips":0"#;
        let error = if result == 0 { "" } else { r#","error":"ERROR""# };
        format!(r#"{{"pid":7,{times},"call":"{call}","class":"local","args":{{}},"result":{result}{error}}}"#)
    }
}
