//! Contexts and the calling thread's stack of them.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use super::{Out, put, put_if_wanted};
use crate::model::context::Context;
use crate::model::graph::forbid_unsafe;
use crate::model::{CudaError, Result, current, state};

/// What every context answers to `cuCtxGetApiVersion`, as the real driver's.
const API_VERSION: u32 = 3020;
/// The greatest priority of a stream; the least is 0.
pub const GREATEST_PRIORITY: i32 = -5;

/// `CUctxCreateParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CreateParams {
    /// Execution affinities, which are not supported.
    pub affinities: *const c_void,
    /// How many.
    pub affinity_count: i32,
    /// Graphics sharing, which is not supported.
    pub cig: *const c_void,
}

fn create(context: Out<'_, u64>, flags: u32, device: i32) -> Result {
    let out = context.ok_or(CudaError::InvalidValue)?;
    let context = Context::create(state()?.device(device)?, flags)?;
    current::push(context.handle());
    out.write(context.handle());
    Ok(())
}

/// The context with this handle, or the current one for NULL.
fn context_or_current(handle: u64) -> Result<std::sync::Arc<Context>> {
    if handle == 0 {
        current::context()
    } else {
        state()?.contexts.get(handle).map_err(|_| CudaError::InvalidContext)
    }
}

driver_api! {
    /// Makes a context and makes it current.
    fn cuCtxCreate_v2(context: Out<'_, u64>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    /// Makes a context and makes it current. Execution affinities: `UNSUPPORTED_EXEC_AFFINITY`.
    fn cuCtxCreate_v3(context: Out<'_, u64>, _affinities: *const c_void, count: i32, flags: u32, device: i32) {
        if count != 0 {
            return Err(CudaError::UnsupportedExecAffinity);
        }
        create(context, flags, device)
    }

    /// Makes a context and makes it current. Execution affinities and graphics sharing are not supported.
    fn cuCtxCreate_v4(context: Out<'_, u64>, params: Option<&CreateParams>, flags: u32, device: i32) {
        match params {
            Some(params) if params.affinity_count != 0 => return Err(CudaError::UnsupportedExecAffinity),
            Some(params) if !params.cig.is_null() => return Err(CudaError::NotSupported),
            _ => {}
        }
        create(context, flags, device)
    }

    /// Ends a context that `cuCtxCreate` made.
    fn cuCtxDestroy_v2(context: u64) {
        let found = state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        if found.is_primary() {
            return Err(CudaError::InvalidContext);
        }
        if current::handle() == context {
            current::pop()?;
        }
        found.destroy()
    }

    /// Makes a context current on top of the current one.
    fn cuCtxPushCurrent_v2(context: u64) {
        state()?.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        current::push(context);
        Ok(())
    }

    /// Takes the current context off the stack.
    fn cuCtxPopCurrent_v2(context: Out<'_, u64>) {
        state()?;
        put_if_wanted(context, current::pop()?);
        Ok(())
    }

    /// Replaces the current context; NULL takes it off the stack.
    fn cuCtxSetCurrent(context: u64) {
        let state = state()?;
        // A primary context that ended can be current, and is again when it is activated.
        if context != 0 && primary_ordinal(context).is_none() {
            state.contexts.get(context).map_err(|_| CudaError::InvalidContext)?;
        }
        current::set(context);
        Ok(())
    }

    /// The current context; NULL if there is none.
    fn cuCtxGetCurrent(context: Out<'_, u64>) {
        state()?;
        put(context, current::handle())
    }

    /// The current context's device.
    fn cuCtxGetDevice(device: Out<'_, i32>) {
        let ordinal = match current::context() {
            Ok(context) => context.device().ordinal(),
            Err(error) => primary_ordinal(current::handle()).ok_or(error)?,
        };
        put(device, i32::try_from(ordinal).unwrap_or(i32::MAX))
    }

    /// A context's device.
    fn cuCtxGetDevice_v2(device: Out<'_, i32>, context: u64) {
        put(device, i32::try_from(context_or_current(context)?.device().ordinal()).unwrap_or(i32::MAX))
    }

    /// A context's API version: 3020.
    fn cuCtxGetApiVersion(context: u64, version: Out<'_, u32>) {
        context_or_current(context)?;
        put(version, API_VERSION)
    }

    /// The current context's flags.
    fn cuCtxGetFlags(flags: Out<'_, u32>) {
        put(flags, current::context()?.flags())
    }

    /// Sets the current context's flags.
    fn cuCtxSetFlags(flags: u32) {
        current::working_context()?.set_flags(flags)
    }

    /// A context's number, unique in the process.
    fn cuCtxGetId(context: u64, id: Out<'_, u64>) {
        put(id, context_or_current(context)?.id())
    }

    /// Waits for all work of the current context.
    fn cuCtxSynchronize() {
        current::context()?.synchronize()
    }

    /// Waits for all work of a context.
    fn cuCtxSynchronize_v2(context: u64) {
        context_or_current(context)?.synchronize()
    }

    /// A limit. Most are only kept: nothing here has a size that they would change.
    fn cuCtxGetLimit(value: Out<'_, usize>, limit: u32) {
        let context = current::working_context()?;
        let kept = context.limit(limit)?.load(Ordering::Relaxed);
        put(value, usize::try_from(kept).unwrap_or(usize::MAX))
    }

    /// Sets a limit.
    fn cuCtxSetLimit(limit: u32, value: usize) {
        forbid_unsafe()?;
        let context = current::working_context()?;
        context.limit(limit)?.store(u64::try_from(value).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    /// Stream priorities, which change nothing here.
    fn cuCtxGetStreamPriorityRange(least: Out<'_, i32>, greatest: Out<'_, i32>) {
        current::working_context()?;
        put_if_wanted(least, 0);
        put_if_wanted(greatest, GREATEST_PRIORITY);
        Ok(())
    }

    /// No preference.
    fn cuCtxGetCacheConfig(config: Out<'_, u32>) {
        current::working_context()?;
        put(config, 0)
    }

    /// Checked, without effect.
    fn cuCtxSetCacheConfig(config: u32) {
        forbid_unsafe()?;
        current::working_context()?;
        if config > 3 { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// Banks of four bytes.
    fn cuCtxGetSharedMemConfig(config: Out<'_, u32>) {
        current::working_context()?;
        put(config, 1)
    }

    /// Checked, without effect.
    fn cuCtxSetSharedMemConfig(config: u32) {
        forbid_unsafe()?;
        current::working_context()?;
        if config > 2 { Err(CudaError::InvalidValue) } else { Ok(()) }
    }

    /// All multiprocessors, as no execution affinity can be set.
    fn cuCtxGetExecAffinity(affinity: Out<'_, [u32; 2]>, kind: u32) {
        let context = current::working_context()?;
        let out = affinity.ok_or(CudaError::InvalidValue)?;
        if kind != 0 {
            return Err(CudaError::UnsupportedExecAffinity);
        }
        out.write([0, context.device().sm_count()]);
        Ok(())
    }

    /// Checked: no other device writes to this one's memory.
    fn cuFlushGPUDirectRDMAWrites(target: u32, scope: u32) {
        current::working_context()?;
        if target == 0 && matches!(scope, 100 | 200) { Ok(()) } else { Err(CudaError::InvalidValue) }
    }

    /// There is no persisting cache.
    fn cuCtxResetPersistingL2Cache() {
        current::working_context().map(drop)
    }

    /// Devices are not each other's peers.
    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) {
        current::working_context()?;
        state()?.contexts.get(peer).map_err(|_| CudaError::InvalidContext)?;
        if flags != 0 { Err(CudaError::InvalidValue) } else { Err(CudaError::PeerAccessUnsupported) }
    }

    /// Devices are not each other's peers.
    fn cuCtxDisablePeerAccess(peer: u64) {
        current::working_context()?;
        state()?.contexts.get(peer).map_err(|_| CudaError::InvalidContext)?;
        Err(CudaError::PeerAccessNotEnabled)
    }
}

/// The device of an inactive primary context, which a thread can still have current.
fn primary_ordinal(handle: u64) -> Option<u32> {
    if handle == 0 {
        return None;
    }
    let devices = state().ok()?.devices();
    devices.iter().find(|device| device.primary().handle == handle).map(|device| device.ordinal())
}
