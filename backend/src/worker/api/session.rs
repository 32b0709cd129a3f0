//! What a client's lanes share: the handle tables.

use super::{
    driver::Driver,
    error::{CudaError, INVALID_CONTEXT, INVALID_HANDLE},
    numbers::Numbers,
    table::Table,
};
use std::sync::atomic::AtomicU64;
use vgpu_spec::handle::{self, Kind};

/// Streams with numbers of their own: the default one, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD.
const SPECIAL_STREAMS: u64 = 2;

/// A client's state in its worker.
pub struct Session {
    pub driver: &'static Driver,
    /// Grows when a context ends: what lane threads remember of the current one is stale then.
    pub context_epoch: AtomicU64,
    contexts: Table,
    streams: Table,
    events: Table,
    modules: Table,
    /// Numbered by the shim, or, where a graph's node names one that the guest never asked for, here.
    functions: Numbers,
    libraries: Table,
    kernels: Numbers,
    pub(super) graphs: Numbers,
    pub(super) graph_nodes: Numbers,
    pub(super) graph_execs: Numbers,
    user_objects: Table,
    memory_pools: Table,
    allocations: Table,
}

impl Session {
    pub fn new(driver: &'static Driver) -> Self {
        Session {
            driver,
            context_epoch: AtomicU64::new(0),
            contexts: Table::new(Kind::Context),
            streams: Table::new(Kind::Stream),
            events: Table::new(Kind::Event),
            modules: Table::new(Kind::Module),
            functions: Numbers::new(Kind::Function),
            libraries: Table::new(Kind::Library),
            kernels: Numbers::new(Kind::Kernel),
            graphs: Numbers::new(Kind::Graph),
            graph_nodes: Numbers::new(Kind::GraphNode),
            graph_execs: Numbers::new(Kind::GraphExec),
            user_objects: Table::new(Kind::UserObject),
            memory_pools: Table::new(Kind::MemoryPool),
            allocations: Table::new(Kind::Allocation),
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
    modules: module, insert_module, take_module;
    libraries: library, insert_library, take_library;
    user_objects: userobject, insert_userobject, take_userobject;
    memory_pools: memorypool, insert_memorypool, take_memorypool;
    allocations: allocation, insert_allocation, take_allocation;
}

impl super::thread::Thread {
    /// A stream: one of the client's, or one of the special ones, which the driver knows by the same numbers.
    pub fn stream(&self, number: u64) -> Result<u64, CudaError> {
        if number <= SPECIAL_STREAMS { Ok(number) } else { self.session.streams.get(number) }
    }

    pub fn insert_stream(&self, number: u64, real: u64) -> Result<(), CudaError> {
        self.session.streams.insert(number, real)
    }

    pub fn take_stream(&self, number: u64) -> Result<u64, CudaError> {
        self.session.streams.take(number)
    }

    pub fn function(&self, number: u64) -> Result<u64, CudaError> {
        self.session.functions.table.get(number)
    }

    pub fn insert_function(&self, number: u64, real: u64) -> Result<(), CudaError> {
        self.session.functions.table.insert(number, real)
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
        match handle::split(number).map(|p| p.kind) {
            Some(kind) if kind == Kind::Function as u8 => self.function(number),
            Some(kind) if kind == Kind::Kernel as u8 => self.kernel(number),
            _ => Err(INVALID_HANDLE),
        }
    }
}
