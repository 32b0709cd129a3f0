//! How the shims reach the agent, and the driver side of a lane: the guest program's half of the transport.
//!
//! | module | what |
//! |---|---|
//! | [`connection`] | the agent's socket: handshake, requests for lanes and windows |
//! | [`lane`] | one lane: messages out, replies and deferred errors back |
//! | [`lanes`] | which thread uses which lane, and the order across threads |
//! | [`windows`], [`heap`], [`in_place`] | memory shared with the worker |
//! | [`marker`] | what tells our libraries from others, in the file |
//! | [`maps`] | what this process has mapped |
//! | [`share`] | descriptors of files that processes export |
//! | [`reserve`] | keeps the worker's device addresses free in this process |
//! | [`stats`], [`record`], [`trace`], [`log`], [`fork`] | counters, called functions, calls, messages, and what a forked child may do |
//!
//! Nothing here unwinds into the program on bad input: agent and host are checked, and errors are typed.

mod biased;
pub mod connection;
pub mod fork;
pub mod heap;
pub mod in_place;
pub mod lane;
pub mod lanes;
pub mod log;
pub mod maps;
pub mod marker;
mod order;
mod page;
pub mod record;
pub mod reserve;
pub mod share;
mod shared_file;
pub mod stats;
pub mod trace;
mod wait;
pub mod windows;
mod write_protect;

pub use connection::{Connection, ConnectionError, Mode};
pub use heap::{Heap, HeapError};
pub use lane::{Lane, LaneError, MessageMeta, MessageWriter, Reply};
pub use lanes::{AloneLane, Lanes, ThreadLane};
pub use windows::{Window, WindowError, Windows};
