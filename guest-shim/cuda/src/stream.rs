//! Streams. A stream's words in the handle table: flags and priority (upper half), context.

use crate::{call::put, calls, capture, client, context, error, event, green_context, handles};
use vgpu_spec::{handle::Kind, plain::Blob8, result::CudaError};

/// CU_STREAM_NON_BLOCKING.
const NON_BLOCKING: u32 = 1;

fn create(
    place: *mut u64,
    flags: u32,
    priority: i32,
    send: impl FnOnce(u64) -> error::Result,
) -> error::Result {
    create_in(context::current(), place, flags, priority, send)
}

/// Makes a stream of `context`, which `send` tells the worker of.
pub fn create_in(
    context: u64,
    place: *mut u64,
    flags: u32,
    priority: i32,
    send: impl FnOnce(u64) -> error::Result,
) -> error::Result {
    if place.is_null() || flags > NON_BLOCKING {
        return Err(error::INVALID_VALUE);
    }
    let stream = handles::create_with(Kind::Stream, first_word(flags, priority), context)?;
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
pub fn clamp(device: i32, priority: i32) -> error::Result<i32> {
    let (least, greatest) = client::get()?.devices.priorities(device)?;
    Ok(priority.clamp(greatest.min(least), least.max(greatest)))
}

pub unsafe fn cuStreamCreateWithPriority(phStream: *mut u64, flags: u32, priority: i32) -> error::Result {
    let priority = clamp(context::device()?, priority)?;
    create(phStream, flags, priority, |stream| calls::cuStreamCreateWithPriority(stream, flags, priority))
}

/// The special streams have no end.
pub unsafe fn cuStreamDestroy_v2(hStream: u64) -> error::Result {
    if hStream <= handles::SPECIAL_STREAMS {
        return Err(error::INVALID_HANDLE);
    }
    handles::check_stream(hStream)?;
    let result = calls::cuStreamDestroy_v2(hStream);
    handles::remove(hStream);
    result
}

pub unsafe fn cuStreamDestroy(hStream: u64) -> error::Result {
    // SAFETY: no pointers.
    unsafe { cuStreamDestroy_v2(hStream) }
}

/// CU_STREAM_ATTRIBUTE_PRIORITY.
const PRIORITY: u32 = 8;

pub unsafe fn cuStreamSetAttribute(hStream: u64, attr: u32, param: *const Blob8<64>) -> error::Result {
    handles::check_stream(hStream)?;
    // SAFETY: the program's pointer, or NULL.
    let value = *unsafe { param.as_ref() }.ok_or(error::INVALID_VALUE)?;
    calls::cuStreamSetAttribute(hStream, attr, &[value])?;
    if attr == PRIORITY && hStream > handles::SPECIAL_STREAMS {
        let priority = i32::from_le_bytes([value.0[0], value.0[1], value.0[2], value.0[3]]);
        let (flags, _, context) = describe(hStream)?;
        let priority = clamp(context::device_of(context)?, priority)?;
        handles::set_word(hStream, 0, first_word(flags, priority));
    }
    Ok(())
}

/// Flags of a record or a wait: 1 (external) only makes sense in a capture.
pub fn check_external(stream: u64, flags: u32) -> error::Result {
    match flags {
        0 => Ok(()),
        1 if capture::captures(stream)? => Ok(()),
        1 => Err(CudaError::IllegalState as u32),
        _ => Err(error::INVALID_VALUE),
    }
}

pub unsafe fn cuStreamWaitEvent(hStream: u64, hEvent: u64, Flags: u32) -> error::Result {
    handles::check_stream(hStream)?;
    handles::check_event(hEvent)?;
    check_external(hStream, Flags)?;
    calls::cuStreamWaitEvent(hStream, hEvent, Flags)?;
    event::settle_if_shared(hEvent)
}

/// A stream's first word.
fn first_word(flags: u32, priority: i32) -> u64 {
    u64::from(flags) | u64::from(priority.cast_unsigned()) << 32
}

/// Flags, priority and context; the special streams belong to the current context.
fn describe(stream: u64) -> error::Result<(u32, i32, u64)> {
    if stream <= handles::SPECIAL_STREAMS {
        return Ok((0, 0, context::current()));
    }
    handles::check_stream(stream)?;
    let (first, context) = handles::words(Kind::Stream, stream)?;
    Ok((first as u32, ((first >> 32) as u32).cast_signed(), context))
}

pub unsafe fn cuStreamGetFlags(hStream: u64, flags: *mut u32) -> error::Result {
    let (value, ..) = describe(hStream)?;
    capture::refuse_capturing(hStream)?;
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

pub unsafe fn cuStreamGetCtx_v2(hStream: u64, pCtx: *mut u64, pGreenCtx: *mut u64) -> error::Result {
    if pCtx.is_null() && pGreenCtx.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (.., context) = describe(hStream)?;
    let green = green_context::shown(context);
    // SAFETY: the program's pointers; one of them may be NULL.
    unsafe {
        let _ = put(pCtx, green_context::owner(context));
        if let Some(place) = pGreenCtx.as_mut() {
            *place = green;
        }
    }
    Ok(())
}

pub unsafe fn cuStreamGetDevice(hStream: u64, device: *mut i32) -> error::Result {
    let (.., context) = describe(hStream)?;
    capture::refuse_capturing(hStream)?;
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
    capture::refuse_capturing(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(streamId, id) }
}

/// Ends the streams of a green context that ends.
pub fn end_of_context(context: u64) {
    for stream in handles::all(Kind::Stream) {
        if handles::words(Kind::Stream, stream).is_ok_and(|w| w.1 == context) {
            handles::remove(stream);
        }
    }
}
