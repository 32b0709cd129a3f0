//! Events. An event's words in the handle table: flags, context.

use crate::{
    call::{self, put},
    calls, context, error, handles,
    sharing::{self, Thing},
    stream,
};
use vgpu_spec::handle::Kind;

/// CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS.
const FLAGS: u32 = 0x7;
const DISABLE_TIMING: u32 = 0x2;
const INTERPROCESS: u32 = 0x4;
/// Flags of an event that another process has made.
pub const OF_ANOTHER_PROCESS: u64 = (DISABLE_TIMING | INTERPROCESS) as u64;

pub unsafe fn cuEventCreate(phEvent: *mut u64, Flags: u32) -> error::Result {
    let interprocess_with_timing = Flags & INTERPROCESS != 0 && Flags & DISABLE_TIMING == 0;
    if phEvent.is_null() || Flags & !FLAGS != 0 || interprocess_with_timing {
        return Err(error::INVALID_VALUE);
    }
    let event = handles::create_with(Kind::Event, u64::from(Flags), context::current())?;
    if let Err(status) = calls::cuEventCreate(event, Flags) {
        handles::remove(event);
        return Err(status);
    }
    // SAFETY: checked above; the program's pointer.
    unsafe { put(phEvent, event) }
}

/// A process that is told of a record or of a wait relies on its being there: with an event of several processes, the call returns
/// when the driver has it.
pub fn settle_if_shared(event: u64) -> error::Result {
    match handles::words(Kind::Event, event) {
        Ok((flags, _)) if flags & u64::from(INTERPROCESS) != 0 => call::settle(),
        _ => Ok(()),
    }
}

pub unsafe fn cuEventRecord(hEvent: u64, hStream: u64) -> error::Result {
    handles::check_event(hEvent)?;
    handles::check_stream(hStream)?;
    calls::cuEventRecord(hEvent, hStream)?;
    settle_if_shared(hEvent)
}

pub unsafe fn cuEventRecordWithFlags(hEvent: u64, hStream: u64, flags: u32) -> error::Result {
    handles::check_event(hEvent)?;
    handles::check_stream(hStream)?;
    stream::check_external(hStream, flags)?;
    calls::cuEventRecordWithFlags(hEvent, hStream, flags)?;
    settle_if_shared(hEvent)
}

/// The driver takes a missing place for a missing handle (measured).
unsafe fn elapsed(
    place: *mut f32,
    start: u64,
    end: u64,
    ask: fn(&mut f32, u64, u64) -> error::Result,
) -> error::Result {
    // SAFETY: the program's pointer, or NULL.
    let place = unsafe { place.as_mut() }.ok_or(error::INVALID_HANDLE)?;
    handles::check_event(start)?;
    handles::check_event(end)?;
    ask(place, start, end)
}

pub unsafe fn cuEventElapsedTime(pMilliseconds: *mut f32, hStart: u64, hEnd: u64) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { elapsed(pMilliseconds, hStart, hEnd, calls::cuEventElapsedTime) }
}

pub unsafe fn cuEventElapsedTime_v2(pMilliseconds: *mut f32, hStart: u64, hEnd: u64) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { elapsed(pMilliseconds, hStart, hEnd, calls::cuEventElapsedTime_v2) }
}

pub unsafe fn cuEventDestroy_v2(hEvent: u64) -> error::Result {
    handles::check_event(hEvent)?;
    sharing::withdraw(Thing::Event(hEvent));
    let result = calls::cuEventDestroy_v2(hEvent);
    handles::remove(hEvent);
    result
}

pub unsafe fn cuEventDestroy(hEvent: u64) -> error::Result {
    // SAFETY: no pointers.
    unsafe { cuEventDestroy_v2(hEvent) }
}
