//! Identifiers of contexts and streams. cuBLAS (12.4 and later) and cuFFT ask for them, and runtime 13.5 looks the
//! table up too. Without it cuBLAS fails with CUBLAS_STATUS_NOT_SUPPORTED.

use super::slot::{Slot, Table, Uuid};
use super::{answer, host, resolve_context, status};

pub const ID: Uuid = Uuid::new("21318c60-9714-3248-8ca6-41ff7324c8f2");

pub static TABLE: Table<93> = Table::sized::<{ ID.prefix() }>(&[
    (4, context_id as Slot),
    (39, stream_object_id as Slot),
    (51, stream_object as Slot),
]);

/// The driver's own stream object, to which a caller has only an opaque pointer. Here it is the stream's id
/// plus one: never null, and nothing to free when the stream ends.
type StreamObject = u64;

/// # Safety
/// `id` must be null or valid for a write.
unsafe extern "C" fn context_id(context: u64, id: *mut u64) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { answer(id, || host()?.context_id(resolve_context(context)?)) }
}

/// # Safety
/// `object` must be null or valid for a write.
unsafe extern "C" fn stream_object(
    context: u64,
    stream: u64,
    object: *mut StreamObject,
    per_thread: u32,
) -> u32 {
    let find = || {
        let id = host()?.stream_id(resolve_context(context)?, stream, per_thread != 0)?;
        id.checked_add(1).ok_or(status::INVALID_HANDLE)
    };
    // SAFETY: as the caller promises.
    unsafe { answer(object, find) }
}

/// # Safety
/// `id` must be null or valid for a write.
unsafe extern "C" fn stream_object_id(_context: u64, object: StreamObject, id: *mut u64) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { answer(id, || object.checked_sub(1).ok_or(status::INVALID_HANDLE)) }
}
