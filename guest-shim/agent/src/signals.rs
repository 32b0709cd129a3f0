//! SIGTERM and SIGINT as messages.

use crate::service::Stop;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

/// Blocks the two signals in this thread and those that it starts later, so that only [`watch`] gets them.
pub fn block() -> libc::sigset_t {
    // SAFETY: the set is initialised by sigemptyset before it is read, and lives on this stack.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Starts a thread that sends [`Stop::Signal`] at each of the signals in `set`. Before `serving` is set nobody listens, so
/// the process ends at once, as it does at a second signal.
pub fn watch(set: libc::sigset_t, serving: Arc<AtomicBool>, stop: Sender<Stop>) -> io::Result<()> {
    let wait = move || {
        for count in 0.. {
            let mut signal = 0;
            // SAFETY: `set` is initialised, `signal` outlives the call.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
                return;
            }
            if count > 0 || !serving.load(Ordering::SeqCst) {
                std::process::exit(128 + signal);
            }
            let _ = stop.send(Stop::Signal(signal));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}
