//! What a forked child may do with its parent's client: nothing.
//!
//! CUDA itself does not work in a child that was forked after cuInit, and a lane has one driver: every call in the child must
//! return quickly. Windows and lane pages are not inherited (MADV_DONTFORK). The child's copy of the agent's socket is replaced,
//! since otherwise the agent could not see the parent's end while a child lives.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

static FORKED: AtomicBool = AtomicBool::new(false);
/// Sockets to replace in a child; −1 for none. A process has one client; tests have several.
static SOCKETS: [AtomicI32; 16] = [const { AtomicI32::new(-1) }; 16];
/// What the child gets in their place.
static PLACEHOLDER: AtomicI32 = AtomicI32::new(-1);

/// Whether this process was forked from one that had a client.
#[inline]
pub fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Locks what a forked child uses too. There it is `None` if a thread that the child has not got held it at the fork: nobody would
/// ever give it back.
pub fn lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    if !forked() {
        return Some(mutex.lock().unwrap_or_else(PoisonError::into_inner));
    }
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Installs the fork handler, once per process.
pub(crate) fn install() {
    static PLACEHOLDER_FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();
    PLACEHOLDER_FILE.get_or_init(|| {
        let file = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        PLACEHOLDER.store(file.as_ref().map_or(-1, |f| f.as_raw_fd()), Ordering::Relaxed);
        // SAFETY: the handler only stores to atomics and calls dup3: it is async-signal-safe, as pthread_atfork requires.
        let failed = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        if failed != 0 {
            crate::warn!("installing the fork handler: error {failed}; a forked child must not use CUDA");
        }
        file
    });
}

/// Replaces `socket` in children from now on, until [`forget_socket`].
pub(crate) fn remember_socket(socket: &OwnedFd) {
    for entry in &SOCKETS {
        let taken = entry.compare_exchange(-1, socket.as_raw_fd(), Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            return;
        }
    }
}

/// Call before `socket` is closed.
pub(crate) fn forget_socket(socket: &OwnedFd) {
    for entry in &SOCKETS {
        let _ = entry.compare_exchange(socket.as_raw_fd(), -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
    crate::in_place::in_child();
    let placeholder = PLACEHOLDER.load(Ordering::Relaxed);
    for entry in &SOCKETS {
        let socket = entry.swap(-1, Ordering::Relaxed);
        if socket >= 0 && placeholder >= 0 {
            // SAFETY: both descriptors are open in the child. The number stays valid for its owner, which may still close it.
            unsafe { libc::dup3(placeholder, socket, libc::O_CLOEXEC) };
        }
    }
}
