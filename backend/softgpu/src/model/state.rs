//! The one driver state of the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use super::context::Context;
use super::device::Device;
use super::event::Event;
use super::function::{Function, Kernel};
use super::graph::{Exec, Graph};
use super::handle::Table;
use super::ipc::Opened;
use super::library::Library;
use super::memory::MemoryMap;
use super::module::Module;
use super::pool::Pool;
use super::stream::Stream;
use super::virtual_memory::{Physical, VirtualMemory};
use super::{CudaError, Result};

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
    /// Live memory pools.
    pub pools: Table<Pool>,
    /// The pool that each device starts with, by ordinal, once it is asked for.
    pub default_pools: Mutex<HashMap<u32, Arc<Pool>>>,
    /// The pool that each device allocates from, by ordinal, where one was set.
    pub current_pools: Mutex<HashMap<u32, u64>>,
    /// Device memory that the program holds by a handle.
    pub physical: Table<Physical>,
    /// Reserved addresses and what is mapped there.
    pub virtual_memory: VirtualMemory,
}

static STATE: LazyLock<State> =
    LazyLock::new(|| State { devices: Device::all_from_environment(), ..State::default() });

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
    STATE.initialized.store(true, Ordering::Release);
    Ok(())
}

impl State {
    /// The device with this ordinal, or `INVALID_DEVICE`.
    pub fn device(&self, ordinal: i32) -> Result<&Arc<Device>> {
        let index = usize::try_from(ordinal).map_err(|_| CudaError::InvalidDevice)?;
        self.devices.get(index).ok_or(CudaError::InvalidDevice)
    }

    /// All devices, by ordinal.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }
}
