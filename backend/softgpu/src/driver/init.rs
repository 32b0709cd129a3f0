//! Start, version, and the tables that softgpu does not have.

use std::ffi::c_void;

use super::{Out, put};
use crate::model::{CudaError, state, state::initialize};

/// CUDA 13.0.
pub const DRIVER_VERSION: i32 = 13_000;

driver_api! {
    /// Starts the driver. Flags must be 0.
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(CudaError::InvalidValue);
        }
        initialize()
    }

    /// The version of the driver API: 13000.
    fn cuDriverGetVersion(version: Out<'_, i32>) {
        put(version, DRIVER_VERSION)
    }

    /// There are no private tables: as for an unknown one, `INVALID_VALUE`.
    fn cuGetExportTable(table: Out<'_, *const c_void>, _id: Option<&[u8; 16]>) {
        put(table, std::ptr::null())?;
        Err(CudaError::InvalidValue)
    }

    /// Nothing profiles.
    fn cuProfilerStart() {
        state().map(drop)
    }

    /// Nothing profiles.
    fn cuProfilerStop() {
        state().map(drop)
    }
}
