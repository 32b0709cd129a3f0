//! Local mode: the agent is the front end of the broker's vhost-user socket, in place of a VM.

mod adopted;
mod arena;
mod deadline;
mod frontend;

#[cfg(test)]
pub use adopted::check as check_adopted;
pub use frontend::{LocalError, connect};
