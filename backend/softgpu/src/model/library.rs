//! Libraries: code that is loaded into a context when it is first used there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::context::Context;
use super::function::Kernel;
use super::handle::{self, Kind};
use super::module::{Code, Module};
use super::{Result, state};

/// A `CUlibrary`.
#[derive(Debug)]
pub struct Library {
    handle: u64,
    code: Arc<Code>,
    kernels: Vec<Arc<Kernel>>,
    /// Its modules by the numbers of their contexts.
    modules: Mutex<HashMap<u64, Arc<Module>>>,
}

impl Library {
    /// A library of `code`, in no context yet.
    pub fn load(code: Arc<Code>) -> Result<Arc<Library>> {
        let state = state()?;
        let library = Arc::new_cyclic(|library| {
            let make = |entry| Arc::new(Kernel::new(library.clone(), Arc::clone(entry)));
            let kernels = code.entries.iter().map(make).collect();
            Library { handle: handle::new_handle(Kind::Library), code, kernels, modules: Mutex::default() }
        });
        for kernel in &library.kernels {
            state.kernels.insert(kernel.handle(), Arc::clone(kernel));
        }
        state.libraries.insert(library.handle, Arc::clone(&library));
        Ok(library)
    }

    /// The `CUlibrary`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> &[Arc<Kernel>] {
        &self.kernels
    }

    /// The kernel with this name.
    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.entry.info().name == name)
    }

    /// Its module in `context`, loaded if it was not.
    pub fn module_in(&self, context: &Context) -> Result<Arc<Module>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&context.owner_id()) {
            return Ok(Arc::clone(module));
        }
        let module = Module::load(&self.code, context, true)?;
        modules.insert(context.owner_id(), Arc::clone(&module));
        Ok(module)
    }

    /// Forgets the library, its kernels and its modules.
    pub fn unload(&self) -> Result {
        let state = state()?;
        let _ = state.libraries.remove(self.handle);
        for kernel in &self.kernels {
            let _ = state.kernels.remove(kernel.handle());
        }
        let modules = std::mem::take(&mut *self.modules.lock().unwrap_or_else(PoisonError::into_inner));
        modules.values().try_for_each(|module| module.unload())
    }
}
