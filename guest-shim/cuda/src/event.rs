//! Events. An event's words in the handle table: flags, context.

use crate::{call::put, calls, context, error, handles, stream};
use vgpu_spec::handle::Kind;

/// CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS.
const FLAGS: u32 = 0x7;
const DISABLE_TIMING: u32 = 0x2;
const INTERPROCESS: u32 = 0x4;

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

pub unsafe fn cuEventRecordWithFlags(hEvent: u64, hStream: u64, flags: u32) -> error::Result {
    handles::check_event(hEvent)?;
    handles::check_stream(hStream)?;
    stream::check_external(hStream, flags)?;
    calls::cuEventRecordWithFlags(hEvent, hStream, flags)
}
