//! What the driver keeps: devices, contexts, memory, streams, events, modules.

pub mod allocation;
pub mod array;
pub mod attributes;
pub mod capture;
pub mod conditional;
pub mod context;
pub mod copy;
pub mod current;
pub mod device;
pub mod error;
pub mod event;
pub mod function;
pub mod graph;
pub mod graph_exec;
pub mod graph_memory;
pub mod green_context;
pub mod handle;
pub mod launch;
pub mod library;
pub mod link;
pub mod memory;
pub mod memory_operation;
pub mod module;
pub mod output;
pub mod pool;
pub mod special_stream;
pub mod state;
pub mod stream;
pub mod surface;
pub mod texture;
pub mod texture_reference;
pub mod user_object;
pub mod virtual_memory;
pub mod work;

pub use error::{CudaError, Result};
pub use state::state;
