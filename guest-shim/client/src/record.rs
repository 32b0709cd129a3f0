//! Which functions a program called: with `VGPU_CALLS=FILE` their names are appended to FILE at exit, one a line.
//!
//! `./scripts/test` makes the list of tested functions from it.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

/// 0: the environment was not read yet, 1: off, 2: on.
static STATE: AtomicU8 = AtomicU8::new(0);
static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Notes a call of `name`.
#[inline]
pub fn call(name: &'static str) {
    if STATE.load(Ordering::Relaxed) != 1 {
        note(name);
    }
}

#[cold]
fn note(name: &'static str) {
    if std::env::var_os("VGPU_CALLS").is_none_or(|f| f.is_empty()) {
        STATE.store(1, Ordering::Relaxed);
        return;
    }
    STATE.store(2, Ordering::Relaxed);
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
}

/// Has the names written when the process ends or the library is unloaded.
pub fn at_exit() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: an ordinary function that reads statics that are never dropped.
        unsafe { libc::atexit(write) };
    });
}

/// Appends the names to the file. In one write: several processes may share the file.
extern "C" fn write() {
    let Some(path) = std::env::var_os("VGPU_CALLS").filter(|f| !f.is_empty()) else { return };
    let names = std::mem::take(&mut *NAMES.lock().unwrap_or_else(PoisonError::into_inner));
    if names.is_empty() {
        return;
    }
    let text: String = names.iter().map(|n| format!("{n}\n")).collect();
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        crate::warn!("recording calls in {}: {error}", path.display());
    }
}
