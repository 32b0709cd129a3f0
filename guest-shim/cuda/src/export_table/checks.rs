//! Checks: questions that the runtime asks of a context before some calls. The driver's answer is always "nothing to do".

use std::ffi::c_void;

use super::slot::{Slot, Table, Uuid};
use super::{answer, status};

pub const ID: Uuid = Uuid::new("263e8860-7cd2-6143-92f6-bbd5006dfa7e");

pub static TABLE: Table<15> =
    Table::sized::<{ ID.prefix() }>(&[(2, check_context as Slot), (3, check_process as Slot)]);

/// # Safety
/// `result` must be null or valid for a write. The driver leaves `detail` alone when the result is 0.
unsafe extern "C" fn check_context(_context: u64, result: *mut u32, _detail: *mut *const c_void) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { answer(result, || Ok(0)) }
}

extern "C" fn check_process() -> u32 {
    status::SUCCESS
}
