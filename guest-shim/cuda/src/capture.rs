//! Stream capture. Capturing is not supported yet, so no stream captures and the queries say so; the mode is kept per thread.

use crate::{call::put, error, handles};
use std::{cell::Cell, ffi::c_void};

/// CU_STREAM_CAPTURE_STATUS_NONE.
const NONE: u32 = 0;
/// CU_STREAM_CAPTURE_MODE_GLOBAL, _THREAD_LOCAL and _RELAXED are 0, 1 and 2.
const LAST_MODE: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(0) };
}

pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> error::Result {
    // SAFETY: the program's pointer.
    let place = unsafe { mode.as_mut() }.ok_or(error::INVALID_VALUE)?;
    if *place > LAST_MODE {
        return Err(error::INVALID_VALUE);
    }
    *place = MODE.replace(*place);
    Ok(())
}

pub unsafe fn cuStreamIsCapturing(hStream: u64, captureStatus: *mut u32) -> error::Result {
    handles::check_stream(hStream)?;
    // SAFETY: the program's pointer.
    unsafe { put(captureStatus, NONE) }
}

pub unsafe fn cuStreamGetCaptureInfo(
    hStream: u64,
    captureStatus_out: *mut u32,
    _id_out: *mut u64,
) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { cuStreamIsCapturing(hStream, captureStatus_out) }
}

pub unsafe fn cuStreamGetCaptureInfo_v2(
    hStream: u64,
    captureStatus_out: *mut u32,
    _id_out: *mut u64,
    _graph_out: *mut u64,
    _dependencies_out: *mut *mut c_void,
    _numDependencies_out: *mut usize,
) -> error::Result {
    // SAFETY: the program's pointer; the others are written only for a capturing stream.
    unsafe { cuStreamIsCapturing(hStream, captureStatus_out) }
}

pub unsafe fn cuStreamGetCaptureInfo_v3(
    hStream: u64,
    captureStatus_out: *mut u32,
    _id_out: *mut u64,
    _graph_out: *mut u64,
    _dependencies_out: *mut *mut c_void,
    _edgeData_out: *mut *mut c_void,
    _numDependencies_out: *mut usize,
) -> error::Result {
    // SAFETY: the program's pointer; the others are written only for a capturing stream.
    unsafe { cuStreamIsCapturing(hStream, captureStatus_out) }
}
