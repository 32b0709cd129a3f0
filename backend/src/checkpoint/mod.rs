//! The checkpointer: a process beside the workers that moves a worker's device memory to the host's and back, by the driver's checkpoint
//! functions.
//!
//! The broker loads no library of the driver, and the driver's functions are for another process to call, so this is one of its own. The
//! broker starts it when it first needs it. It is not confined as workers are: the driver finds its way into the worker through `/proc`,
//! which asks for the same user and forbids any confinement of this side. No guest reaches it: it hears the broker only, which names its own
//! workers.

mod driver;

use std::process::ExitCode;

use zerocopy::FromBytes;

use crate::config::HelperOptions;
use crate::link::message::{Checkpoint, kind, status};
use crate::link::{Packet, helper};
use crate::sandbox::{self, SandboxError};
use driver::{Driver, DriverError};

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    User(#[from] SandboxError),
}

/// Runs the checkpointer until the broker is gone.
pub fn run(options: &HelperOptions) -> ExitCode {
    crate::log::start(&options.log);
    helper::run("checkpointer", options.link_fd, || open(options), |driver, packet| answer(driver, packet))
}

fn open(options: &HelperOptions) -> Result<Driver, OpenError> {
    // The workers' user: the driver is let into processes of its own user only.
    if let Some(user) = options.sandbox.user {
        sandbox::become_user(user)?;
    }
    Ok(Driver::load(options.folder.as_deref())?)
}

/// The reply's status and body.
fn answer(driver: &Driver, packet: &Packet) -> (u32, Vec<u8>) {
    let Ok(request) = Checkpoint::read_from_bytes(&packet.body) else {
        return (status::FAILED, b"a malformed request".to_vec());
    };
    let Some(pid) = i32::try_from(request.pid).ok().filter(|&pid| pid > 0) else {
        return (status::FAILED, b"no process number".to_vec());
    };
    let result = match packet.header.kind {
        kind::CHECKPOINT_STATE => driver.state(pid).map(|state| state.to_le_bytes().to_vec()),
        kind::CHECKPOINT_LOCK => driver.lock(pid, request.timeout_ms).map(|()| Vec::new()),
        kind::CHECKPOINT_SAVE => driver.checkpoint(pid).map(|()| Vec::new()),
        kind::CHECKPOINT_RESTORE => driver.restore(pid).map(|()| Vec::new()),
        kind::CHECKPOINT_UNLOCK => driver.unlock(pid).map(|()| Vec::new()),
        _ => return (status::FAILED, b"an unknown request".to_vec()),
    };
    result.map_or_else(|code| (code, driver.text(code).into_bytes()), |body| (0, body))
}
