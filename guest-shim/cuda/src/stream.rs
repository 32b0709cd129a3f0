//! Streams. A stream's words in the handle table: flags and priority (upper half), context.

use crate::{call::put, calls, client, context, error, event, handles};
use vgpu_spec::handle::Kind;

/// CU_STREAM_NON_BLOCKING.
const NON_BLOCKING: u32 = 1;

fn create(
    place: *mut u64,
    flags: u32,
    priority: i32,
    send: impl FnOnce(u64) -> error::Result,
) -> error::Result {
    if place.is_null() || flags > NON_BLOCKING {
        return Err(error::INVALID_VALUE);
    }
    let first = u64::from(flags) | u64::from(priority.cast_unsigned()) << 32;
    let stream = handles::create_with(Kind::Stream, first, context::current())?;
    if let Err(status) = send(stream) {
        handles::remove(stream);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(place, stream) }
}

pub unsafe fn cuStreamCreate(phStream: *mut u64, Flags: u32) -> error::Result {
    create(phStream, Flags, 0, |stream| calls::cuStreamCreate(stream, Flags))
}

/// A priority outside of the device's range is clamped, as the driver does.
pub unsafe fn cuStreamCreateWithPriority(phStream: *mut u64, flags: u32, priority: i32) -> error::Result {
    let (least, greatest) = client::get()?.devices.priorities(context::device()?)?;
    let priority = priority.clamp(greatest.min(least), least.max(greatest));
    create(phStream, flags, priority, |stream| calls::cuStreamCreateWithPriority(stream, flags, priority))
}

/// Flags, priority and context; the special streams belong to the current context.
fn describe(stream: u64) -> error::Result<(u32, i32, u64)> {
    if stream <= handles::SPECIAL_STREAMS {
        return Ok((0, 0, context::current()));
    }
    let (first, context) = handles::words(Kind::Stream, stream)?;
    Ok((first as u32, ((first >> 32) as u32).cast_signed(), context))
}

pub unsafe fn cuStreamGetFlags(hStream: u64, flags: *mut u32) -> error::Result {
    let (value, ..) = describe(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(flags, value) }
}

pub unsafe fn cuStreamGetPriority(hStream: u64, priority: *mut i32) -> error::Result {
    let (_, value, _) = describe(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(priority, value) }
}

pub unsafe fn cuStreamGetCtx(hStream: u64, pctx: *mut u64) -> error::Result {
    let (.., context) = describe(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(pctx, context) }
}

/// A stream's context; the special streams belong to the current one.
pub fn context_of(stream: u64) -> error::Result<u64> {
    describe(stream).map(|d| d.2)
}

/// No stream is of a green context: those are not supported yet.
pub unsafe fn cuStreamGetCtx_v2(hStream: u64, pCtx: *mut u64, pGreenCtx: *mut u64) -> error::Result {
    let (.., context) = describe(hStream)?;
    // SAFETY: the program's pointers.
    unsafe { put(pCtx, context).and_then(|()| put(pGreenCtx, 0)) }
}

pub unsafe fn cuStreamGetDevice(hStream: u64, device: *mut i32) -> error::Result {
    let (.., context) = describe(hStream)?;
    let ordinal = context::device_of(context)?;
    // SAFETY: the program's pointer.
    unsafe { put(device, ordinal) }
}

/// A number unique in this process's life: the handle for a stream of the program's; for the special ones it is made of context and,
/// for the per-thread stream, thread.
pub fn id_of(context: u64, stream: u64, per_thread: bool) -> error::Result<u64> {
    match stream {
        0 if per_thread => {
            Ok(context << 16 | 0x8000 | u64::from(vgpu_client::lanes::thread_number() & 0x7fff))
        }
        2 => Ok(context << 16 | 0x8000 | u64::from(vgpu_client::lanes::thread_number() & 0x7fff)),
        0 | 1 => Ok(context << 16 | 1),
        _ => handles::check_stream(stream).map(|()| stream),
    }
}

pub unsafe fn cuStreamGetId(hStream: u64, streamId: *mut u64) -> error::Result {
    let id = id_of(context::current(), hStream, false)?;
    // SAFETY: the program's pointer.
    unsafe { put(streamId, id) }
}

/// Waits in the stream for the event's last record.
pub unsafe fn cuStreamWaitEvent(hStream: u64, hEvent: u64, Flags: u32) -> error::Result {
    handles::check_stream(hStream)?;
    handles::check_event(hEvent)?;
    calls::cuStreamWaitEvent(hStream, hEvent, Flags)?;
    event::settle_if_shared(hEvent)
}
