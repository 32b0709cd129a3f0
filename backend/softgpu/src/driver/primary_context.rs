//! Primary contexts.

use std::sync::Arc;

use super::{Out, put, put_if_wanted};
use crate::model::context::{Context, FLAGS_MASK};
use crate::model::handle::{Kind, new_handle};
use crate::model::{CudaError, state};

driver_api! {
    /// Activates the device's primary context, or counts one more holder.
    fn cuDevicePrimaryCtxRetain(context: Out<'_, u64>, device: i32) {
        let state = state()?;
        let device = state.device(device)?;
        let out = context.ok_or(CudaError::InvalidValue)?;
        let mut primary = device.primary();
        device.check_fault()?;
        if primary.handle == 0 {
            primary.handle = new_handle(Kind::Context);
        }
        if primary.context.is_none() {
            let context = Context::new(primary.handle, device, primary.flags, true);
            state.contexts.insert(primary.handle, Arc::clone(&context));
            primary.context = Some(context);
        }
        primary.references += 1;
        out.write(primary.handle);
        Ok(())
    }

    /// Counts one holder less; the last one's going ends the context.
    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let mut primary = state()?.device(device)?.primary();
        if primary.references == 0 {
            return Err(CudaError::InvalidContext);
        }
        primary.references -= 1;
        if primary.references > 0 {
            return Ok(());
        }
        primary.context.take().map_or(Ok(()), |context| context.destroy())
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
        if flags & !FLAGS_MASK != 0 {
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
