//! The shim as the unit tests of the tables see it: two devices, one context, made-up handles.

use std::cell::Cell;
use std::ffi::c_void;

use super::{Host, status};

pub const PRIMARY_CONTEXT: u64 = 0x1000;
pub const MODULE: u64 = 0x2000;

thread_local! {
    static CURRENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes a context current in the calling thread.
pub fn set_current(context: Option<u64>) {
    CURRENT.set(context);
}

/// Connects the tables to the test's shim.
pub fn install() {
    super::install(&TestHost);
}

struct TestHost;

impl Host for TestHost {
    fn driver_version(&self) -> u32 {
        13000
    }

    fn device_count(&self) -> u32 {
        2
    }

    fn device_uuid(&self, ordinal: u32) -> [u8; 16] {
        let mut uuid = [0xA5; 16];
        uuid[15] = u8::try_from(ordinal).unwrap();
        uuid
    }

    fn device_pci(&self, ordinal: u32) -> (i32, i32, i32) {
        (0, 1 + i32::try_from(ordinal).unwrap(), 0)
    }

    fn primary_context(&self, ordinal: i32) -> Result<u64, u32> {
        if ordinal == 0 { Ok(PRIMARY_CONTEXT) } else { Err(101) }
    }

    fn current_context(&self) -> Option<u64> {
        CURRENT.get()
    }

    fn context_id(&self, context: u64) -> Result<u64, u32> {
        if context == PRIMARY_CONTEXT { Ok(0) } else { Err(status::INVALID_CONTEXT) }
    }

    fn stream_id(&self, _context: u64, stream: u64, per_thread: bool) -> Result<u64, u32> {
        Ok(stream + u64::from(per_thread) * 100)
    }

    fn load_fatbin_wrapper(&self, wrapper: *const c_void) -> Result<u64, u32> {
        // SAFETY: the tests pass a wrapper, whose first word is its magic.
        let magic = unsafe { wrapper.cast::<u32>().read() };
        if magic == 0x4662_43B1 { Ok(MODULE) } else { Err(status::INVALID_VALUE) }
    }

    fn module_functions(&self, context: u64, module: u64) -> Result<Vec<u64>, u32> {
        match (context, module) {
            (PRIMARY_CONTEXT, MODULE) => Ok(vec![0x31, 0x32]),
            _ => Err(status::INVALID_HANDLE),
        }
    }
}
