//! A worker's start, in an order that matters.

use std::process::ExitCode;
use std::time::Duration;

use vgpu_spec::wire::Range;
use vgpu_spec::wire::snapshot::Snapshot;
use zerocopy::IntoBytes;

use super::address_space::{self, AddressError};
use super::{api, link, output};
use crate::config::WorkerOptions;
use crate::link::helper;
use crate::link::message::{Header, Ready, kind};
use crate::log::chain;
use crate::sandbox::{self, Sandbox, SandboxError};

/// Lines of the log in ten seconds: the guest decides what there is to say.
const LOG_LINES: u32 = 100;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("capturing standard output")]
    Output(#[source] std::io::Error),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The API's own words.
    #[error("{0}")]
    Cuda(String),
}

/// Runs a worker until its client is closed.
pub fn run(options: WorkerOptions) -> ExitCode {
    crate::log::start(&options.log);
    crate::log::set_prefix(format!("worker {}: ", std::process::id()));
    if !tracing::enabled!(tracing::Level::DEBUG) {
        crate::log::limit_lines(LOG_LINES);
    }
    std::panic::set_hook(Box::new(|info| {
        tracing::error!("panic, which is a defect: {info}");
        // One lost thread would leave a guest thread waiting for ever; a lost worker is reported.
        std::process::abort();
    }));
    let Some(link) = helper::adopt("worker", options.link_fd) else { return ExitCode::FAILURE };
    match prepare(&options) {
        Ok((device_ranges, snapshot)) => {
            let mut body = Ready { device_ranges }.as_bytes().to_vec();
            body.extend_from_slice(&snapshot.encode());
            let header = Header { kind: kind::READY, ..Header::default() };
            if let Err(error) = link.send(header, &body, &[]) {
                tracing::error!("saying ready: {}", chain(&error));
                return ExitCode::FAILURE;
            }
            link::serve(link, Duration::from_micros(u64::from(options.poll_us)))
        }
        Err(error) => {
            let header = Header { kind: kind::FAILED, ..Header::default() };
            let _ = link.send(header, chain(&error).as_bytes(), &[]);
            ExitCode::FAILURE
        }
    }
}

fn prepare(options: &WorkerOptions) -> Result<([Range; 4], Snapshot), StartError> {
    // Before any thread starts.
    address_space::restore_stacks()?;
    let folders = sandbox::library_folders(options.folder.as_deref());
    let mut sandbox = Sandbox::enter(&options.sandbox, &folders)?;
    // Before CUDA can put something there.
    address_space::reserve_windows()?;
    output::capture().map_err(StartError::Output)?;
    let warm = api::warm_up().map_err(StartError::Cuda)?;
    let ranges = address_space::device_ranges()?;
    // SECURITY: what the driver does only once is done, and the broker, which hears of this worker next, has given it no client.
    sandbox.close()?;
    if options.first {
        tracing::info!("workers are confined by: {sandbox}");
    } else {
        tracing::debug!("confined by: {sandbox}");
    }
    Ok((ranges, warm.snapshot))
}
