//! Threads of our own. A program's signals are for the program's threads: in ours they are blocked.

use std::{ffi::c_int, io, mem::MaybeUninit, ptr::null_mut};

/// Starts a thread in which every signal is blocked but those of `open`.
///
/// # Errors
/// As [`std::thread::Builder::spawn`].
pub fn spawn(name: &str, open: &[c_int], run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = std::thread::Builder::new().name(name.into());
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are places of our own; `old` is filled by the first call that has it before the second reads it.
    let started = unsafe {
        let mut blocked = std::mem::zeroed();
        libc::sigfillset(&raw mut blocked);
        for &signal in open {
            libc::sigdelset(&raw mut blocked, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const blocked, old.as_mut_ptr());
        let started = builder.spawn(run);
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), null_mut());
        started
    };
    started.map(drop)
}
