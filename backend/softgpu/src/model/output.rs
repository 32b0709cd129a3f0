//! What kernels print: kept until a synchronization point, then written to the C library's `stdout`.
//!
//! The real driver prints at synchronization points, through the program's own `stdout`, so that the order with the
//! program's printf and any redirection hold.

use std::sync::{Mutex, PoisonError};

unsafe extern "C" {
    static stdout: *mut libc::FILE;
    static stderr: *mut libc::FILE;
}

/// Text kept at most before it is written at once.
const LIMIT: usize = 1 << 20;

/// Text that kernels of one context have printed.
#[derive(Debug, Default)]
pub struct Output(Mutex<Vec<u8>>);

impl Output {
    /// Adds what a kernel printed.
    pub fn append(&self, text: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(text);
        if kept.len() > LIMIT {
            write(&std::mem::take(&mut *kept));
        }
    }

    /// Writes what has been kept.
    pub fn flush(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_empty() {
            write(&std::mem::take(&mut *kept));
        }
    }
}

fn write(text: &[u8]) {
    // SAFETY: the C library's stdout is a stream for the life of the process.
    unsafe { write_to(stdout, text) }
}

/// Writes a line to the C library's `stderr`, at once: what a failed assertion says.
pub fn write_error(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: the C library's stderr is a stream for the life of the process.
    unsafe { write_to(stderr, line.as_bytes()) }
}

/// # Safety
/// `file` is a stream of the C library.
unsafe fn write_to(file: *mut libc::FILE, text: &[u8]) {
    // SAFETY: the caller's promise; the text's pointer and length belong together.
    unsafe {
        libc::fwrite(text.as_ptr().cast(), 1, text.len(), file);
        libc::fflush(file);
    }
}
