//! What kernels print. The driver writes it through the C library, what `printf` says to `stdout` and what a failed assertion says to
//! `stderr`: both are replaced here by streams that keep the text for the guest, so that nothing needs to be asked of the kernel to know
//! whether there is some.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The most bytes kept for the guest; what comes beyond is counted and left out.
const MAX_KEPT: usize = 16 << 20;

/// Where the guest's process is to write a text; the numbers of file descriptors, as `vgpuReadOutput` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    Out = 1,
    Err = 2,
}

#[derive(Debug)]
struct Kept {
    /// In the order in which they were written; neighbours are of different streams.
    texts: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
    left_out: u64,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { texts: VecDeque::new(), bytes: 0, left_out: 0 });
/// Whether something is kept: looked at for each reply, so without the lock.
static PENDING: AtomicBool = AtomicBool::new(false);

/// fopencookie(3), of the GNU C library.
#[repr(C)]
struct CookieFunctions {
    read: *const c_void,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> isize>,
    seek: *const c_void,
    close: *const c_void,
}

unsafe extern "C" {
    static mut stdout: *mut libc::FILE;
    static mut stderr: *mut libc::FILE;
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut libc::FILE;
    fn setvbuf(file: *mut libc::FILE, buffer: *mut c_char, mode: c_int, size: usize) -> c_int;
}

/// Replaces the C library's `stdout` and `stderr`. The file descriptors stay: this process itself logs to the second one, and what is
/// written to the first one directly joins the log.
///
/// # Errors
/// Of the C library; neither stream is replaced then.
pub fn capture() -> io::Result<()> {
    let (out, err) = (open(Stream::Out)?, open(Stream::Err)?);
    // SAFETY: single-threaded so far, and both are open streams that are never closed.
    unsafe { (stdout, stderr) = (out, err) };
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(())
}

fn open(stream: Stream) -> io::Result<*mut libc::FILE> {
    let write: unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> isize = match stream {
        Stream::Out => write_out,
        Stream::Err => write_err,
    };
    let functions =
        CookieFunctions { read: ptr::null(), write: Some(write), seek: ptr::null(), close: ptr::null() };
    // SAFETY: the functions fit the declaration and need no cookie; unbuffered, so that a text is here when its writer returns.
    unsafe {
        let file = fopencookie(ptr::null_mut(), c"w".as_ptr(), functions);
        if file.is_null() || setvbuf(file, ptr::null_mut(), libc::_IONBF, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}

/// # Safety
/// As fopencookie(3) calls it: `len` bytes at `text`.
unsafe extern "C" fn write_out(_: *mut c_void, text: *const c_char, len: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { write(Stream::Out, text, len) }
}

/// # Safety
/// As [`write_out`].
unsafe extern "C" fn write_err(_: *mut c_void, text: *const c_char, len: usize) -> isize {
    // SAFETY: the caller's promise.
    unsafe { write(Stream::Err, text, len) }
}

/// # Safety
/// `len` bytes at `text`.
unsafe fn write(stream: Stream, text: *const c_char, len: usize) -> isize {
    if len > 0 {
        // SAFETY: the caller's promise.
        let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).add(stream, text);
        PENDING.store(true, Ordering::Release);
    }
    isize::try_from(len).unwrap_or(isize::MAX)
}

impl Kept {
    fn add(&mut self, stream: Stream, text: &[u8]) {
        let room = MAX_KEPT.saturating_sub(self.bytes).min(text.len());
        let (text, beyond) = text.split_at(room);
        self.left_out += beyond.len() as u64;
        self.bytes += room;
        match self.texts.back_mut() {
            Some((last, bytes)) if *last == stream => bytes.extend_from_slice(text),
            _ => self.texts.push_back((stream, text.to_vec())),
        }
    }

    fn take(&mut self, room: usize) -> Option<(Stream, Vec<u8>)> {
        if self.left_out > 0 {
            let note = format!("\n[vgpu: {} bytes of output left out]\n", std::mem::take(&mut self.left_out));
            self.texts.push_back((Stream::Err, note.into_bytes()));
        }
        let (stream, text) = self.texts.front_mut()?;
        let stream = *stream;
        let rest = text.split_off(room.min(text.len()));
        let text = std::mem::replace(text, rest);
        self.bytes = self.bytes.saturating_sub(text.len());
        if self.texts.front().is_some_and(|(_, rest)| rest.is_empty()) {
            self.texts.pop_front();
        }
        Some((stream, text))
    }
}

/// Whether kernels have printed something that was not taken.
pub fn pending() -> bool {
    PENDING.load(Ordering::Acquire)
}

/// At most `room` bytes of what was printed next, all of one stream.
pub fn take(room: usize) -> Option<(Stream, Vec<u8>)> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = kept.take(room);
    PENDING.store(!kept.texts.is_empty(), Ordering::Release);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        Kept { texts: VecDeque::new(), bytes: 0, left_out: 0 }
    }

    #[test]
    fn texts_keep_their_order_and_streams() {
        let mut kept = kept();
        kept.add(Stream::Out, b"one ");
        kept.add(Stream::Out, b"two");
        kept.add(Stream::Err, b"failed");
        assert_eq!(kept.take(5), Some((Stream::Out, b"one t".to_vec())));
        assert_eq!(kept.take(64), Some((Stream::Out, b"wo".to_vec())));
        assert_eq!(kept.take(64), Some((Stream::Err, b"failed".to_vec())));
        assert_eq!((kept.take(64), kept.bytes), (None, 0));
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let mut kept = kept();
        kept.add(Stream::Out, &vec![b'x'; MAX_KEPT - 1]);
        kept.add(Stream::Out, b"yz");
        assert_eq!(kept.take(MAX_KEPT).map(|(_, text)| text.len()), Some(MAX_KEPT));
        let note = kept.take(64).map(|(stream, text)| (stream, String::from_utf8_lossy(&text).into_owned()));
        assert_eq!(note, Some((Stream::Err, "\n[vgpu: 1 bytes of output left out]\n".into())));
    }
}
