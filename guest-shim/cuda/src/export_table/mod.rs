//! cuGetExportTable: private tables of functions that NVIDIA's own libraries look up by UUID.
//!
//! Every copy of the CUDA runtime (libcudart, and the ones inside cuBLAS, cuDNN, NCCL, …) asks for the first
//! six tables when it starts and does not work without them; cuBLAS and cuFFT ask for the rest. All of them are
//! listed in [`TABLES`], each declared in the file of its noun, with the number of slots that the 580 driver has.
//! A slot that is not implemented refuses with CUDA_ERROR_NOT_SUPPORTED and says so once, so a caller never jumps
//! to NULL.
//!
//! Deliberately absent, hence refused like an unknown UUID: the error log
//! (f8cff951-2146-8b4e-b9e4-fb469e7c0dd9), nvrtc's da9151d3-3ae6-cc41-a5c0-4f26d533e328, and CUPTI's
//! 2c8e0ad8-0710-ab4e-90dd-54719fe5f74b, whose users degrade by themselves.

use std::ffi::c_void;
use std::sync::OnceLock;

mod checks;
mod context_storage;
mod cudart;
mod hooks;
mod md2;
mod modules;
mod self_test;
mod slot;
mod streams;
#[cfg(test)]
mod test_host;
mod tls;
mod topology;

pub use context_storage::context_destroyed;
use slot::{Start, Uuid};

/// CUresult values that the tables return.
mod status {
    pub const SUCCESS: u32 = 0;
    pub const INVALID_VALUE: u32 = 1;
    pub const NOT_INITIALIZED: u32 = 3;
    pub const INVALID_CONTEXT: u32 = 201;
    pub const INVALID_HANDLE: u32 = 400;
    pub const NOT_SUPPORTED: u32 = 801;
}

/// What the tables need from the shim. Handles are the values that the program sees; errors are CUresult values.
pub trait Host: Sync + 'static {
    /// What cuDriverGetVersion reports, such as 13000.
    fn driver_version(&self) -> u32;

    /// What cuDeviceGetCount reports: the devices visible to this process.
    fn device_count(&self) -> u32;

    /// What cuDeviceGetUuid reports for the device at `ordinal`.
    fn device_uuid(&self, ordinal: u32) -> [u8; 16];

    /// Domain, bus and device, exactly as cuDeviceGetAttribute reports them.
    fn device_pci(&self, ordinal: u32) -> (i32, i32, i32);

    /// The handle of a device's primary context, which is neither retained nor activated.
    fn primary_context(&self, ordinal: i32) -> Result<u64, u32>;

    /// The calling thread's current context.
    fn current_context(&self) -> Option<u64>;

    /// What cuCtxGetId reports.
    fn context_id(&self, context: u64) -> Result<u64, u32>;

    /// What cuStreamGetId reports, or its `_ptsz` form if `per_thread`.
    fn stream_id(&self, context: u64, stream: u64, per_thread: bool) -> Result<u64, u32>;

    /// Loads the fatbin that a wrapper (magic 0x466243B1) leads to into the current context and returns its module.
    fn load_fatbin_wrapper(&self, wrapper: *const c_void) -> Result<u64, u32>;

    /// What cuModuleEnumerateFunctions reports: the same handles.
    fn module_functions(&self, context: u64, module: u64) -> Result<Vec<u64>, u32>;
}

/// One table as cuGetExportTable hands it out.
struct Entry {
    id: Uuid,
    table: &'static dyn Start,
}

/// Every table that exists.
static TABLES: [Entry; 9] = [
    Entry { id: cudart::ID, table: &cudart::TABLE },
    Entry { id: hooks::ID, table: &hooks::TABLE },
    Entry { id: tls::ID, table: &tls::TABLE },
    Entry { id: context_storage::ID, table: &context_storage::TABLE },
    Entry { id: checks::ID, table: &checks::TABLE },
    Entry { id: self_test::ID, table: &self_test::TABLE },
    Entry { id: streams::ID, table: &streams::TABLE },
    Entry { id: modules::ID, table: &modules::TABLE },
    Entry { id: topology::ID, table: &topology::TABLE },
];

static HOST: OnceLock<&'static dyn Host> = OnceLock::new();
static LOG: OnceLock<fn(&str)> = OnceLock::new();

/// Connects the tables to the shim. The first call counts; until then every slot that needs the shim returns
/// CUDA_ERROR_NOT_INITIALIZED.
pub fn install(host: &'static dyn Host) {
    let _ = HOST.set(host);
}

/// Sets where a refused slot is named, once for each slot. The first call counts.
pub fn set_log(log: fn(&str)) {
    let _ = LOG.set(log);
}

/// cuGetExportTable. Returns CUDA_ERROR_INVALID_VALUE for a UUID that is not known and for a null argument;
/// `table` is null then. A table stays valid and at the same address until the process ends.
///
/// # Safety
/// `table` must be null or valid for a write, `id` null or valid for a read.
pub unsafe fn get_export_table(table: *mut *const c_void, id: *const [u8; 16]) -> u32 {
    if table.is_null() {
        return status::INVALID_VALUE;
    }
    // SAFETY: not null, hence valid, as the caller promises.
    unsafe { table.write(std::ptr::null()) };
    if id.is_null() {
        return status::INVALID_VALUE;
    }
    // SAFETY: not null, hence valid, as the caller promises. A CUuuid is 16 bytes without alignment.
    let id = unsafe { id.read() };
    let Some(entry) = TABLES.iter().find(|entry| entry.id.0 == id) else {
        return status::INVALID_VALUE;
    };
    // SAFETY: as above.
    unsafe { table.write(entry.table.start()) };
    status::SUCCESS
}

/// The shim, or CUDA_ERROR_NOT_INITIALIZED.
fn host() -> Result<&'static dyn Host, u32> {
    HOST.get().copied().ok_or(status::NOT_INITIALIZED)
}

fn log(message: &str) {
    if let Some(log) = LOG.get() {
        log(message);
    }
}

/// The context that a handle argument means: NULL and (CUcontext)-1 stand for the thread's current one.
fn resolve_context(context: u64) -> Result<u64, u32> {
    match context {
        0 | u64::MAX => host()?.current_context().ok_or(status::INVALID_CONTEXT),
        context => Ok(context),
    }
}

/// Stores the value of a successful call in `out` and returns the status.
///
/// # Safety
/// `out` must be null or valid for a write.
unsafe fn answer<T>(out: *mut T, value: impl FnOnce() -> Result<T, u32>) -> u32 {
    if out.is_null() {
        return status::INVALID_VALUE;
    }
    match value() {
        Ok(value) => {
            // SAFETY: not null, hence valid, as the caller promises.
            unsafe { out.write(value) };
            status::SUCCESS
        }
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests;
