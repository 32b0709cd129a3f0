//! The monitor: a process beside the workers that asks the host's NVML what the devices do at the moment.
//!
//! The broker loads no library of the driver, and a worker is a guest's; so this is a process of its own, which no guest reaches and
//! which may die without harm. It answers one request at a time: [`message::Read`], with the bytes of a reading in which processes have
//! the host's numbers.

mod clock;
mod library;
mod process;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use vgpu_spec::wire::reading::Reading;
use zerocopy::FromBytes;

use crate::config::MonitorOptions;
use crate::link::message::{self, Header, kind, status};
use crate::link::{Link, LinkError, Packet};
use crate::log::chain;
use crate::sandbox::{self, Sandbox, SandboxError};
use library::Library;

/// Runs the monitor until the broker is gone.
pub fn run(options: &MonitorOptions) -> ExitCode {
    crate::log::start(&options.log);
    crate::log::set_prefix("monitor: ".into());
    // SAFETY: the broker passes the descriptor's number and nobody else in this process owns it.
    let link = Link::from_fd(unsafe { OwnedFd::from_raw_fd(options.link_fd) });
    if rustix::io::fcntl_setfd(&link, rustix::io::FdFlags::CLOEXEC).is_err() {
        eprintln!("vgpu-backend monitor: descriptor {} is no link to a broker", options.link_fd);
        return ExitCode::FAILURE;
    }
    let mut library = match open(options) {
        Ok(library) => library,
        Err(error) => {
            tracing::info!("guests see no temperatures, clocks and power: {}", chain(&error));
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
                let (status, body) = match answer(&mut library, &packet) {
                    Some(reading) => (0, reading.encode()),
                    None => (status::FAILED, Vec::new()),
                };
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

/// Why there are no readings.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Library(#[from] library::LibraryError),
}

/// Loads NVML, confined as workers are.
fn open(options: &MonitorOptions) -> Result<Library, OpenError> {
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
