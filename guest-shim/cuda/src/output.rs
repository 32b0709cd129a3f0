//! What kernels print and what failed assertions say: fetched when the worker says that there is something, and written as the driver
//! would.

use crate::calls;
use std::{cell::Cell, ffi::c_void};

/// The number that the worker gives to what belongs on stderr.
const STDERR: u32 = 2;
/// Room for one fetch, as the message has it.
const ROOM: usize = 65536;

unsafe extern "C" {
    /// The program's own streams: the driver prints through them too, so order and redirection are the program's.
    static stdout: *mut libc::FILE;
    static stderr: *mut libc::FILE;
}

thread_local! {
    static FETCHING: Cell<bool> = const { Cell::new(false) };
}

/// Fetches and writes all that was printed.
#[cold]
pub fn fetch() {
    if FETCHING.replace(true) {
        return;
    }
    let mut text = vec![0; ROOM];
    let (mut len, mut stream) = (0, 0);
    while calls::vgpuReadOutput(&mut text, &mut len, &mut stream).is_ok() && len > 0 {
        let written = text.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        // SAFETY: libc's streams are valid for the life of the process; the bytes are ours.
        unsafe {
            let file = if stream == STDERR { stderr } else { stdout };
            libc::fwrite(written.as_ptr().cast::<c_void>(), 1, written.len(), file);
            libc::fflush(file);
        }
    }
    FETCHING.set(false);
}
