//! What a client's lanes share: the handle tables.

use super::{
    driver::Driver,
    error::{CudaError, INVALID_CONTEXT, INVALID_HANDLE},
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
    functions: Table,
    libraries: Table,
    kernels: Table,
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
            functions: Table::new(Kind::Function),
            libraries: Table::new(Kind::Library),
            kernels: Table::new(Kind::Kernel),
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
    functions: function, insert_function, take_function;
    libraries: library, insert_library, take_library;
    kernels: kernel, insert_kernel, take_kernel;
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

    /// What can be launched: a function or a kernel.
    pub fn callable(&self, number: u64) -> Result<u64, CudaError> {
        match handle::split(number).map(|p| p.kind) {
            Some(kind) if kind == Kind::Function as u8 => self.session.functions.get(number),
            Some(kind) if kind == Kind::Kernel as u8 => self.session.kernels.get(number),
            _ => Err(INVALID_HANDLE),
        }
    }
}
