//! The operator's side: commands over a socket, what they show, metrics.

pub mod commands;
mod connections;
mod http;
mod metrics;
mod peer;
pub mod protocol;
mod render;
mod server;
pub mod status;
mod terminal;
mod top;

pub use http::Http;
pub use server::{File, Server};
