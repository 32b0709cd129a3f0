//! The checkpointer: a process beside the workers that moves a worker's device memory to the host's and back, by the driver's checkpoint
//! functions.
//!
//! The broker loads no library of the driver, and the driver's functions are for another process to call, so this is one of its own. The
//! broker starts it when it first needs it. It is not confined as workers are: the driver finds its way into the worker through `/proc`,
//! which asks for the same user and forbids any confinement of this side. No guest reaches it: it hears the broker only, which names its own
//! workers.

mod driver;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use zerocopy::FromBytes;

use crate::config::CheckpointerOptions;
use crate::link::message::{Checkpoint, Header, kind, status};
use crate::link::{Link, LinkError, Packet};
use crate::log::chain;
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
pub fn run(options: &CheckpointerOptions) -> ExitCode {
    crate::log::start(&options.log);
    crate::log::set_prefix("checkpointer: ".into());
    // SAFETY: the broker passes the descriptor's number and nobody else in this process owns it.
    let link = Link::from_fd(unsafe { OwnedFd::from_raw_fd(options.link_fd) });
    if rustix::io::fcntl_setfd(&link, rustix::io::FdFlags::CLOEXEC).is_err() {
        eprintln!("vgpu-backend checkpointer: descriptor {} is no link to a broker", options.link_fd);
        return ExitCode::FAILURE;
    }
    let driver = match open(options) {
        Ok(driver) => driver,
        Err(error) => {
            let header = Header { kind: kind::FAILED, ..Header::default() };
            let _ = link.send(header, chain(&error).as_bytes(), &[]);
            return ExitCode::SUCCESS;
        }
    };
    let header = Header { kind: kind::READY, ..Header::default() };
    if let Err(error) = link.send(header, &[], &[]) {
        tracing::error!("saying ready: {}", chain(&error));
        return ExitCode::FAILURE;
    }
    loop {
        match link.receive() {
            Ok(packet) => {
                let (status, body) = answer(&driver, &packet);
                let header = Header { kind: kind::REPLY, seq: packet.header.seq, status, len: 0 };
                if let Err(error) = link.send(header, &body, &[]) {
                    tracing::error!("answering the broker: {}", chain(&error));
                    return ExitCode::FAILURE;
                }
            }
            Err(LinkError::Closed) => return ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("the link to the broker failed: {}", chain(&error));
                return ExitCode::FAILURE;
            }
        }
    }
}

fn open(options: &CheckpointerOptions) -> Result<Driver, OpenError> {
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
