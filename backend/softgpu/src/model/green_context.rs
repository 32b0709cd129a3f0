//! Green contexts, and descriptions of what one is to have.

use std::sync::Arc;

use super::context::Context;
use super::handle::{self, Kind};

/// A `CUdevResourceDesc`.
#[derive(Debug)]
pub struct Description {
    handle: u64,
    device: u32,
    sms: u32,
}

impl Description {
    /// So many multiprocessors of a device.
    pub fn new(device: u32, sms: u32) -> Description {
        Description { handle: handle::new_handle(Kind::Description), device, sms }
    }

    /// The `CUdevResourceDesc`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The device's ordinal.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// Multiprocessors.
    pub fn sms(&self) -> u32 {
        self.sms
    }
}

/// A `CUgreenCtx`.
#[derive(Debug)]
pub struct GreenContext {
    handle: u64,
    context: Arc<Context>,
}

impl GreenContext {
    /// A green context with so many multiprocessors of the primary context's device.
    pub fn new(primary: &Arc<Context>, sms: u32) -> GreenContext {
        GreenContext {
            handle: handle::new_handle(Kind::GreenContext),
            context: Context::new_green(primary, sms),
        }
    }

    /// The `CUgreenCtx`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The context that uses its multiprocessors.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}
