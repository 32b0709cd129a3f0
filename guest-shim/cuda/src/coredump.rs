//! Core dumps: what a program sets is kept and answered, and no core file is written. The host would write it, where the guest says.
//!
//! Types, defaults and which attributes a context has are as measured on the driver.

use crate::{client, context, error};
use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

/// CUcoredumpSettings.
const ENABLE_ON_EXCEPTION: u32 = 1;
const TRIGGER_HOST: u32 = 2;
const LIGHTWEIGHT: u32 = 3;
const ENABLE_USER_TRIGGER: u32 = 4;
const FILE: u32 = 5;
const PIPE: u32 = 6;
const GENERATION_FLAGS: u32 = 7;
/// CU_COREDUMP_SKIP_ABORT and CU_COREDUMP_LIGHTWEIGHT_FLAGS.
const SKIP_ABORT: u32 = 0x10;
const LIGHTWEIGHT_FLAGS: u32 = 0x2f;
/// Bytes of a text, its NUL included.
const TEXT: usize = 1024;
/// CU_CTX_COREDUMP_ENABLE.
const CONTEXT_ENABLES: u32 = 0x20;

#[derive(Clone, Default)]
struct Settings {
    enabled: bool,
    user_trigger: bool,
    flags: u32,
    file: Vec<u8>,
    pipe: Vec<u8>,
}

#[derive(Default)]
struct State {
    global: Settings,
    /// Contexts whose settings differ from the defaults.
    contexts: HashMap<u64, Settings>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn with<R>(use_it: impl FnOnce(&mut State) -> R) -> R {
    let mut state: MutexGuard<'_, Option<State>> = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    use_it(state.get_or_insert_with(State::default))
}

/// A context begins with the process's settings, and its own flags.
pub fn context_created(context: u64, flags: u32) {
    with(|state| {
        let mut settings = state.global.clone();
        if flags & CONTEXT_ENABLES != 0 {
            settings.enabled = true;
            warn();
        }
        state.contexts.insert(context, settings);
    });
}

pub fn context_destroyed(context: u64) {
    with(|state| state.contexts.remove(&context));
}

fn warn() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        vgpu_client::warn!("a core dump was asked for: the setting is kept, but no core file is written");
    });
}

/// Bytes of an attribute's value.
fn size_of(attribute: u32) -> error::Result<usize> {
    match attribute {
        ENABLE_ON_EXCEPTION..=ENABLE_USER_TRIGGER => Ok(1),
        FILE | PIPE => Ok(TEXT),
        GENERATION_FLAGS => Ok(4),
        _ => Err(error::INVALID_VALUE),
    }
}

impl Settings {
    fn get(&self, attribute: u32) -> Vec<u8> {
        match attribute {
            ENABLE_ON_EXCEPTION => vec![self.enabled.into()],
            TRIGGER_HOST => vec![(self.flags & SKIP_ABORT == 0).into()],
            LIGHTWEIGHT => vec![(self.flags & LIGHTWEIGHT_FLAGS == LIGHTWEIGHT_FLAGS).into()],
            ENABLE_USER_TRIGGER => vec![self.user_trigger.into()],
            FILE => self.file.clone(),
            PIPE => self.pipe.clone(),
            _ => self.flags.to_le_bytes().to_vec(),
        }
    }

    fn set(&mut self, attribute: u32, value: &[u8]) {
        let yes = value.first().is_some_and(|&b| b != 0);
        let until_nul = || value.split(|&b| b == 0).next().unwrap_or_default().to_vec();
        let mut flag = |bits: u32, on: bool| {
            self.flags = if on { self.flags | bits } else { self.flags & !bits };
        };
        match attribute {
            ENABLE_ON_EXCEPTION => self.enabled = yes,
            TRIGGER_HOST => flag(SKIP_ABORT, !yes),
            LIGHTWEIGHT => flag(LIGHTWEIGHT_FLAGS, yes),
            ENABLE_USER_TRIGGER => self.user_trigger = yes,
            FILE => self.file = until_nul(),
            PIPE => self.pipe = until_nul(),
            _ => {
                if let Ok(bytes) = value.try_into() {
                    self.flags = u32::from_le_bytes(bytes);
                }
            }
        }
        if yes && matches!(attribute, ENABLE_ON_EXCEPTION | ENABLE_USER_TRIGGER) {
            warn();
        }
    }
}

/// # Safety
/// `value` is NULL or has room for as many bytes as `size` says.
unsafe fn get(
    settings: impl FnOnce() -> Settings,
    attribute: u32,
    value: *mut c_void,
    size: *mut usize,
) -> error::Result {
    let want = size_of(attribute)?;
    // SAFETY: the program's pointer, or NULL.
    let size = unsafe { size.as_mut() }.ok_or(error::INVALID_VALUE)?;
    if value.is_null() {
        *size = want;
        return Ok(());
    }
    let mut bytes = settings().get(attribute);
    if want == TEXT {
        let Some(most) = size.checked_sub(1) else { return Ok(()) };
        bytes.truncate(most);
        bytes.push(0);
    } else if *size != want {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the caller's promise; no more bytes than `size`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), bytes.len()) };
    Ok(())
}

/// The bytes that a program sets; `None`: it asks for the size only.
///
/// # Safety
/// `value` is NULL or points to as many bytes as `size` says.
unsafe fn bytes<'a>(
    attribute: u32,
    value: *const c_void,
    size: *mut usize,
) -> error::Result<Option<&'a [u8]>> {
    let want = size_of(attribute)?;
    // SAFETY: the program's pointer, or NULL.
    let size = unsafe { size.as_mut() }.ok_or(error::INVALID_VALUE)?;
    if value.is_null() {
        *size = want;
        return Ok(None);
    }
    if *size > want || (want != TEXT && *size != want) {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    Ok(Some(unsafe { std::slice::from_raw_parts(value.cast(), *size) }))
}

/// The current context, for an attribute that contexts have.
fn current(attribute: u32) -> error::Result<u64> {
    client::get()?;
    context::require()?;
    match attribute {
        ENABLE_USER_TRIGGER | PIPE => Err(error::INVALID_VALUE),
        _ => Ok(context::current()),
    }
}

pub unsafe fn cuCoredumpGetAttribute(attrib: u32, value: *mut c_void, size: *mut usize) -> error::Result {
    let context = current(attrib)?;
    let settings = || with(|state| state.contexts.get(&context).cloned().unwrap_or_default());
    // SAFETY: the program's pointers.
    unsafe { get(settings, attrib, value, size) }
}

pub unsafe fn cuCoredumpGetAttributeGlobal(
    attrib: u32,
    value: *mut c_void,
    size: *mut usize,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { get(|| with(|state| state.global.clone()), attrib, value, size) }
}

pub unsafe fn cuCoredumpSetAttribute(attrib: u32, value: *mut c_void, size: *mut usize) -> error::Result {
    let context = current(attrib)?;
    // SAFETY: the program's pointers.
    if let Some(bytes) = unsafe { bytes(attrib, value, size) }? {
        with(|state| state.contexts.entry(context).or_default().set(attrib, bytes));
    }
    Ok(())
}

pub unsafe fn cuCoredumpSetAttributeGlobal(
    attrib: u32,
    value: *mut c_void,
    size: *mut usize,
) -> error::Result {
    // SAFETY: the program's pointers.
    if let Some(bytes) = unsafe { bytes(attrib, value, size) }? {
        with(|state| state.global.set(attrib, bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_settings_are_one() {
        let mut settings = Settings::default();
        assert_eq!(settings.get(TRIGGER_HOST), [1]);
        for (flags, lightweight, host) in [(0x1f_u32, 0, 0), (0x2f, 1, 1), (u32::MAX, 1, 0), (2, 0, 1)] {
            settings.set(GENERATION_FLAGS, &flags.to_le_bytes());
            assert_eq!(settings.get(LIGHTWEIGHT), [lightweight], "{flags:#x}");
            assert_eq!(settings.get(TRIGGER_HOST), [host], "{flags:#x}");
        }
        settings.set(TRIGGER_HOST, &[0]);
        settings.set(LIGHTWEIGHT, &[1]);
        assert_eq!(settings.get(GENERATION_FLAGS), 0x3f_u32.to_le_bytes());
        settings.set(FILE, b"name\0behind");
        assert_eq!(settings.get(FILE), b"name");
    }

    #[test]
    fn values_have_exactly_their_size_and_texts_at_most() {
        let value = [1_u8; 2048];
        for (attribute, mut size, fits) in [
            (ENABLE_ON_EXCEPTION, 1, true),
            (ENABLE_ON_EXCEPTION, 4, false),
            (GENERATION_FLAGS, 4, true),
            (GENERATION_FLAGS, 1, false),
            (FILE, 1024, true),
            (FILE, 1025, false),
            (0, 1, false),
            (8, 1, false),
        ] {
            // SAFETY: places of our own.
            let got = unsafe { bytes(attribute, value.as_ptr().cast(), &raw mut size) };
            assert_eq!(got.is_ok(), fits, "{attribute} {size}");
        }
    }
}
