//! Executes lane messages: decodes them, finds the driver's handles, calls the driver.
//!
//! `dispatch` is derived from the description; what needs thought stands in the file of its noun.

mod array;
mod array_copy;
mod callback;
mod capture;
mod context;
mod copy;
mod copy_strided;
mod dispatch;
mod driver;
mod error;
mod external;
mod external_node;
mod function;
mod graph;
mod graph_copy;
mod graph_edges;
mod graph_kernel;
mod graph_memory;
mod graph_node;
mod graph_pageable;
mod green_context;
pub mod image;
mod ipc;
mod jit;
mod kernel;
mod launch;
mod library;
mod link;
mod memory;
mod memory_pool;
mod module;
mod numbers;
mod occupancy;
mod output;
mod primary_context;
mod session;
mod snapshot;
mod stream;
mod stream_memory_operation;
mod table;
mod tensor_map;
mod texture;
mod texture_reference;
mod thread;
mod trial;
mod user_object;
mod virtual_memory;
mod window;

pub use session::Session;
pub use snapshot::{WarmUp, warm_up};
pub use thread::new_executor;
pub use trial::{Exported, export, import, trial};
pub use window::{register_window, unregister_window};
