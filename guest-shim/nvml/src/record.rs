//! Which functions a program called: with `VGPU_CALLS=FILE` their names are appended to FILE at exit, one a line.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::Write,
    sync::{Mutex, Once, OnceLock, PoisonError},
};

static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

fn file() -> Option<&'static OsString> {
    static FILE: OnceLock<Option<OsString>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os("VGPU_CALLS").filter(|file| !file.is_empty())).as_ref()
}

/// Notes a call of `name`.
pub fn call(name: &'static str) {
    if file().is_some() {
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }
}

/// Has the names written when the process ends or the library is unloaded.
pub fn at_exit() {
    static REGISTERED: Once = Once::new();
    if file().is_some() {
        REGISTERED.call_once(|| {
            // SAFETY: an ordinary function that reads statics that are never dropped.
            unsafe { libc::atexit(write) };
        });
    }
}

/// In one write: several processes may share the file.
extern "C" fn write() {
    let Some(path) = file() else { return };
    let names = std::mem::take(&mut *NAMES.lock().unwrap_or_else(PoisonError::into_inner));
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        vgpu_client::warn!("recording calls in {}: {error}", path.display());
    }
}
