//! Local mode: the agent is the front end of the broker's vhost-user socket, in place of a VM.

mod arena;
mod deadline;
mod frontend;

pub use frontend::{LocalError, connect};
