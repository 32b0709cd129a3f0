//! The one driver state of the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use super::array::{Array, Mipmapped};
use super::conditional::Condition;
use super::context::Context;
use super::device::Device;
use super::event::Event;
use super::function::{Function, Kernel};
use super::graph::{Exec, Graph};
use super::green_context::{Description, GreenContext};
use super::handle::Table;
use super::ipc::Opened;
use super::library::Library;
use super::link::Link;
use super::memory::MemoryMap;
use super::module::Module;
use super::pool::Pool;
use super::stream::Stream;
use super::surface::{SurfaceObject, SurfaceReference};
use super::texture::TextureObject;
use super::texture_reference::TextureReference;
use super::user_object::UserObject;
use super::virtual_memory::{Physical, VirtualMemory};
use super::{CudaError, Result};
use crate::exec;

/// Everything that the process's program has made.
#[derive(Debug, Default)]
pub struct State {
    initialized: AtomicBool,
    devices: Vec<Arc<Device>>,
    /// Device, pinned and registered memory of all devices.
    pub memory: MemoryMap,
    /// Other processes' memory.
    pub opened: Opened,
    /// Live contexts.
    pub contexts: Table<Context>,
    /// Live created streams (not the three special ones).
    pub streams: Table<Stream>,
    /// Live events.
    pub events: Table<Event>,
    /// Loaded modules.
    pub modules: Table<Module>,
    /// Loaded libraries.
    pub libraries: Table<Library>,
    /// Links under way.
    pub links: Table<Link>,
    /// Functions of loaded modules.
    pub functions: Table<Function>,
    /// Kernels of loaded libraries.
    pub kernels: Table<Kernel>,
    /// Live graphs.
    pub graphs: Table<Graph>,
    /// The graphs of live nodes.
    pub graph_nodes: Table<Graph>,
    /// Live instantiated graphs.
    pub graph_execs: Table<Exec>,
    /// Live conditional handles.
    pub conditions: Table<Condition>,
    /// User objects of which the program has, or has had, references.
    pub user_objects: Table<UserObject>,
    /// Live memory pools.
    pub pools: Table<Pool>,
    /// The pool that each device starts with, by ordinal, once it is asked for.
    pub default_pools: Mutex<HashMap<u32, Arc<Pool>>>,
    /// The pool that each device allocates from, by ordinal, where one was set.
    pub current_pools: Mutex<HashMap<u32, u64>>,
    /// Device memory that the program holds by a handle.
    pub physical: Table<Physical>,
    /// Live green contexts.
    pub green_contexts: Table<GreenContext>,
    /// Descriptions of what a green context is to have; nothing ends them.
    pub descriptions: Table<Description>,
    splits: AtomicU32,
    /// Reserved addresses and what is mapped there.
    pub virtual_memory: VirtualMemory,
    /// Memory of arrays, which has no address for programs and kernels.
    pub array_memory: MemoryMap,
    /// Live arrays, and levels of mipmapped ones.
    pub arrays: Table<Array>,
    /// Live mipmapped arrays.
    pub mipmapped_arrays: Table<Mipmapped>,
    /// Live texture objects.
    pub textures: Table<TextureObject>,
    /// Live surface objects.
    pub surfaces: Table<SurfaceObject>,
    /// Texture references, of modules and of their own.
    pub texture_references: Table<TextureReference>,
    /// Surface references of modules.
    pub surface_references: Table<SurfaceReference>,
    /// What texture references of modules show, by the address of the variable.
    pub bound_textures: Table<exec::texture::Texture>,
    /// What surface references of modules show, by the address of the variable.
    pub bound_surfaces: Table<exec::texture::Surface>,
}

static STATE: LazyLock<State> =
    LazyLock::new(|| State { devices: super::visible::devices(), ..State::default() });

/// The driver's state, once `cuInit` has been called; `NOT_INITIALIZED` before.
pub fn state() -> Result<&'static State> {
    let state = &*STATE;
    if state.initialized.load(Ordering::Acquire) { Ok(state) } else { Err(CudaError::NotInitialized) }
}

/// What `cuInit` does: `NO_DEVICE` if the environment asked for none.
pub fn initialize() -> Result {
    if STATE.devices.is_empty() {
        return Err(CudaError::NoDevice);
    }
    super::usage::announce();
    STATE.initialized.store(true, Ordering::Release);
    Ok(())
}

impl State {
    /// The device with this ordinal, or `INVALID_DEVICE`.
    pub fn device(&self, ordinal: i32) -> Result<&Arc<Device>> {
        let index = usize::try_from(ordinal).map_err(|_| CudaError::InvalidDevice)?;
        self.devices.get(index).ok_or(CudaError::InvalidDevice)
    }

    /// The machine's device of this number, or `INVALID_DEVICE` if the process does not have it.
    pub fn device_of_number(&self, number: u64) -> Result<&Arc<Device>> {
        let found = self.devices.iter().find(|device| u64::from(device.number()) == number);
        found.ok_or(CudaError::InvalidDevice)
    }

    /// The number of the next split of a device's resource.
    pub fn next_split(&self) -> u32 {
        self.splits.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// All devices, by ordinal.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }
}
