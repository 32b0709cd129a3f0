//! Names the system calls that are refused, for who looks for what a new driver needs.
//!
//! The kernel tells a thread of this process, which answers EPERM. In a process that was taken over the answer could be another: so only
//! where the log is at debug. The thread itself makes no call that is refused (which nobody would answer); a library function that has all
//! threads make one, as setuid(3) does, hangs there.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use super::calls;

/// Those refused so far.
static REFUSED: Mutex<Vec<i64>> = Mutex::new(Vec::new());

/// A thread that waits for its listener.
pub struct Reporter(Sender<OwnedFd>);

impl Reporter {
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("refusals".into()).spawn(move || {
            if let Ok(listener) = receiver.recv() {
                report(&listener);
            }
        })?;
        Ok(Reporter(sender))
    }

    /// Has it serve a listener, which says which calls are refused.
    pub fn listen(self, listener: OwnedFd) {
        // The thread waits for it, and ends with the process only.
        let _ = self.0.send(listener);
    }
}

/// The calls that were refused in this process, by name.
pub fn so_far() -> Vec<String> {
    let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    refused.iter().map(|&number| calls::name(number)).collect()
}

fn report(listener: &OwnedFd) {
    let mut said = HashSet::new();
    loop {
        let mut call = MaybeUninit::<libc::seccomp_notif>::zeroed();
        // SAFETY: room for what the kernel writes, zeroed as it wants.
        let result =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, call.as_mut_ptr()) };
        if result != 0 {
            match io::Error::last_os_error().raw_os_error() {
                // A signal; or a thread that was ended before it was heard.
                Some(libc::EINTR | libc::ENOENT) => continue,
                _ => return,
            }
        }
        // SAFETY: all bytes are valid, and the kernel has written them.
        let call = unsafe { call.assume_init() };
        let number = i64::from(call.data.nr);
        if said.insert(number) {
            REFUSED.lock().unwrap_or_else(PoisonError::into_inner).push(number);
            tracing::debug!(thread = call.pid, arguments = ?call.data.args, "refused system call {}", calls::name(number));
        }
        let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -libc::EPERM, flags: 0 };
        // SAFETY: an answer that lives during the call. It fails for a thread that is gone.
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    }
}
