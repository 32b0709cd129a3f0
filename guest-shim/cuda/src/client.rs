//! This process as a client: the connection to the agent and what hangs on it, made by cuInit.

use crate::{
    device::Devices,
    error, export_table, host_tables, logs, memory,
    visible::{self, Wish},
};
use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};
use vgpu_client::{Connection, Heap, Lanes, Mode, Windows, fork, reserve};

/// Bytes of shared memory that a process may hold: pinned memory and staging.
pub const HEAP_LIMIT: u64 = 1 << 40;

/// Everything that lives from cuInit to the process's end.
pub struct Client {
    pub connection: Arc<Connection>,
    pub lanes: Lanes,
    pub heap: Heap,
    pub devices: Devices,
    /// CUDA_LAUNCH_BLOCKING=1: every call waits.
    pub blocking: bool,
    /// This process; in a forked child, the one that called cuInit.
    process: u32,
}

static CLIENT: OnceLock<Client> = OnceLock::new();
/// Serialises cuInit; what it failed with last, so that the reason is logged once.
static STARTING: Mutex<Option<u32>> = Mutex::new(None);

/// The client, or CUDA_ERROR_NOT_INITIALIZED before cuInit and in a forked child.
#[inline]
pub fn get() -> error::Result<&'static Client> {
    match CLIENT.get() {
        Some(client) if !fork::forked() => Ok(client),
        _ => Err(error::NOT_INITIALIZED),
    }
}

/// CUDA_ERROR_NOT_INITIALIZED before cuInit: for what also answers in a forked child.
#[inline]
pub fn started() -> error::Result {
    CLIENT.get().map(|_| ()).ok_or(error::NOT_INITIALIZED)
}

/// CUDA_ERROR_NOT_INITIALIZED in a forked child: for what looks at its arguments first before cuInit.
#[inline]
pub fn not_forked() -> error::Result {
    if fork::forked() { Err(error::NOT_INITIALIZED) } else { Ok(()) }
}

/// The process that called cuInit: this one, or one that it was forked from.
pub fn process() -> Option<u32> {
    CLIENT.get().map(|client| client.process)
}

/// cuInit: connects to the agent.
///
/// # Errors
/// CUDA_ERROR_NO_DEVICE without an agent, a worker or a visible device. The log says which.
pub fn start() -> error::Result {
    if fork::forked() {
        return Err(error::NOT_INITIALIZED);
    }
    let mut failed = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if CLIENT.get().is_some() {
        return Ok(());
    }
    if let Some(status) = *failed {
        return Err(status);
    }
    match connect() {
        Ok(client) => {
            let _ = CLIENT.set(client);
            logs::install();
            export_table::set_log(|text| vgpu_client::warn!("{text}"));
            export_table::install(&host_tables::HOST);
            // SAFETY: `at_exit` is an ordinary function; it only reads statics that are never dropped.
            unsafe { libc::atexit(at_exit) };
            vgpu_client::record::at_exit();
            Ok(())
        }
        Err(status) => {
            *failed = Some(status);
            Err(status)
        }
    }
}

fn connect() -> error::Result<Client> {
    let began = Instant::now();
    let connection = Connection::open(Mode::Full).map_err(|e| {
        vgpu_client::error!("{e}{}", error::sources(&e));
        error::NO_DEVICE
    })?;
    let wish = Wish::of_environment();
    let visible = visible::select(&wish, &connection.snapshot);
    if visible.is_empty() {
        let count = connection.snapshot.devices.len();
        vgpu_client::warn!(
            "no device is visible: the host has {count}, CUDA_VISIBLE_DEVICES is {:?}",
            wish.devices
        );
        return Err(error::NO_DEVICE);
    }
    let reservation = reserve::reserve(&connection.device_ranges);
    memory::set_reserved(reservation.reserved);
    let devices = Devices::new(&connection, visible)?;
    let connection = Arc::new(connection);
    let client = Client {
        connection: Arc::clone(&connection),
        lanes: Lanes::new(Arc::clone(&connection)),
        heap: Heap::new(Arc::new(Windows::new(Arc::clone(&connection))), HEAP_LIMIT),
        devices,
        blocking: std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|v| v == "1"),
        process: std::process::id(),
    };
    vgpu_client::info!(
        "client {} is connected after {} ms: {} device(s), driver API {}",
        connection.client,
        began.elapsed().as_millis(),
        client.devices.len(),
        client.devices.driver_version()
    );
    Ok(client)
}

extern "C" fn at_exit() {
    if let Ok(client) = get() {
        client.lanes.print_stats();
    }
}
