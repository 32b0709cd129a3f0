//! A program's calls as text: with `VGPU_TRACE=FILE` each call appends a line of JSON to FILE. `vgpu-trace` reads it.
//!
//! A line is one object: `pid`, `tid`, `at_ns` (CLOCK_MONOTONIC), `call`, `class`, `args`, `result`, `error` (the result's name, unless
//! it is success), `ns` (time inside the call), `messages` and `round_trips` (what the call sent over the thread's lane).

use crate::stats::Totals;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
    time::{ClockId, clock_gettime},
};
use std::{
    fmt::Write,
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

/// Environment variable: the file that lines are appended to.
pub const VARIABLE: &str = "VGPU_TRACE";

/// 0: the environment was not read yet, 1: off, 2: on.
static STATE: AtomicU8 = AtomicU8::new(0);

/// Whether calls are traced: one relaxed load.
#[inline]
pub fn enabled() -> bool {
    match STATE.load(Ordering::Relaxed) {
        1 => false,
        2 => true,
        _ => read_environment(),
    }
}

#[cold]
fn read_environment() -> bool {
    let on = file().is_some();
    STATE.store(if on { 2 } else { 1 }, Ordering::Relaxed);
    on
}

fn file() -> Option<&'static OwnedFd> {
    static FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644));
        opened.map_err(|e| crate::warn!("opening the trace file {}: {e}", path.display())).ok()
    };
    FILE.get_or_init(open).as_ref()
}

/// A call that has begun.
pub struct Began {
    at: u64,
    totals: Totals,
}

/// Notes the beginning of a call; `totals` are the counters of the thread's lane.
pub fn begin(totals: Totals) -> Began {
    Began { at: now(), totals }
}

/// How a call ended.
pub struct Ended<'a> {
    pub call: &'a str,
    pub class: &'a str,
    pub result: u32,
    /// The result's name; `None` for success.
    pub error: Option<&'a str>,
    /// Counters of the thread's lane.
    pub totals: Totals,
}

impl Began {
    /// Writes the call's line; `arguments` adds to the object `args`.
    pub fn end(self, ended: &Ended<'_>, arguments: impl FnOnce(&mut Object)) {
        let Some(file) = file() else { return };
        let ns = now().saturating_sub(self.at);
        let mut line = Object::new();
        line.number("pid", rustix::process::getpid().as_raw_nonzero().get());
        line.number("tid", rustix::thread::gettid().as_raw_nonzero().get());
        line.number("at_ns", self.at);
        line.text("call", ended.call);
        line.text("class", ended.class);
        line.object("args", arguments);
        line.number("result", ended.result);
        if let Some(error) = ended.error {
            line.text("error", error);
        }
        line.number("ns", ns);
        line.number("messages", ended.totals.calls.saturating_sub(self.totals.calls));
        line.number("round_trips", ended.totals.round_trips.saturating_sub(self.totals.round_trips));
        let mut bytes = line.finish();
        bytes.push('\n');
        crate::log::write_all(file, bytes.as_bytes());
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A JSON object in the making.
pub struct Object(String);

impl Object {
    fn new() -> Self {
        Object("{".into())
    }

    fn name(&mut self, name: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        quote(&mut self.0, name);
        self.0.push(':');
    }

    /// A member that is a number.
    pub fn number(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    /// A member that is a string.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        quote(&mut self.0, value);
    }

    /// A member that is an array of what is JSON already.
    pub fn array(&mut self, name: &str, values: &[String]) {
        self.name(name);
        let _ = write!(self.0, "[{}]", values.join(","));
    }

    /// A member that is JSON already.
    pub fn json(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push_str(value);
    }

    fn object(&mut self, name: &str, members: impl FnOnce(&mut Object)) {
        self.name(name);
        let mut inner = Object::new();
        members(&mut inner);
        self.0.push_str(&inner.finish());
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Appends `text` as a JSON string.
pub fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Copies memory of this process that the program named, which may not be there: a traced call must not crash where the call
/// itself would not.
pub fn peek(address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; len];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let start = std::ptr::without_provenance_mut(usize::try_from(address).ok()?);
    let remote = libc::iovec { iov_base: start, iov_len: len };
    // SAFETY: the kernel writes at most `len` bytes into `bytes`, and checks the other side's address.
    let copied =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(copied) == Ok(len)).then_some(bytes)
}

/// As [`peek`], for a string: at most 256 bytes of it.
pub fn peek_text(address: u64) -> Option<String> {
    let mut text = Vec::new();
    while text.len() < 256 {
        let byte = *peek(address.checked_add(u64::try_from(text.len()).ok()?)?, 1)?.first()?;
        if byte == 0 {
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        text.push(byte);
    }
    Some(format!("{}…", String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_json() {
        let mut object = Object::new();
        object.number("n", 7);
        object.text("t", "a\"b\\c\nd");
        object.object("o", |o| o.array("a", &["1".into(), "2".into()]));
        assert_eq!(object.finish(), r#"{"n":7,"t":"a\"b\\c\u000ad","o":{"a":[1,2]}}"#);
    }

    #[test]
    fn memory_that_is_not_there_is_none() {
        let value = 0x1234_5678_u32;
        let address = u64::try_from((&raw const value).addr()).unwrap();
        assert_eq!(peek(address, 4), Some(value.to_ne_bytes().to_vec()));
        assert_eq!(peek(0, 4), None);
        assert_eq!(peek_text(8), None);
        let text = c"name";
        assert_eq!(peek_text(u64::try_from(text.as_ptr().addr()).unwrap()), Some("name".into()));
    }
}
