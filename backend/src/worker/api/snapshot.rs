//! What a worker tells of the host's devices when it has started.

use super::{
    driver::{self, Driver},
    trial,
};
use std::sync::OnceLock;
use vgpu_spec::wire::snapshot::{Device, DeviceRecord, NO_ATTRIBUTE, Snapshot, SnapshotHeader};
use zerocopy::FromZeros;

/// Attributes are asked for from 1 to this one: some more than CUDA 13.0 knows (146).
const ATTRIBUTES: i32 = 160;

/// The first device's primary context, retained for the life of the worker.
static FIRST_CONTEXT: OnceLock<u64> = OnceLock::new();

/// Makes the first device's context current to a new lane thread: the driver wants one even for some calls that take none (asking for a
/// kernel's parameters, for one). The guest's own contexts are made current by its messages.
pub fn enter_first_context(driver: &Driver) {
    if let (Some(&context), Some(set)) = (FIRST_CONTEXT.get(), driver.cuCtxSetCurrent) {
        // SAFETY: a live context.
        let status = unsafe { set(context) };
        if status != 0 {
            tracing::warn!("entering the first device's context: CUDA error {status}");
        }
    }
}

/// What a worker has after start-up.
pub struct WarmUp {
    pub snapshot: Snapshot,
}

fn check(what: &str, status: u32) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{what}: CUDA error {status}")) }
}

/// Loads CUDA, initialises it, takes the snapshot, creates the first device's primary context and has a kernel run in it, so that a guest's
/// first calls find it ready.
///
/// # Errors
/// A sentence for the broker's log.
pub fn warm_up() -> Result<WarmUp, String> {
    let driver = driver::load()?;
    let init = driver.cuInit.ok_or("initialising CUDA: the library has no cuInit")?;
    // SAFETY: a plain value.
    check("initialising CUDA (cuInit)", unsafe { init(0) })?;
    let count = ask(
        "counting devices",
        driver.cuDeviceGetCount.map(|f| {
            move |out: &mut i32| {
                // SAFETY: a place that outlives the call.
                unsafe { f(out) }
            }
        }),
    )?;
    let retain = driver
        .cuDevicePrimaryCtxRetain
        .ok_or("creating a context: the driver lacks cuDevicePrimaryCtxRetain")?;
    let set = driver.cuCtxSetCurrent.ok_or("creating a context: the driver lacks cuCtxSetCurrent")?;
    let mut devices = Vec::new();
    for ordinal in 0..count {
        let mut context = 0_u64;
        if ordinal == 0 {
            // SAFETY: a place that outlives the call.
            check("creating the first device's context", unsafe { retain(&raw mut context, ordinal) })?;
            let _ = FIRST_CONTEXT.set(context);
            // SAFETY: the context just retained.
            check("entering the first device's context", unsafe { set(context) })?;
            if let Err(error) = trial::rehearse(driver) {
                // A client's calls say what the matter is, if it concerns them.
                tracing::debug!("warming up the first device's context: {error}");
            }
        }
        devices.push(device(driver, ordinal)?);
    }
    let version = ask(
        "asking the driver's version",
        driver.cuDriverGetVersion.map(|f| {
            move |out: &mut i32| {
                // SAFETY: a place that outlives the call.
                unsafe { f(out) }
            }
        }),
    )?;
    let header = SnapshotHeader {
        driver_version: version.cast_unsigned(),
        device_count: count.cast_unsigned(),
        driver_name: driver_name(),
    };
    Ok(WarmUp { snapshot: Snapshot { header, devices } })
}

/// Asks one number of the driver.
fn ask(what: &str, function: Option<impl FnOnce(&mut i32) -> u32>) -> Result<i32, String> {
    let function = function.ok_or_else(|| format!("{what}: the driver lacks the function"))?;
    let mut value = 0;
    check(what, function(&mut value))?;
    Ok(value)
}

fn device(driver: &Driver, ordinal: i32) -> Result<Device, String> {
    let mut record = DeviceRecord::new_zeroed();
    let what = format!("describing device {ordinal}");
    let missing = || format!("{what}: the driver lacks a function");
    let name = driver.cuDeviceGetName.ok_or_else(missing)?;
    let uuid = driver.cuDeviceGetUuid_v2.ok_or_else(missing)?;
    let memory = driver.cuDeviceTotalMem_v2.ok_or_else(missing)?;
    let attribute = driver.cuDeviceGetAttribute.ok_or_else(missing)?;
    let priorities = driver.cuCtxGetStreamPriorityRange.ok_or_else(missing)?;
    let mut total = 0_usize;
    let mut id = vgpu_spec::plain::Blob1::<16>::default();
    // SAFETY: places that outlive the calls, with the length of the name's.
    unsafe {
        check(&what, name(record.name.as_mut_ptr().cast(), 256, ordinal))?;
        check(&what, uuid(&raw mut id, ordinal))?;
        check(&what, memory(&raw mut total, ordinal))?;
        // Only the first device has a context here; all devices of a host have the same range.
        check(&what, priorities(&raw mut record.least_priority, &raw mut record.greatest_priority))?;
    }
    record.uuid = id.0;
    record.total_memory = total as u64;
    let attributes: Vec<i32> = (1..=ATTRIBUTES)
        .map(|a| {
            let mut value = 0;
            // SAFETY: a place that outlives the call; an attribute that the driver does not know is refused by it.
            let status = unsafe { attribute(&raw mut value, a.cast_unsigned(), ordinal) };
            if status == 0 { value } else { NO_ATTRIBUTE }
        })
        .collect();
    let pci = |id: usize| {
        attributes.get(id - 1).copied().filter(|&v| v != NO_ATTRIBUTE).unwrap_or(0).cast_unsigned()
    };
    (record.pci_bus, record.pci_device, record.pci_domain) = (pci(33), pci(34), pci(50));
    record.attribute_count = ATTRIBUTES.cast_unsigned();
    Ok(Device { record, attributes })
}

/// The kernel driver's version, as text; empty where there is none (softgpu).
fn driver_name() -> [u8; 32] {
    let mut name = [0; 32];
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let version = text.split_whitespace().find(|w| {
        w.contains('.')
            && w.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    });
    if let Some(version) = version {
        let len = version.len().min(name.len() - 1);
        name[..len].copy_from_slice(&version.as_bytes()[..len]);
    }
    name
}
