//! Why the agent cannot start or go on.

use std::error::Error as _;
use std::fmt::Write as _;

/// Every message is one line that says what is wrong and what to do; causes are chained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("taking a PCI device needs root: run vgpu-agent as root, or use local mode (--backend SOCKET)")]
    NotRoot,
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    #[error("reading the snapshot of the host's devices: the broker's {0} bytes are none")]
    Snapshot(usize),
    #[error("posting buffers for events")]
    Events(#[from] crate::queue::QueueError),
    #[error(transparent)]
    Server(#[from] crate::server::ServerError),
    #[error("starting a thread")]
    Thread(#[source] std::io::Error),
    #[error("{0}")]
    DeviceLost(String),
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

impl Error {
    /// The error with its causes, in one line.
    pub fn line(&self) -> String {
        match self.source() {
            None => self.to_string(),
            Some(_) => chain(self),
        }
    }
}
