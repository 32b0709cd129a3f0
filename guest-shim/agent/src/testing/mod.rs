//! Stand-ins for the device and the broker, for tests.

mod broker;
mod device;
pub mod tree;

pub use broker::{ADOPTED, MockBroker, MockCarrier};
pub use device::{MockDevice, rings};
