//! The monitor: a process beside the workers that asks the host's NVML what the devices do at the moment.
//!
//! The broker loads no library of the driver, and a worker is a guest's; so this is a process of its own, which no guest reaches and
//! which may die without harm. It answers one request at a time: [`message::Read`], with the bytes of a reading in which processes have
//! the host's numbers.

mod clock;
mod library;
mod process;

use std::process::ExitCode;

use vgpu_spec::wire::reading::Reading;
use zerocopy::FromBytes;

use crate::config::HelperOptions;
use crate::link::message::{self, kind, status};
use crate::link::{Packet, helper};
use crate::log::chain;
use crate::sandbox::{self, Sandbox, SandboxError};
use library::Library;

/// Runs the monitor until the broker is gone.
pub fn run(options: &HelperOptions) -> ExitCode {
    crate::log::start(&options.log);
    let open = || {
        open(options).inspect_err(|error| {
            tracing::info!("guests see no temperatures, clocks and power: {}", chain(error));
        })
    };
    helper::run("monitor", options.link_fd, open, |library, packet| match answer(library, packet) {
        Some(reading) => (0, reading.encode()),
        None => (status::FAILED, Vec::new()),
    })
}

/// Why there are no readings.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Library(#[from] library::LibraryError),
}

/// Loads NVML, confined as workers are.
fn open(options: &HelperOptions) -> Result<Library, OpenError> {
    let folders = sandbox::library_folders(options.folder.as_deref());
    let mut sandbox = Sandbox::enter(&options.sandbox, &folders)?;
    let library = Library::open(options.folder.as_deref())?;
    sandbox.close()?;
    Ok(library)
}

fn answer(library: &mut Library, packet: &Packet) -> Option<Reading> {
    let request = message::Read::read_from_bytes(&packet.body).ok()?;
    match packet.header.kind {
        kind::READ => library.read(request.uuid),
        kind::READ_PROCESSES => library.read_processes(request.uuid),
        _ => None,
    }
}
