//! Functions (in a context) and kernels (of a library, in any context).

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::context::Context;
use super::handle::{self, Kind};
use super::library::Library;
use super::module::Module;
use super::{CudaError, Result, state};
use crate::exec;
use crate::ptx::{KernelInfo, Param};

/// Bytes of shared memory that a block may have without asking for more.
pub const SHARED_DEFAULT: u32 = 48 << 10;
/// Bytes that it may have if asked for (`MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`).
pub const SHARED_OPT_IN: u32 = 227 << 10;
/// Numbers of function attributes (`CUfunction_attribute`).
const ATTRIBUTES: usize = 16;
const MAX_DYNAMIC_SHARED: u32 = 8;

/// What a kernel is and what has been set for it.
#[derive(Debug)]
pub struct Entry {
    name: CString,
    info: KernelInfo,
    /// Values by attribute; only those that can be set are looked at.
    settings: [AtomicI32; ATTRIBUTES],
}

impl Entry {
    /// A kernel as nothing has been set for it.
    pub fn new(info: &KernelInfo) -> Result<Arc<Entry>> {
        let name = CString::new(info.name.as_str()).map_err(|_| CudaError::InvalidPtx)?;
        let mut settings = [0; ATTRIBUTES];
        let room = SHARED_DEFAULT.saturating_sub(info.static_shared);
        settings[MAX_DYNAMIC_SHARED as usize] = i32::try_from(room).unwrap_or(0);
        settings[9] = -1;
        Ok(Arc::new(Entry { name, info: info.clone(), settings: settings.map(AtomicI32::new) }))
    }

    /// Its name, which lives as long as this.
    pub fn name(&self) -> &CString {
        &self.name
    }

    /// What its PTX says.
    pub fn info(&self) -> &KernelInfo {
        &self.info
    }

    /// Parameter `index`; `INVALID_VALUE` behind the last.
    pub fn param(&self, index: usize) -> Result<Param> {
        self.info.params.get(index).copied().ok_or(CudaError::InvalidValue)
    }

    /// Threads in a block at most.
    pub fn max_threads(&self) -> u32 {
        self.info.max_threads.unwrap_or(1024).min(1024)
    }

    /// Bytes of dynamic shared memory at most.
    pub fn max_dynamic_shared(&self) -> u32 {
        let set = self.settings.get(MAX_DYNAMIC_SHARED as usize).map(|value| value.load(Ordering::Relaxed));
        set.and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
    }

    /// The answer to `cuFuncGetAttribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        Ok(match attribute {
            0 => number(self.max_threads()),
            1 => number(self.info.static_shared),
            2 | 7 => 0,
            3 => number(self.info.local_bytes),
            // Registers: a figure that lets every block size run.
            4 => 32,
            5 | 6 => 90,
            8..=15 => self.setting(attribute)?.load(Ordering::Relaxed),
            _ => return Err(CudaError::InvalidValue),
        })
    }

    /// What `cuFuncSetAttribute` does. Cluster sizes above one are refused: there are no clusters.
    pub fn set_attribute(&self, attribute: u32, value: i32) -> Result {
        let is_valid = match attribute {
            MAX_DYNAMIC_SHARED => {
                let room = SHARED_OPT_IN.saturating_sub(self.info.static_shared);
                u32::try_from(value).is_ok_and(|value| value <= room)
            }
            9 => (-1..=100).contains(&value),
            11..=13 if value > 1 => return Err(CudaError::NotSupported),
            11..=13 => value >= 0,
            14 | 15 => true,
            _ => false,
        };
        if !is_valid {
            return Err(CudaError::InvalidValue);
        }
        self.setting(attribute)?.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn setting(&self, attribute: u32) -> Result<&AtomicI32> {
        let index = usize::try_from(attribute).map_err(|_| CudaError::InvalidValue)?;
        self.settings.get(index).ok_or(CudaError::InvalidValue)
    }
}

/// A `CUfunction`.
pub struct Function {
    handle: u64,
    context: u64,
    module: u64,
    /// What the kernel is.
    pub entry: Arc<Entry>,
    program: Arc<exec::Program>,
}

impl fmt::Debug for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Function").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Function {
    /// The kernel `entry` of a module.
    pub fn new(context: u64, module: u64, entry: Arc<Entry>, program: Arc<exec::Program>) -> Function {
        Function { handle: handle::new_handle(Kind::Function), context, module, entry, program }
    }

    /// The `CUfunction`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// The handle of its module.
    pub fn module(&self) -> u64 {
        self.module
    }

    /// The code.
    pub fn program(&self) -> &exec::Program {
        &self.program
    }
}

/// A `CUkernel`.
#[derive(Debug)]
pub struct Kernel {
    handle: u64,
    library: Weak<Library>,
    /// What the kernel is.
    pub entry: Arc<Entry>,
    /// Its functions by the numbers of their contexts.
    functions: Mutex<HashMap<u64, Weak<Function>>>,
}

impl Kernel {
    /// The kernel `entry` of a library.
    pub fn new(library: Weak<Library>, entry: Arc<Entry>) -> Kernel {
        Kernel { handle: handle::new_handle(Kind::Kernel), library, entry, functions: Mutex::default() }
    }

    /// The `CUkernel`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Its library.
    pub fn library(&self) -> Result<Arc<Library>> {
        self.library.upgrade().ok_or(CudaError::InvalidHandle)
    }

    /// Its function in `context`, whose module is loaded if it was not.
    pub fn function_in(&self, context: &Arc<Context>) -> Result<Arc<Function>> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&context.owner_id()).and_then(Weak::upgrade) {
            return Ok(function);
        }
        let module: Arc<Module> = self.library()?.module_in(context)?;
        let function = module.function(&self.entry.info().name).ok_or(CudaError::NotFound)?;
        functions.retain(|_, function| function.strong_count() > 0);
        functions.insert(context.owner_id(), Arc::downgrade(&function));
        Ok(function)
    }
}

/// What a launch takes: a `CUfunction`, or a `CUkernel` for its function in `context`.
pub fn function_or_kernel(handle: u64, context: &Arc<Context>) -> Result<Arc<Function>> {
    let state = state()?;
    if handle::is_kind(handle, Kind::Kernel) {
        return state.kernels.get(handle)?.function_in(context);
    }
    state.functions.get(handle)
}

/// What occupancy functions take: either, without a context.
pub fn entry_of(handle: u64) -> Result<Arc<Entry>> {
    let state = state()?;
    if handle::is_kind(handle, Kind::Kernel) {
        return state.kernels.get(handle).map(|kernel| Arc::clone(&kernel.entry));
    }
    state.functions.get(handle).map(|function| Arc::clone(&function.entry))
}
