//! TLS: the calling thread's current context, without the checks of cuCtxGetCurrent.

use super::slot::{Slot, Table, Uuid};
use super::{answer, host};

pub const ID: Uuid = Uuid::new("42d85a81-23f6-cb47-8298-f6e78a3aecdc");

pub static TABLE: Table<3> = Table::sized::<{ ID.prefix() }>(&[(2, current_context as Slot)]);

/// Stores NULL if no context is current.
///
/// # Safety
/// `context` must be null or valid for a write.
unsafe extern "C" fn current_context(context: *mut u64) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { answer(context, || Ok(host()?.current_context().unwrap_or(0))) }
}
