//! What a client's lanes share: the handle tables.

use super::{
    driver::Driver,
    error::{CudaError, INVALID_CONTEXT, INVALID_HANDLE},
    green_context::Given,
    library::Linked,
    link::Link,
    memory_pool::CurrentPools,
    numbers::Numbers,
    table::Table,
    texture::Objects,
};
use crate::worker::quota::{Quota, Thing};
use crate::worker::turns::Turns;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};
use vgpu_spec::handle::{self, Kind};

/// Streams with numbers of their own: the default one, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD.
pub const SPECIAL_STREAMS: u64 = 2;

/// A client's state in its worker.
pub struct Session {
    pub driver: &'static Driver,
    /// Grows when a context ends: what lane threads remember of the current one is stale then.
    pub context_epoch: AtomicU64,
    /// Grows when kernels may be launched otherwise than before.
    pub kernel_epoch: AtomicU64,
    /// Streams may have attributes or resources of their own, which launches take over and graphs do not.
    pub streams_differ: AtomicBool,
    contexts: Table,
    /// The driver's primary contexts that the client has retained, by device.
    pub(super) primaries: Mutex<HashMap<i32, u64>>,
    streams: Table,
    events: Table,
    modules: Table,
    /// Numbered by the shim, or, where a graph's node names one that the guest never asked for, here.
    pub(super) functions: Numbers,
    libraries: Table,
    /// The images of those that have several fat binaries, by the library's number.
    pub(super) linked_images: Mutex<HashMap<u64, Linked>>,
    pub(super) kernels: Numbers,
    /// The driver's modules and libraries whose kernels cannot print.
    silent_images: Mutex<HashSet<u64>>,
    pub(super) graphs: Numbers,
    pub(super) graph_nodes: Numbers,
    pub(super) graph_execs: Numbers,
    user_objects: Table,
    memory_pools: Table,
    /// Held while a graph or node ends, and while one gets its number: the driver may give the handle of an ended one again at once.
    pub(super) graph_ends: std::sync::Mutex<()>,
    pub(super) conditionals: super::graph_node::Conditionals,
    allocations: Table,
    pub(super) arrays: Numbers,
    pub(super) mipmapped_arrays: Numbers,
    pub(super) texture_references: Numbers,
    pub(super) surface_references: Numbers,
    pub(super) textures: Objects,
    pub(super) surfaces: Objects,
    green_contexts: Table,
    /// What it uses of devices' memory.
    pub quota: Quota,
    /// What it does with the VM's turns.
    pub turns: Turns,
    resource_descriptions: Table,
    /// What the driver gave of devices' resources.
    pub(super) resources: Given,
    pub(super) current_pools: CurrentPools,
    link_states: Table,
    /// Links under way, by the driver's handle.
    pub links: Mutex<HashMap<u64, Link>>,
}

impl Session {
    pub fn new(driver: &'static Driver) -> Self {
        Session {
            driver,
            context_epoch: AtomicU64::new(0),
            kernel_epoch: AtomicU64::new(0),
            streams_differ: AtomicBool::new(false),
            contexts: Table::new(Kind::Context),
            primaries: Mutex::default(),
            streams: Table::new(Kind::Stream),
            events: Table::new(Kind::Event),
            modules: Table::new(Kind::Module),
            functions: Numbers::new(Kind::Function),
            libraries: Table::new(Kind::Library),
            linked_images: Mutex::default(),
            silent_images: Mutex::default(),
            kernels: Numbers::new(Kind::Kernel),
            graphs: Numbers::new(Kind::Graph),
            graph_nodes: Numbers::new(Kind::GraphNode),
            graph_execs: Numbers::new(Kind::GraphExec),
            user_objects: Table::new(Kind::UserObject),
            memory_pools: Table::new(Kind::MemoryPool),
            current_pools: CurrentPools::default(),
            graph_ends: std::sync::Mutex::default(),
            conditionals: super::graph_node::Conditionals::default(),
            allocations: Table::new(Kind::Allocation),
            arrays: Numbers::new(Kind::Array),
            mipmapped_arrays: Numbers::new(Kind::MipmappedArray),
            texture_references: Numbers::new(Kind::TextureReference),
            surface_references: Numbers::new(Kind::SurfaceReference),
            textures: Objects::default(),
            surfaces: Objects::default(),
            green_contexts: Table::new(Kind::GreenContext),
            quota: Quota::default(),
            turns: Turns::default(),
            resource_descriptions: Table::new(Kind::ResourceDescription),
            resources: Given::default(),
            link_states: Table::new(Kind::LinkState),
            links: Mutex::default(),
        }
    }

    /// The context at an index, for a message's header.
    pub fn context_at(&self, index: u32) -> Result<u64, CudaError> {
        self.contexts.at(index).map_err(|_| INVALID_CONTEXT)
    }
}

/// For each kind that derived code names: look-up, insertion and end.
macro_rules! kinds {
    ($($table:ident: $get:ident, $insert:ident, $take:ident;)*) => {
        impl super::thread::Thread {$(
            #[allow(dead_code)]
            pub fn $get(&self, number: u64) -> Result<u64, CudaError> {
                self.session.$table.get(number)
            }
            #[allow(dead_code)]
            pub fn $insert(&self, number: u64, real: u64) -> Result<(), CudaError> {
                self.session.$table.insert(number, real)
            }
            #[allow(dead_code)]
            pub fn $take(&self, number: u64) -> Result<u64, CudaError> {
                self.session.$table.take(number)
            }
        )*}
    };
}
kinds! {
    contexts: context, insert_context, take_context;
    events: event, insert_event, take_event;
    user_objects: userobject, insert_userobject, take_userobject;
    memory_pools: memorypool, insert_memorypool, take_memorypool;
    allocations: allocation, insert_allocation, take_allocation;
    green_contexts: greencontext, insert_greencontext, take_greencontext;
    resource_descriptions: resourcedescription, insert_resourcedescription, take_resourcedescription;
    link_states: linkstate, insert_linkstate, take_linkstate;
}

impl super::thread::Thread {
    /// A stream: one of the client's, or one of the special ones, which the driver knows by the same numbers.
    pub fn stream(&self, number: u64) -> Result<u64, CudaError> {
        if number <= SPECIAL_STREAMS { Ok(number) } else { self.session.streams.get(number) }
    }

    pub fn insert_stream(&self, number: u64, real: u64) -> Result<(), CudaError> {
        self.session.streams.insert(number, real)
    }

    pub fn take_stream(&mut self, number: u64) -> Result<u64, CudaError> {
        let real = self.session.streams.take(number)?;
        self.forget_wait(real);
        self.session.turns.forget_stream(real);
        // A capture in it ends with it.
        if self.session.turns.captures() {
            self.session.turns.capture(real, false);
        }
        Ok(real)
    }

    pub fn module(&self, number: u64) -> Result<u64, CudaError> {
        self.session.modules.get(number)
    }

    pub fn insert_module(&self, number: u64, real: u64) -> Result<(), CudaError> {
        // Another one may have ended with its context and had the handle before.
        self.set_silent(real, false);
        self.session.modules.insert(number, real)
    }

    /// Ends a module's number, and those of the references in it.
    pub fn take_module(&self, number: u64) -> Result<u64, CudaError> {
        let real = self.session.modules.take(number)?;
        self.set_silent(real, false);
        self.forget_references(real);
        self.release_thing(Thing::Module, real);
        Ok(real)
    }

    pub fn library(&self, number: u64) -> Result<u64, CudaError> {
        self.session.libraries.get(number)
    }

    pub fn insert_library(&self, number: u64, real: u64) -> Result<(), CudaError> {
        self.set_silent(real, false);
        self.session.libraries.insert(number, real)
    }

    pub fn take_library(&self, number: u64) -> Result<u64, CudaError> {
        let real = self.session.libraries.take(number)?;
        self.set_silent(real, false);
        self.release_thing(Thing::Library, real);
        Ok(real)
    }

    fn silent_images(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.session.silent_images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers of a module or library whether its kernels cannot print.
    pub fn set_silent(&self, real: u64, silent: bool) {
        let mut images = self.silent_images();
        if silent {
            images.insert(real)
        } else {
            images.remove(&real)
        };
    }

    /// Whether no kernel of this module or library can print.
    pub fn is_silent(&self, real: u64) -> bool {
        self.silent_images().contains(&real)
    }

    /// The number of a function that the guest asks for: the one that it has, or else `offered`.
    pub fn function_number(&self, real: u64, offered: u64) -> Result<u64, CudaError> {
        if let Some(number) = self.known_function(real) {
            return Ok(number);
        }
        self.session.functions.table.insert(offered, real)?;
        Ok(offered)
    }

    /// A function or kernel ended with its module or library: the driver may use its handle for another.
    pub fn forget_callable(&self, number: u64) {
        let numbers = match handle::split(number).map(|p| p.kind) {
            Some(kind) if kind == Kind::Function as u8 => &self.session.functions,
            Some(kind) if kind == Kind::Kernel as u8 => &self.session.kernels,
            _ => return,
        };
        // The worker's own numbers can be used again.
        if let Ok(real) = numbers.table.get(number) {
            numbers.forget(real);
            let _ = numbers.table.take(number);
        }
    }

    pub fn kernel(&self, number: u64) -> Result<u64, CudaError> {
        self.session.kernels.table.get(number)
    }

    pub fn insert_kernel(&self, number: u64, real: u64) -> Result<(), CudaError> {
        self.session.kernels.table.insert(number, real)
    }

    /// The number of a pool that the guest has imported.
    pub fn known_pool(&self, real: u64) -> Option<u64> {
        self.session.memory_pools.find(real)
    }

    /// The number of a function that the guest asked for.
    pub fn known_function(&self, real: u64) -> Option<u64> {
        self.session.functions.table.find(real)
    }

    /// The driver's kernels that the guest knows.
    pub fn kernels(&self) -> Vec<u64> {
        self.session.kernels.table.all()
    }

    /// The number of a function that the driver names.
    pub fn number_function(&self, real: u64) -> Result<u64, CudaError> {
        let functions = &self.session.functions;
        functions.table.find(real).map_or_else(|| functions.number(real, 0), Ok)
    }

    /// The number of a kernel that the driver names.
    pub fn number_kernel(&self, real: u64) -> Result<u64, CudaError> {
        let kernels = &self.session.kernels;
        kernels.table.find(real).map_or_else(|| kernels.number(real, 0), Ok)
    }

    /// The number of an event that the driver names: the guest made it.
    pub fn number_event(&self, real: u64, _owner: u64) -> Result<u64, CudaError> {
        self.session.events.find(real).ok_or(INVALID_HANDLE)
    }

    /// The number of a context that the driver names; 0 for none, or for one that the guest did not make.
    pub fn number_context(&self, real: u64) -> u64 {
        if real == 0 { 0 } else { self.session.contexts.find(real).unwrap_or(0) }
    }

    /// What can be launched: a function or a kernel.
    pub fn callable(&self, number: u64) -> Result<u64, CudaError> {
        let (functions, kernels) = (&self.session.functions.table, &self.session.kernels.table);
        // Each refuses what is of another kind.
        let found = functions.get_marked(number);
        self.calls_kernel.set(found.is_err());
        let (real, silent) = found.or_else(|_| kernels.get_marked(number))?;
        self.calls(silent);
        Ok(real)
    }

    /// The driver's handle of what was looked up last as function and kernel, one of them 0.
    pub fn function_or_kernel(&self, real: u64) -> (u64, u64) {
        if self.calls_kernel.get() { (0, real) } else { (real, 0) }
    }
}
