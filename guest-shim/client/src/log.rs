//! A tiny logger: lines to stderr and to `VGPU_LOG_FILE`, one write(2) each.
//!
//! `VGPU_LOG` is `error`, `warn` (the default), `info`, `debug` or `trace`. Usable at any time, before a connection as well.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much a line matters. Smaller is more important.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
    }
}

/// The level in force; 0 until it was read from the environment.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// Whether lines of `level` are written: one relaxed load.
#[inline]
pub fn enabled(level: Level) -> bool {
    let mut limit = LEVEL.load(Ordering::Relaxed);
    if limit == 0 {
        limit = read_level();
    }
    level as u8 <= limit
}

#[cold]
fn read_level() -> u8 {
    let level =
        std::env::var("VGPU_LOG").ok().and_then(|text| Level::parse(text.trim())).unwrap_or(Level::Warn);
    LEVEL.store(level as u8, Ordering::Relaxed);
    level as u8
}

/// Who else gets errors and warnings, whatever level is in force.
static SINK: OnceLock<fn(Level, &str)> = OnceLock::new();

/// Has `sink` called with the text of each error and warning. The first call counts.
pub fn set_sink(sink: fn(Level, &str)) {
    let _ = SINK.set(sink);
}

/// Writes a line, if lines of `level` are written. The macros ([`crate::error!`] and the others) call this.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    if let Some(sink) = SINK.get().filter(|_| level <= Level::Warn) {
        sink(level, &text.to_string());
    }
    if !enabled(level) {
        return;
    }
    let pid = rustix::process::getpid();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Line breaks in the text would make two lines of it.
    let text = text.to_string().replace('\n', " ");
    let line = format!(
        "{} vgpu[{}] {}: {}\n",
        Utc(now.as_secs().cast_signed(), now.subsec_nanos()),
        pid,
        level.name(),
        text
    );
    write_all(rustix::stdio::stderr(), line.as_bytes());
    if let Some(file) = log_file() {
        write_all(file, line.as_bytes());
    }
}

/// One write; what a full pipe does not take is lost rather than waited for.
pub(crate) fn write_all(to: impl rustix::fd::AsFd, bytes: &[u8]) {
    let to = to.as_fd();
    let _ = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes));
}

fn log_file() -> Option<&'static OwnedFd> {
    static FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("VGPU_LOG_FILE").filter(|path| !path.is_empty())?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)).ok()
    };
    FILE.get_or_init(open).as_ref()
}

/// Seconds and nanoseconds since 1970, written as RFC 3339 in UTC with microseconds.
struct Utc(i64, u32);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let micros = self.1 / 1000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that a leap day is the last day of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Logs at level error.
#[macro_export]
macro_rules! error {
    ($($text:tt)*) => { $crate::log::line($crate::log::Level::Error, format_args!($($text)*)) };
}

/// Logs at level warn.
#[macro_export]
macro_rules! warn {
    ($($text:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($text)*)) };
}

/// Logs at level info.
#[macro_export]
macro_rules! info {
    ($($text:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($text)*)) };
}

/// Logs at level debug.
#[macro_export]
macro_rules! debug {
    ($($text:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($text)*)) };
}

/// Logs at level trace. The arguments are not evaluated unless lines of this level are written.
#[macro_export]
macro_rules! trace {
    ($($text:tt)*) => {
        if $crate::log::enabled($crate::log::Level::Trace) {
            $crate::log::line($crate::log::Level::Trace, format_args!($($text)*))
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(Utc(0, 0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Utc(951_782_400, 1_000).to_string(), "2000-02-29T00:00:00.000001Z");
        assert_eq!(Utc(1_735_689_599, 999_999_999).to_string(), "2024-12-31T23:59:59.999999Z");
        assert_eq!(Utc(-1, 0).to_string(), "1969-12-31T23:59:59.000000Z");
    }

    #[test]
    fn levels_are_read_by_name() {
        assert_eq!(Level::parse("DEBUG"), Some(Level::Debug));
        assert_eq!(Level::parse("verbose"), None);
        assert!(Level::Error < Level::Trace);
    }
}
