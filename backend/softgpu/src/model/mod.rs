//! What the driver keeps: devices, contexts, memory, streams, events, modules.

pub mod allocation;
pub mod attributes;
pub mod context;
pub mod copy;
pub mod current;
pub mod device;
pub mod error;
pub mod event;
pub mod function;
pub mod graph;
pub mod handle;
pub mod ipc;
pub mod launch;
pub mod library;
pub mod memory;
pub mod module;
pub mod output;
pub mod pool;
pub mod shared_file;
pub mod special_stream;
pub mod state;
pub mod stream;
pub mod virtual_memory;
pub mod work;

pub use error::{CudaError, Result};
pub use state::state;
