//! How the shims reach the agent, and the driver side of a lane: the guest program's half of the transport.
//!
//! | module | what |
//! |---|---|
//! | [`connection`] | the agent's socket: handshake, requests for lanes and windows |
//! | [`lane`] | one lane: messages out, replies and deferred errors back |
//! | [`lanes`] | which thread uses which lane, and the order across threads |
//! | [`windows`], [`heap`] | memory shared with the worker |
//! | [`share`] | descriptors of files that processes export |
//! | [`reserve`] | keeps the worker's device addresses free in this process |
//! | [`stats`], [`record`], [`log`], [`fork`] | counters, called functions, messages, and what a forked child may do |
//!
//! Nothing here unwinds into the program on bad input: agent and host are checked, and errors are typed.

mod biased;
pub mod connection;
pub mod fork;
pub mod heap;
pub mod lane;
pub mod lanes;
pub mod log;
mod order;
mod page;
pub mod record;
pub mod reserve;
pub mod share;
pub mod stats;
mod wait;
pub mod windows;

pub use connection::{Connection, ConnectionError, Mode};
pub use heap::{Heap, HeapError};
pub use lane::{Lane, LaneError, MessageMeta, MessageWriter, Reply};
pub use lanes::{AloneLane, Lanes, ThreadLane};
pub use windows::{Window, WindowError, Windows};
