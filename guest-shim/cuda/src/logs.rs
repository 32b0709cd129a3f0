//! The driver's log of errors, as programs read it: an entry for each call that failed and for what this library warned of.
//!
//! Entries have the driver's form: `[18:38:51.884][140678062276608][CUDA][E] Returning 1 (CUDA_ERROR_INVALID_VALUE) from cuMemFree_v2`.
//! CUDA_LOG_FILE names a file, `stdout` or `stderr` that gets them as well.

use crate::{call, call::put, error, handles};
use std::{
    cell::Cell,
    collections::VecDeque,
    ffi::{CString, OsStr, c_char, c_void},
    fmt::Write as _,
    fs::File,
    io::Write as _,
    os::unix::ffi::OsStrExt,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use vgpu_client::{fork, log::Level};
use vgpu_spec::{
    handle::Kind,
    result::{self, CudaError},
};

/// Entries that are kept, as measured on the driver.
const KEPT: usize = 100;
/// The most bytes of a message.
const MESSAGE: usize = 1024;
const MISSING: &str =
    "The provided buffer is not large enough to hold all messages. Some messages will be missing\n";
const ROLLED_OVER: &str =
    "Log buffer has rolled over since the previous dump. The oldest messages will be missing\n";
/// CUlogLevel.
const ERROR: u32 = 0;
const WARNING: u32 = 1;

type Function = unsafe extern "C" fn(*mut c_void, u32, *const c_char, usize);

#[derive(Clone, Copy)]
struct Callback {
    handle: u64,
    function: u64,
    argument: usize,
}

struct Log {
    /// The last entries, each with its line break.
    entries: VecDeque<String>,
    /// Entries ever.
    count: u32,
    callbacks: Vec<Callback>,
}

static LOG: Mutex<Log> = Mutex::new(Log { entries: VecDeque::new(), count: 0, callbacks: Vec::new() });

thread_local! {
    /// In a callback: what fails there is recorded, but calls nobody.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn oldest(&self) -> u32 {
        self.count.wrapping_sub(u32::try_from(self.entries.len()).unwrap_or(0))
    }

    /// The entries from `start` on, and whether older ones are gone; `None` beyond the end.
    fn since(&self, start: Option<u32>) -> Option<(Vec<&str>, bool)> {
        let start = start.unwrap_or(0);
        if start > self.count {
            return None;
        }
        let skipped = start.saturating_sub(self.oldest()) as usize;
        Some((self.entries.iter().skip(skipped).map(String::as_str).collect(), start < self.oldest()))
    }
}

/// What is dumped into `room` bytes, a NUL included; `None` if not one entry fits.
fn fit(entries: &[&str], rolled_over: bool, room: usize) -> Option<String> {
    let header = if rolled_over { ROLLED_OVER } else { "" };
    let all: usize = header.len() + entries.iter().map(|e| e.len()).sum::<usize>();
    if all < room {
        return Some(header.to_owned() + &entries.concat());
    }
    let mut left = room.checked_sub(MISSING.len() + 1)?;
    let mut first = entries.len();
    while let Some(entry) = first.checked_sub(1).and_then(|i| entries.get(i)).filter(|e| e.len() <= left) {
        left -= entry.len();
        first -= 1;
    }
    let kept = entries.get(first..).filter(|kept| !kept.is_empty())?;
    Some(MISSING.to_owned() + &kept.concat())
}

/// Hours, minutes, seconds and milliseconds of the day, in local time.
fn clock() -> (i32, i32, i32, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = libc::time_t::try_from(now.as_secs()).unwrap_or(0);
    // SAFETY: a structure of numbers and a pointer that nobody follows, filled by the call.
    let time = unsafe {
        let mut time = std::mem::zeroed::<libc::tm>();
        libc::localtime_r(&raw const seconds, &raw mut time);
        time
    };
    (time.tm_hour, time.tm_min, time.tm_sec, now.subsec_millis())
}

/// Adds an entry, and tells the program's callbacks and CUDA_LOG_FILE.
pub fn record(level: Level, text: &str) {
    let (letter, number) = if level == Level::Error { ('E', ERROR) } else { ('W', WARNING) };
    let text: String = text.chars().filter(|&c| c != '\n' && c != '\0').take(MESSAGE).collect();
    let (hour, minute, second, milli) = clock();
    // SAFETY: no conditions.
    let thread = unsafe { libc::pthread_self() };
    let mut line = String::new();
    let _ = writeln!(line, "[{hour:02}:{minute:02}:{second:02}.{milli:03}][{thread}][CUDA][{letter}] {text}");
    to_file(&line);
    let callbacks = {
        // In a forked child another thread may have it for ever.
        let Some(mut log) = fork::lock(&LOG) else { return };
        if log.entries.len() == KEPT {
            log.entries.pop_front();
        }
        log.entries.push_back(line);
        log.count = log.count.wrapping_add(1);
        log.callbacks.clone()
    };
    if !callbacks.is_empty() && !CALLING.replace(true) {
        if let Ok(message) = CString::new(text) {
            for callback in callbacks {
                callback.run(number, &message);
            }
        }
        CALLING.set(false);
    }
}

impl Callback {
    fn run(self, level: u32, message: &CString) {
        let function = std::ptr::with_exposed_provenance::<()>(self.function as usize);
        let argument = std::ptr::with_exposed_provenance_mut::<c_void>(self.argument);
        // SAFETY: the program's function of this type, and its argument.
        unsafe {
            let function = std::mem::transmute::<*const (), Function>(function);
            function(argument, level, message.as_ptr(), message.as_bytes().len());
        }
    }
}

/// A call failed. Not ready is no failure, and before cuInit there is no log.
#[cold]
pub fn returned(name: &str, status: u32) {
    const SILENT: [u32; 3] =
        [CudaError::NotInitialized as u32, CudaError::NotReady as u32, CudaError::Deinitialized as u32];
    if SILENT.contains(&status) {
        return;
    }
    if status == error::INVALID_CONTEXT && crate::context::current() == 0 {
        record(Level::Error, "No CUDA context is current to the calling thread");
    }
    let code = result::describe(status).map_or("unknown".into(), |(name, _)| name.to_string_lossy());
    record(Level::Error, &format!("Returning {status} ({code}) from {name}"));
}

/// Has this library's warnings recorded too.
pub fn install() {
    vgpu_client::log::set_sink(record);
}

/// Where CUDA_LOG_FILE wants entries.
enum Target {
    Stdout,
    Stderr,
    File(File),
}

fn to_file(line: &str) {
    static TARGET: OnceLock<Option<Mutex<Target>>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os("CUDA_LOG_FILE").filter(|p| !p.is_empty())?;
        Some(Mutex::new(match path.as_bytes() {
            b"stdout" => Target::Stdout,
            b"stderr" => Target::Stderr,
            _ => Target::File(File::create(path).ok()?),
        }))
    };
    let Some(target) = TARGET.get_or_init(open) else { return };
    let Some(mut target) = fork::lock(target) else { return };
    let _ = match &mut *target {
        Target::Stdout => std::io::stdout().write_all(line.as_bytes()),
        Target::Stderr => std::io::stderr().write_all(line.as_bytes()),
        Target::File(file) => file.write_all(line.as_bytes()),
    };
}

/// The flags are reserved; the driver takes any.
pub unsafe fn cuLogsCurrent(iterator_out: *mut u32, _flags: u32) -> error::Result {
    let count = log().count;
    // SAFETY: the program's pointer.
    unsafe { put(iterator_out, count) }
}

/// # Safety
/// `iterator` is the program's pointer, or NULL.
unsafe fn start(iterator: *const u32) -> Option<u32> {
    // SAFETY: the caller's promise.
    unsafe { iterator.as_ref() }.copied()
}

pub unsafe fn cuLogsDumpToFile(iterator: *mut u32, pathToFile: *const c_char, _flags: u32) -> error::Result {
    // SAFETY: the program's pointers.
    let (path, start) = unsafe { (call::text(pathToFile), start(iterator)) };
    let path = OsStr::from_bytes(path.ok_or(error::INVALID_VALUE)?.to_bytes());
    let (text, count) = {
        let log = log();
        let (entries, rolled_over) = log.since(start).ok_or(error::INVALID_VALUE)?;
        (fit(&entries, rolled_over, usize::MAX).unwrap_or_default(), log.count)
    };
    std::fs::write(path, text).map_err(|_| error::INVALID_VALUE)?;
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { iterator.as_mut() } {
        *place = count;
    }
    Ok(())
}

pub unsafe fn cuLogsDumpToMemory(
    iterator: *mut u32,
    buffer: *mut u8,
    size: *mut usize,
    _flags: u32,
) -> error::Result {
    // SAFETY: the program's pointers, or NULL.
    let (size, start) = unsafe { (size.as_mut(), start(iterator)) };
    let size = size.filter(|_| !buffer.is_null()).ok_or(error::INVALID_VALUE)?;
    let room = std::mem::take(size);
    let (text, count) = {
        let log = log();
        let (entries, rolled_over) = log.since(start).ok_or(error::INVALID_VALUE)?;
        if entries.is_empty() {
            return Ok(());
        }
        (fit(&entries, rolled_over, room).ok_or(error::INVALID_VALUE)?, log.count)
    };
    // SAFETY: the program's buffer of `room` bytes, which the text and a NUL fit in.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    *size = text.len();
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { iterator.as_mut() } {
        *place = count;
    }
    Ok(())
}

pub unsafe fn cuLogsRegisterCallback(
    callbackFunc: u64,
    userData: *mut c_void,
    callback_out: *mut u64,
) -> error::Result {
    if callbackFunc == 0 {
        return Err(error::INVALID_VALUE);
    }
    let handle = handles::create(Kind::LogsCallback)?;
    let argument = userData.expose_provenance();
    log().callbacks.push(Callback { handle, function: callbackFunc, argument });
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { callback_out.as_mut() } {
        *place = handle;
    }
    Ok(())
}

pub unsafe fn cuLogsUnregisterCallback(callback: u64) -> error::Result {
    handles::check_logscallback(callback)?;
    log().callbacks.retain(|c| c.handle != callback);
    handles::remove(callback);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_entries_are_kept_where_not_all_fit() {
        let entries = ["one\n", "two\n", "three\n"];
        assert_eq!(fit(&entries, false, 15).as_deref(), Some("one\ntwo\nthree\n"));
        assert_eq!(fit(&entries, false, 14), None, "no room for the note");
        let room = MISSING.len() + 11;
        let long = "x".repeat(500) + "\n";
        let entries = [&long, "two\n", "three\n"];
        assert_eq!(fit(&entries, false, room), Some(format!("{MISSING}two\nthree\n")));
        assert_eq!(fit(&entries, false, room - 1), Some(format!("{MISSING}three\n")));
        assert_eq!(fit(&entries, false, MISSING.len() + 6), None);
        assert_eq!(fit(&["a\n"], true, 1000), Some(format!("{ROLLED_OVER}a\n")));
        assert_eq!(fit(&entries, false, 0), None);
    }

    #[test]
    fn an_iterator_beyond_the_end_is_none_and_an_old_one_says_what_is_missing() {
        let mut log = Log { entries: VecDeque::new(), count: 7, callbacks: Vec::new() };
        log.entries.extend(["f\n".to_owned(), "g\n".to_owned()]);
        assert_eq!(log.since(Some(8)), None);
        assert_eq!(log.since(Some(7)), Some((vec![], false)));
        assert_eq!(log.since(Some(6)), Some((vec!["g\n"], false)));
        assert_eq!(log.since(Some(5)), Some((vec!["f\n", "g\n"], false)));
        assert_eq!(log.since(Some(4)), Some((vec!["f\n", "g\n"], true)));
        assert_eq!(log.since(None), Some((vec!["f\n", "g\n"], true)));
    }
}
