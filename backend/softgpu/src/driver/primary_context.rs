//! Primary contexts.

use std::sync::Arc;

use super::{Out, put, put_if_wanted};
use crate::model::context::{Context, are_valid};
use crate::model::handle::{Kind, new_handle};
use crate::model::{CudaError, Result, state};

/// Activates the device's primary context, or counts one more holder.
pub fn retain(ordinal: i32) -> Result<Arc<Context>> {
    let state = state()?;
    let device = state.device(ordinal)?;
    let mut primary = device.primary();
    device.check_fault()?;
    if primary.handle == 0 {
        primary.handle = new_handle(Kind::Context);
    }
    let (handle, flags) = (primary.handle, primary.flags);
    let context = primary.context.get_or_insert_with(|| {
        let context = Context::new(handle, device, flags, true);
        state.contexts.insert(handle, Arc::clone(&context));
        context
    });
    let context = Arc::clone(context);
    primary.references += 1;
    Ok(context)
}

/// Counts one holder less; the last one's going ends the context.
pub fn release(ordinal: i32) -> Result {
    let mut primary = state()?.device(ordinal)?.primary();
    if primary.references == 0 {
        return Err(CudaError::InvalidContext);
    }
    primary.references -= 1;
    if primary.references > 0 {
        return Ok(());
    }
    primary.context.take().map_or(Ok(()), |context| context.destroy())
}

driver_api! {
    /// Activates the device's primary context, or counts one more holder.
    fn cuDevicePrimaryCtxRetain(context: Out<'_, u64>, device: i32) {
        state()?.device(device)?;
        let out = context.ok_or(CudaError::InvalidValue)?;
        out.write(retain(device)?.handle());
        Ok(())
    }

    /// Counts one holder less; the last one's going ends the context.
    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        release(device)
    }

    /// Ends the primary context whoever holds it.
    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        let mut primary = state()?.device(device)?.primary();
        primary.references = 0;
        primary.context.take().map_or(Ok(()), |context| context.destroy())
    }

    /// Sets flags, for the active context too.
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let mut primary = state()?.device(device)?.primary();
        if !are_valid(flags) {
            return Err(CudaError::InvalidValue);
        }
        primary.flags = flags;
        primary.context.as_ref().map_or(Ok(()), |context| context.set_flags(flags))
    }

    /// Whether the primary context is active, and its flags.
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<'_, u32>, active: Out<'_, i32>) {
        let primary = state()?.device(device)?.primary();
        put_if_wanted(flags, primary.flags);
        put(active, i32::from(primary.context.is_some()))
    }
}
