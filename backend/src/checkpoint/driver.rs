//! The driver's checkpoint functions (CUDA 12.8, driver 570), by name: no binding has them.

use std::ffi::{CStr, OsString, c_char, c_void};
use std::path::Path;

/// CUDA_ERROR_UNKNOWN.
const UNKNOWN: u32 = 999;

/// Why the functions cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("loading the CUDA driver")]
    Load(#[source] libloading::Error),
    #[error("the driver cannot suspend processes: it has no {0} (NVIDIA's has it from version 570 on)")]
    Missing(&'static str),
    #[error("starting the driver: error {0}")]
    Init(u32),
}

/// What the functions take beside the process: `CUcheckpointLockArgs` and its kin, all 64 bytes, zeros where nothing is said.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    timeout_ms: u32,
    reserved0: u32,
    reserved1: [u64; 7],
}

type OnProcess = unsafe extern "C" fn(i32, *mut Arguments) -> u32;
type GetState = unsafe extern "C" fn(i32, *mut u32) -> u32;
type Init = unsafe extern "C" fn(u32) -> u32;
type ErrorText = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;

/// The functions.
pub struct Driver {
    state: GetState,
    lock: OnProcess,
    checkpoint: OnProcess,
    restore: OnProcess,
    unlock: OnProcess,
    name: Option<ErrorText>,
    /// Loaded as long as the functions may be called.
    _library: libloading::Library,
}

impl Driver {
    /// Loads the driver from `folder`, or from where the loader looks.
    pub fn load(folder: Option<&Path>) -> Result<Self, DriverError> {
        let file = folder.map_or_else(|| OsString::from("libcuda.so.1"), |f| f.join("libcuda.so").into());
        // SAFETY: the host's own driver, named by its administrator.
        let library = unsafe { libloading::Library::new(file) }.map_err(DriverError::Load)?;
        // SAFETY: the types are those of cuda.h.
        let driver = unsafe {
            Driver {
                state: function(&library, "cuCheckpointProcessGetState")?,
                lock: function(&library, "cuCheckpointProcessLock")?,
                checkpoint: function(&library, "cuCheckpointProcessCheckpoint")?,
                restore: function(&library, "cuCheckpointProcessRestore")?,
                unlock: function(&library, "cuCheckpointProcessUnlock")?,
                name: function(&library, "cuGetErrorName").ok(),
                _library: library,
            }
        };
        // SAFETY: its type.
        let init: Init = unsafe { function(&driver._library, "cuInit")? };
        // SAFETY: takes no pointer. Makes no context, so it takes no device memory.
        match unsafe { init(0) } {
            0 => Ok(driver),
            error => Err(DriverError::Init(error)),
        }
    }

    /// `CUprocessState`.
    pub fn state(&self, pid: i32) -> Result<u32, u32> {
        let mut state = 0;
        // SAFETY: a place that outlives the call.
        check(unsafe { (self.state)(pid, &raw mut state) })?;
        Ok(state)
    }

    /// Has the process's further calls wait. Fails if what is under way does not end in time; 0 waits for ever.
    pub fn lock(&self, pid: i32, timeout_ms: u32) -> Result<(), u32> {
        call(self.lock, pid, Arguments { timeout_ms, ..Arguments::default() })
    }

    /// Moves what a locked process has on devices to the host's memory.
    pub fn checkpoint(&self, pid: i32) -> Result<(), u32> {
        call(self.checkpoint, pid, Arguments::default())
    }

    /// Moves it back; the process stays locked.
    pub fn restore(&self, pid: i32) -> Result<(), u32> {
        call(self.restore, pid, Arguments::default())
    }

    pub fn unlock(&self, pid: i32) -> Result<(), u32> {
        call(self.unlock, pid, Arguments::default())
    }

    /// What an error is called.
    pub fn text(&self, code: u32) -> String {
        let mut name = std::ptr::null();
        // SAFETY: a place that outlives the call.
        let found = self.name.is_some_and(|get| unsafe { get(code, &raw mut name) } == 0);
        if !found || name.is_null() {
            return format!("error {code}");
        }
        // SAFETY: the driver's constant.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

fn check(code: u32) -> Result<(), u32> {
    // A code that is no CUresult must not be taken for a status of the link's own.
    if code == 0 { Ok(()) } else { Err(code.min(UNKNOWN)) }
}

fn call(function: OnProcess, pid: i32, mut arguments: Arguments) -> Result<(), u32> {
    // SAFETY: a structure of the API's size that outlives the call.
    check(unsafe { function(pid, &raw mut arguments) })
}

/// Looks a function up: among the exports, or as cuGetProcAddress knows it.
///
/// # Safety
/// `T` is its type.
unsafe fn function<T: Copy>(library: &libloading::Library, name: &'static str) -> Result<T, DriverError> {
    // SAFETY: the caller's promise.
    if let Ok(symbol) = unsafe { library.get::<T>(name.as_bytes()) } {
        return Ok(*symbol);
    }
    type Lookup = unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64, *mut u32) -> u32;
    const VERSION: i32 = 12_080;
    let missing = DriverError::Missing(name);
    let text = std::ffi::CString::new(name).map_err(|_| DriverError::Missing(name))?;
    // SAFETY: its type.
    let Ok(lookup) = (unsafe { library.get::<Lookup>(b"cuGetProcAddress_v2") }) else { return Err(missing) };
    let (mut place, mut found) = (std::ptr::null_mut(), 0);
    // SAFETY: a text with its NUL, and places that outlive the call.
    let status = unsafe { lookup(text.as_ptr(), &raw mut place, VERSION, 0, &raw mut found) };
    if status != 0 || place.is_null() {
        return Err(missing);
    }
    // SAFETY: a function's address; `T` is a function pointer, of a pointer's size.
    Ok(unsafe { std::mem::transmute_copy::<*mut c_void, T>(&place) })
}
