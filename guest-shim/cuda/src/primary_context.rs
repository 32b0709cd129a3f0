//! Primary contexts: retained once in the worker, counted here.

use crate::{call::put, calls, client, context, coredump, error, handles};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vgpu_spec::result::CudaError;

#[derive(Default, Clone, Copy)]
struct State {
    retains: u32,
    flags: u32,
    /// The worker knows the handle.
    in_worker: bool,
}

static STATES: Mutex<Vec<State>> = Mutex::new(Vec::new());

/// CU_CTX_SCHED_* and the other flags that may be set beforehand: CU_CTX_MAP_HOST is not one (measured).
const FLAGS: u32 = 0x17 | 0x20 | 0x40 | 0x80;

fn states(device: i32) -> error::Result<(MutexGuard<'static, Vec<State>>, usize)> {
    client::get()?.devices.primary(device)?;
    let index = usize::try_from(device).map_err(|_| error::INVALID_DEVICE)?;
    let mut states = STATES.lock().unwrap_or_else(PoisonError::into_inner);
    if states.len() <= index {
        states.resize(index + 1, State::default());
    }
    Ok((states, index))
}

/// Retains the device's primary context.
pub fn retain(dev: i32) -> error::Result<u64> {
    let devices = &client::get()?.devices;
    let context = devices.primary(dev)?;
    let host = devices.host_ordinal(dev)?;
    let (mut states, index) = states(dev)?;
    if !states[index].in_worker {
        calls::vgpuPrimaryContextRetain(context, host, states[index].flags)?;
        states[index].in_worker = true;
    }
    if states[index].retains == 0 {
        coredump::context_created(context, states[index].flags);
    }
    states[index].retains += 1;
    handles::set_word(context, 1, u64::from(states[index].flags));
    Ok(context)
}

pub unsafe fn cuDevicePrimaryCtxRetain(pctx: *mut u64, dev: i32) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { put(pctx, retain(dev)?) }
}

/// The last release resets the context, as the driver destroys it then.
pub fn release(dev: i32) -> error::Result {
    let (mut states, index) = states(dev)?;
    match states[index].retains {
        0 => return Err(error::INVALID_CONTEXT),
        1 => {}
        _ => {
            states[index].retains -= 1;
            return Ok(());
        }
    }
    states[index] = State::default();
    drop(states);
    reset(dev)
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(dev: i32) -> error::Result {
    release(dev)
}

pub unsafe fn cuDevicePrimaryCtxRelease(dev: i32) -> error::Result {
    release(dev)
}

fn reset(device: i32) -> error::Result {
    let devices = &client::get()?.devices;
    let context = devices.primary(device)?;
    let result = calls::vgpuPrimaryContextReset(devices.host_ordinal(device)?);
    context::forget(context);
    result
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(dev: i32) -> error::Result {
    let (mut states, index) = states(dev)?;
    let active = states[index].in_worker;
    // The worker retains it again when the program does: what is reset is not active.
    states[index] = State::default();
    drop(states);
    if active { reset(dev) } else { Ok(()) }
}

pub unsafe fn cuDevicePrimaryCtxReset(dev: i32) -> error::Result {
    // SAFETY: no pointers.
    unsafe { cuDevicePrimaryCtxReset_v2(dev) }
}

fn check_flags(flags: u32) -> error::Result {
    if flags & !FLAGS != 0 || !context::valid_flags(flags) { Err(error::INVALID_VALUE) } else { Ok(()) }
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) -> error::Result {
    check_flags(flags)?;
    let (mut states, index) = states(dev)?;
    states[index].flags = flags;
    handles::set_word(client::get()?.devices.primary(dev)?, 1, u64::from(flags));
    Ok(())
}

/// The first version does not change a context that there is.
pub unsafe fn cuDevicePrimaryCtxSetFlags(dev: i32, flags: u32) -> error::Result {
    check_flags(flags)?;
    let (states, index) = states(dev)?;
    let active = states[index].retains > 0;
    drop(states);
    if active {
        return Err(CudaError::PrimaryContextActive as u32);
    }
    // SAFETY: no pointers.
    unsafe { cuDevicePrimaryCtxSetFlags_v2(dev, flags) }
}

pub unsafe fn cuDevicePrimaryCtxGetState(dev: i32, flags: *mut u32, active: *mut i32) -> error::Result {
    let (states, index) = states(dev)?;
    let state = states[index];
    // SAFETY: the program's pointers.
    unsafe { put(flags, state.flags).and_then(|()| put(active, i32::from(state.retains > 0))) }
}
