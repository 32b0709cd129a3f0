//! Modules: PTX linked into one context.

use std::collections::HashMap;
use std::sync::Arc;

use super::allocation::{Allocation, RangeKind};
use super::context::Context;
use super::function::{Entry, Function};
use super::handle::{self, Kind};
use super::surface::SurfaceReference;
use super::texture_reference::TextureReference;
use super::{CudaError, Result, state};
use crate::{exec, ptx};

/// Variables start at multiples of this at least.
const ALIGNMENT: u64 = 256;

/// PTX that has been read and checked, before it is in any context.
#[derive(Debug)]
pub struct Code {
    /// The parsed text.
    pub module: Arc<ptx::Module>,
    /// Its kernels in order.
    pub entries: Vec<Arc<Entry>>,
}

impl Code {
    /// What is wrong with PTX, for the JIT log, or the code.
    pub fn parse(source: &str) -> std::result::Result<Arc<Code>, String> {
        let module = ptx::Module::parse(source).map_err(|error| error.to_string())?;
        let target = module.compute_target();
        if target > 90 {
            return Err(format!("loading PTX: target sm_{target} is newer than the device's sm_90"));
        }
        let entries: Result<Vec<_>> = module.kernels().iter().map(Entry::new).collect();
        let entries = entries.map_err(|error| error.to_string())?;
        Ok(Arc::new(Code { module: Arc::new(module), entries }))
    }
}

/// A `CUmodule`.
#[derive(Debug)]
pub struct Module {
    handle: u64,
    context: u64,
    is_of_library: bool,
    functions: Vec<Arc<Function>>,
    by_name: HashMap<String, Arc<Function>>,
    /// Address and bytes of each variable.
    variables: HashMap<String, (u64, u64)>,
    /// Where the variables are; none if there are none.
    arena: Option<u64>,
    texture_references: HashMap<String, Arc<TextureReference>>,
    surface_references: HashMap<String, Arc<SurfaceReference>>,
}

impl Module {
    /// Loads `code` into `context`: `OUT_OF_MEMORY` for the variables, `INVALID_PTX` if it cannot be linked.
    pub fn load(code: &Code, context: &Context, is_of_library: bool) -> Result<Arc<Module>> {
        let state = state()?;
        let (arena, variables) = place_variables(&code.module, context)?;
        let base = arena.as_ref().map(|arena| arena.base());
        let program = initialize(&code.module, &variables).and_then(|()| link(&code.module, &variables));
        let program = program.inspect_err(|_| {
            base.map(|base| state.memory.remove(base));
        })?;
        let handle = handle::new_handle(Kind::Module);
        let make = |entry: &Arc<Entry>| {
            Arc::new(Function::new(context.owner(), handle, Arc::clone(entry), Arc::clone(&program)))
        };
        let functions: Vec<_> = code.entries.iter().map(make).collect();
        for function in &functions {
            state.functions.insert(function.handle(), Arc::clone(function));
        }
        let (texture_references, surface_references) = make_references(&code.module, &variables)?;
        let name_of = |function: &Arc<Function>| function.entry.info().name.clone();
        let by_name = functions.iter().map(|function| (name_of(function), Arc::clone(function))).collect();
        let context = context.owner();
        let module = Arc::new(Module {
            handle,
            context,
            is_of_library,
            functions,
            by_name,
            variables,
            arena: base,
            texture_references,
            surface_references,
        });
        state.modules.insert(handle, Arc::clone(&module));
        Ok(module)
    }

    /// The `CUmodule`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// Whether it belongs to a library and goes with it.
    pub fn is_of_library(&self) -> bool {
        self.is_of_library
    }

    /// The function with this name.
    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.by_name.get(name).cloned()
    }

    /// All functions, in the order of the text.
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }

    /// Address and bytes of a variable.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.get(name).copied()
    }

    /// The `.texref` with this name.
    pub fn texture_reference(&self, name: &str) -> Option<&Arc<TextureReference>> {
        self.texture_references.get(name)
    }

    /// The `.surfref` with this name.
    pub fn surface_reference(&self, name: &str) -> Option<&Arc<SurfaceReference>> {
        self.surface_references.get(name)
    }

    /// Forgets the module; kernels that run keep their code and variables.
    pub fn unload(&self) -> Result {
        let state = state()?;
        let _ = state.modules.remove(self.handle);
        for function in &self.functions {
            let _ = state.functions.remove(function.handle());
        }
        if let Some(arena) = self.arena {
            state.memory.remove(arena);
        }
        self.texture_references.values().try_for_each(|reference| reference.forget())?;
        self.surface_references.values().try_for_each(|reference| reference.forget())?;
        Ok(())
    }
}

type Variables = HashMap<String, (u64, u64)>;

type References = (HashMap<String, Arc<TextureReference>>, HashMap<String, Arc<SurfaceReference>>);

fn make_references(module: &ptx::Module, variables: &Variables) -> Result<References> {
    let mut references = References::default();
    for variable in module.variables() {
        let Some(&(address, _)) = variables.get(&variable.name) else { continue };
        match variable.opaque {
            None => {}
            Some(ptx::Opaque::Texture) => {
                references.0.insert(variable.name.clone(), TextureReference::create(address)?);
            }
            Some(ptx::Opaque::Surface) => {
                references.1.insert(variable.name.clone(), SurfaceReference::create(address)?);
            }
        }
    }
    Ok(references)
}

/// Makes room for all variables. An `.extern` one that nobody defines is zeros of its own, as the real driver does it.
fn place_variables(module: &ptx::Module, context: &Context) -> Result<(Option<Arc<Allocation>>, Variables)> {
    let mut offsets = HashMap::new();
    let mut end = 0u64;
    for variable in module.variables() {
        let start =
            end.checked_next_multiple_of(variable.align.max(ALIGNMENT)).ok_or(CudaError::OutOfMemory)?;
        end = start.checked_add(variable.size).ok_or(CudaError::OutOfMemory)?;
        offsets.insert(variable.name.clone(), (start, variable.size));
    }
    if offsets.is_empty() {
        return Ok((None, offsets));
    }
    let arena = state()?.memory.allocate(context, RangeKind::Device, end.max(1))?;
    let base = arena.base();
    let addresses = offsets.into_iter().map(|(name, (start, size))| (name, (base + start, size))).collect();
    Ok((Some(arena), addresses))
}

fn initialize(module: &ptx::Module, variables: &Variables) -> Result {
    for variable in module.variables() {
        let Some(&(address, size)) = variables.get(&variable.name) else { continue };
        let mut contents = variable.init.clone();
        contents.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        for relocation in &variable.relocations {
            let target = variables.get(&relocation.symbol).ok_or(CudaError::InvalidPtx)?.0;
            let start = usize::try_from(relocation.offset).map_err(|_| CudaError::InvalidPtx)?;
            let end = start.checked_add(8).ok_or(CudaError::InvalidPtx)?;
            let place = contents.get_mut(start..end).ok_or(CudaError::InvalidPtx)?;
            place.copy_from_slice(&target.wrapping_add(relocation.addend).to_le_bytes());
        }
        let to = std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
        // SAFETY: the variable has `size` bytes in the new arena, which nobody else knows yet, and no more are written.
        unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), to, contents.len()) };
    }
    Ok(())
}

fn link(module: &Arc<ptx::Module>, variables: &Variables) -> Result<Arc<exec::Program>> {
    let addresses = variables.iter().map(|(name, (address, _))| (name.clone(), *address)).collect();
    let program = exec::Program::link(Arc::clone(module), &addresses);
    program.map(Arc::new).map_err(|error| {
        eprintln!("softgpu: {error}");
        CudaError::InvalidPtx
    })
}
