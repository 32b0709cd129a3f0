//! Hooks: one word for each runtime function, which a profiler sets to be called back.
//!
//! The runtime reads the words in front of every call. No profiler can attach here, so they stay zero.

use std::sync::atomic::AtomicU32;

use super::slot::{Slot, Table, Uuid};
use super::status;

pub const ID: Uuid = Uuid::new("a094798c-2e74-2e74-93f2-0800200c0a66");

// Runtime 13.0 wants more than 0x30 bytes here.
pub static TABLE: Table<7> =
    Table::sized::<{ ID.prefix() }>(&[(2, runtime_functions as Slot), (6, resources as Slot)]);

/// Runtime 13.0 refuses to start with 0x20a words or fewer; later ones have more functions.
static RUNTIME_FUNCTIONS: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];

/// Runtime 13.0 refuses to start with 0xd words or fewer.
static RESOURCES: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

/// # Safety
/// `words` and `count` must be null or valid for a write.
unsafe extern "C" fn runtime_functions(words: *mut *const AtomicU32, count: *mut usize) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { hand_out(&RUNTIME_FUNCTIONS, words, count) }
}

/// # Safety
/// `words` and `count` must be null or valid for a write.
unsafe extern "C" fn resources(words: *mut *const AtomicU32, count: *mut usize) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { hand_out(&RESOURCES, words, count) }
}

/// # Safety
/// `words` and `count` must be null or valid for a write.
unsafe fn hand_out(array: &'static [AtomicU32], words: *mut *const AtomicU32, count: *mut usize) -> u32 {
    if words.is_null() || count.is_null() {
        return status::INVALID_VALUE;
    }
    // SAFETY: not null, hence valid, as the caller promises.
    unsafe {
        words.write(array.as_ptr());
        count.write(array.len());
    }
    status::SUCCESS
}
