//! Executes lane messages: decodes them, finds the driver's handles, calls the driver.
//!
//! `dispatch` is derived from the description; what needs thought stands in the file of its noun.

mod callback;
mod capture;
mod context;
mod copy;
mod copy_strided;
mod dispatch;
mod driver;
mod error;
mod graph;
mod graph_copy;
mod graph_kernel;
mod image;
mod ipc;
mod jit;
mod kernel;
mod launch;
mod library;
mod memory_pool;
mod module;
mod numbers;
mod occupancy;
mod output;
mod primary_context;
mod session;
mod snapshot;
mod stream;
mod table;
mod tensor_map;
mod thread;
mod user_object;
mod virtual_memory;
mod window;

pub use session::Session;
pub use snapshot::{WarmUp, warm_up};
pub use thread::new_executor;
pub use window::{register_window, unregister_window};
