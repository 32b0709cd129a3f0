//! A worker: the process that runs one guest process's CUDA calls.

pub mod account;
pub mod address_space;
pub mod api;
pub mod broker_link;
pub mod deps;
pub mod executor;
pub mod lane;
pub mod link;
pub mod message;
pub mod output;
pub mod page;
pub mod quota;
pub mod ring;
pub mod start;
pub mod tally;
pub mod turns;
pub mod windows;

pub use start::run;
