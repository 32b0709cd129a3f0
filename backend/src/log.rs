//! Logging to stderr, and helpers for its messages.

use std::error::Error;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

/// Whether `text` is a filter that logging understands (for the command line).
pub fn check_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Starts logging to stderr; each line begins with the prefix that [`set_prefix`] sets, if any.
pub fn start(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::IsTerminal::is_terminal(&io::stderr());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_target(false)
        .with_writer(|| Prefixed)
        .try_init();
}

static PREFIX: OnceLock<Mutex<String>> = OnceLock::new();

/// Sets what each line of the log begins with: whose worker this is.
pub fn set_prefix(prefix: String) {
    let slot = PREFIX.get_or_init(Mutex::default);
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = prefix;
}

/// Set where a guest decides how much there is to say.
static LINES: OnceLock<Limit> = OnceLock::new();

/// Lets only so many lines into the log in each period from now on: one that a guest could fill.
pub fn limit_lines(lines: u32) {
    let _ = LINES.set(Limit::of(lines));
}

/// Writes whole lines with the prefix; the subscriber makes one write per event.
struct Prefixed;

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left_out = match LINES.get().map(Limit::pass) {
            Some(None) => return Ok(bytes.len()),
            Some(Some(left_out)) => left_out,
            None => 0,
        };
        let mut line = Vec::with_capacity(bytes.len() + 48);
        if let Some(prefix) = PREFIX.get() {
            line.extend_from_slice(prefix.lock().unwrap_or_else(PoisonError::into_inner).as_bytes());
        }
        if left_out > 0 {
            line.extend_from_slice(format!("({left_out} lines left out) ").as_bytes());
        }
        line.extend_from_slice(bytes);
        // A closed stderr must not stop the program.
        let _ = io::stderr().write_all(&line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Text from the guest for a log line: no control characters, bounded.
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end.min(64)]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Lets a few log lines through in each period, so that a guest cannot fill the host's disk.
#[derive(Debug)]
pub struct Limit {
    state: Mutex<(Instant, u32, u64)>,
    lines: u32,
}

impl Limit {
    const PERIOD: Duration = Duration::from_secs(10);
    const LINES: u32 = 10;

    pub fn new() -> Self {
        Limit::of(Self::LINES)
    }

    /// With so many lines in each period.
    pub fn of(lines: u32) -> Self {
        Limit { state: Mutex::new((Instant::now(), 0, 0)), lines }
    }

    /// Whether to log now; if so, how many lines were left out before.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, lines, left_out) = &mut *state;
        if start.elapsed() >= Self::PERIOD {
            (*start, *lines) = (Instant::now(), 0);
        }
        if *lines < self.lines {
            *lines += 1;
            return Some(std::mem::take(left_out));
        }
        *left_out += 1;
        None
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_counts_what_it_leaves_out() {
        let limit = Limit::new();
        let passed = (0..25).filter(|_| limit.pass().is_some()).count();
        assert_eq!(passed, 10);
        limit.state.lock().unwrap().0 = Instant::now().checked_sub(Limit::PERIOD).unwrap();
        assert_eq!(limit.pass(), Some(15));
    }

    #[test]
    fn guest_text_is_made_printable() {
        assert_eq!(printable(b"a\x1b[2J\nb\0rest"), "a?[2J?b");
    }
}
