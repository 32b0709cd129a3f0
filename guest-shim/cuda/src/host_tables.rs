//! What the export tables ask of the shim.

use crate::{client, context, entry, export_table, module, stream};
use std::ffi::c_void;

/// The shim, as the export tables see it.
pub struct Tables;

/// The one instance.
pub static HOST: Tables = Tables;

fn ordinal(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(-1)
}

impl export_table::Host for Tables {
    fn driver_version(&self) -> u32 {
        entry::driver_version()
    }

    fn device_count(&self) -> u32 {
        client::get().map_or(0, |c| u32::try_from(c.devices.len()).unwrap_or(0))
    }

    fn device_uuid(&self, number: u32) -> [u8; 16] {
        client::get().and_then(|c| c.devices.uuid(ordinal(number))).unwrap_or_default()
    }

    fn device_pci(&self, number: u32) -> (i32, i32, i32) {
        client::get().and_then(|c| c.devices.pci(ordinal(number))).unwrap_or_default()
    }

    fn primary_context(&self, number: i32) -> Result<u64, u32> {
        client::get()?.devices.primary(number)
    }

    fn current_context(&self) -> Option<u64> {
        Some(context::current()).filter(|&c| c != 0)
    }

    fn context_id(&self, context: u64) -> Result<u64, u32> {
        context::id_of(context)
    }

    fn stream_id(&self, context: u64, stream: u64, per_thread: bool) -> Result<u64, u32> {
        stream::id_of(context, stream, per_thread)
    }

    fn load_fatbin_wrapper(&self, wrapper: *const c_void) -> Result<u64, u32> {
        let mut module = 0;
        // SAFETY: the caller of the table passes a wrapper, as cudart does.
        unsafe { module::cuModuleLoadData(&raw mut module, wrapper.cast_mut()) }?;
        Ok(module)
    }

    fn module_functions(&self, _context: u64, module: u64) -> Result<Vec<u64>, u32> {
        module::functions(module, u32::MAX)
    }
}
