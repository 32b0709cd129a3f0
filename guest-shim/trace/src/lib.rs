//! `vgpu-trace`: runs a program and shows the calls that it makes on the virtual GPU.
//!
//! | module | what |
//! |---|---|
//! | [`call`] | a call, as the shim's trace has it, and as text |
//! | [`summary`] | calls, times and round trips per function; the first that failed |
//! | [`command`] | runs the program and hands over its calls while it runs |

pub mod call;
pub mod command;
pub mod summary;
