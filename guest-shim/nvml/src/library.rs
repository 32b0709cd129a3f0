//! The library between nvmlInit and nvmlShutdown: what the agent said of this VM's devices.

use crate::{
    error::{self, NvmlError},
    event,
    identity::Device,
    reading::Readings,
};
use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use vgpu_client::{Connection, ConnectionError, Mode, record};
use vgpu_spec::{
    api::NEWEST,
    wire::{
        control::{PciAddress, status},
        snapshot::{self, MAX_DEVICES, Snapshot, SnapshotHeader},
    },
};

/// The driver branch with which each version of the driver API came (release notes of the CUDA toolkit).
const BRANCHES: [(u32, &str); 10] = [
    (13000, "580.00"),
    (12090, "575.00"),
    (12080, "570.00"),
    (12060, "560.00"),
    (12050, "555.00"),
    (12040, "550.00"),
    (12030, "545.00"),
    (12020, "535.00"),
    (12010, "530.00"),
    (12000, "525.00"),
];

/// Devices, as their handles: a handle is the address of one of these. Programs in Go keep it as a pointer, which their collector
/// wants to be one.
static HANDLES: [u64; MAX_DEVICES as usize] = [0; MAX_DEVICES as usize];

/// What is known from nvmlInit on.
#[derive(Debug)]
pub struct Library {
    /// 1000 × major + 10 × minor.
    pub cuda_version: u32,
    /// As "580.159.04".
    pub driver_version: String,
    devices: Vec<Device>,
    /// What they do at the moment.
    pub readings: Readings,
}

impl Library {
    /// `pci` is the address of the guest's device, if it has one of its own. Devices are in the order of the host's PCI addresses, as
    /// natively, whatever the driver API's order is.
    pub fn new(snapshot: &Snapshot, pci: PciAddress) -> Self {
        let header = &snapshot.header;
        let mut devices: Vec<(u32, &snapshot::Device)> = (0..).zip(&snapshot.devices).collect();
        devices.sort_by_key(|(_, device)| device.record.pci_address());
        let device = |(index, (ordinal, device)): (u32, (u32, &snapshot::Device))| {
            Device::new(index, ordinal, device.clone(), pci)
        };
        Library {
            cuda_version: header.driver_version.min(NEWEST),
            driver_version: driver_version(header),
            devices: (0..).zip(devices).map(device).collect(),
            readings: Readings::default(),
        }
    }

    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device of a handle that [`handle`] made.
    pub fn device(&self, handle: u64) -> error::Result<&Device> {
        let found = HANDLES.iter().position(|place| address(place) == handle);
        found.and_then(|index| self.devices.get(index)).ok_or(NvmlError::InvalidArgument)
    }

    /// The handle of a device of this library.
    pub fn handle(&self, device: &Device) -> error::Result<u64> {
        let place = usize::try_from(device.index).ok().and_then(|index| HANDLES.get(index));
        place.map(address).ok_or(NvmlError::Unknown)
    }
}

fn address(place: &u64) -> u64 {
    std::ptr::from_ref(place).addr() as u64
}

/// The version of the driver, as text. Without a kernel driver on the host (softgpu) it is the number of the branch that the version
/// of the driver API came with: programs compare it (ollama wants 550 or more), and "580.00" says as much as is known.
fn driver_version(header: &SnapshotHeader) -> String {
    let name = snapshot::text(&header.driver_name);
    if !name.is_empty() {
        return name;
    }
    let branch = BRANCHES.iter().find(|(cuda, _)| *cuda <= header.driver_version);
    branch.map_or("0.00", |(_, text)| text).into()
}

#[derive(Debug)]
struct State {
    /// Calls of nvmlInit without their nvmlShutdown.
    references: u32,
    library: Option<Arc<Library>>,
}

static STATE: RwLock<State> = RwLock::new(State { references: 0, library: None });
/// What kept nvmlInit from working, as it was logged last: programs call it again and again.
static COMPLAINT: Mutex<String> = Mutex::new(String::new());

/// The library, unless it was not initialised.
pub fn current() -> Option<Arc<Library>> {
    STATE.read().unwrap_or_else(PoisonError::into_inner).library.clone()
}

/// Asks the agent.
fn open() -> std::result::Result<Library, ConnectionError> {
    let connection = Connection::open(Mode::SnapshotOnly)?;
    let library = Library::new(&connection.snapshot, connection.pci);
    Ok(Library { readings: Readings::new(connection), ..library })
}

/// The library, or what it would be after nvmlInit if that works.
pub fn current_or_new() -> Option<Arc<Library>> {
    current().or_else(|| open().ok().map(Arc::new))
}

/// Counts the call; the first asks the agent.
pub fn nvmlInit_v2() -> error::Result {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    if state.library.is_none() {
        state.library = Some(Arc::new(open().map_err(|error| complain(&error))?));
        record::at_exit();
    }
    state.references = state.references.saturating_add(1);
    Ok(())
}

pub fn nvmlInit() -> error::Result {
    nvmlInit_v2()
}

/// The flags say what not to do with devices at the start, and here nothing is done with them; the native library takes any.
pub fn nvmlInitWithFlags(_flags: u32) -> error::Result {
    nvmlInit_v2()
}

pub fn nvmlShutdown() -> error::Result {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    state.references = state.references.checked_sub(1).ok_or(NvmlError::Uninitialized)?;
    if state.references == 0 {
        state.library = None;
        event::end();
    }
    Ok(())
}

/// Logs why there is no library, once, and says it as NVML's code.
fn complain(error: &ConnectionError) -> NvmlError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let mut last = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
    if *last != text {
        vgpu_client::error!("{text}");
        *last = text;
    }
    match error {
        ConnectionError::NoAgent { .. } | ConnectionError::Refused { status: status::NO_WORKER, .. } => {
            NvmlError::DriverNotLoaded
        }
        ConnectionError::Permission { .. } => NvmlError::NoPermission,
        ConnectionError::Version { .. } => NvmlError::LibRmVersionMismatch,
        ConnectionError::Timeout { .. } => NvmlError::Timeout,
        _ => NvmlError::Unknown,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::identity::tests::h100;

    /// A library with `count` H100 of the host.
    pub fn library(count: usize) -> Library {
        let mut driver_name = [0; 32];
        driver_name[..10].copy_from_slice(b"580.159.04");
        let header = SnapshotHeader {
            driver_version: 13010,
            device_count: u32::try_from(count).unwrap(),
            driver_name,
        };
        let devices = (0..count).map(|i| h100(u8::try_from(i).unwrap())).collect();
        Library::new(&Snapshot { header, devices }, PciAddress::default())
    }

    #[test]
    fn devices_are_in_the_order_of_the_hosts_addresses() {
        let header = SnapshotHeader { driver_version: 13000, device_count: 2, driver_name: [0; 32] };
        let snapshot = Snapshot { header, devices: vec![h100(3), h100(1)] };
        let library = Library::new(&snapshot, PciAddress::default());
        let devices: Vec<_> =
            library.devices().iter().map(|d| (d.index, d.ordinal, d.uuid_bytes[0])).collect();
        assert_eq!(devices, [(0, 1, 0xa1), (1, 0, 0xa3)]);
    }

    #[test]
    fn only_handles_of_present_devices_are_taken() {
        let library = library(2);
        let second = library.handle(&library.devices()[1]).unwrap();
        assert_eq!(library.device(second).unwrap().index, 1);
        for wrong in [0, 1, second + 1, second + 8, second - 16, u64::MAX] {
            assert_eq!(library.device(wrong).err(), Some(NvmlError::InvalidArgument), "{wrong:#x}");
        }
    }

    #[test]
    fn the_version_of_the_driver_is_the_hosts_or_that_of_the_driver_api() {
        assert_eq!(library(1).driver_version, "580.159.04");
        for (cuda, want) in
            [(13000, "580.00"), (13020, "580.00"), (12070, "560.00"), (12000, "525.00"), (1, "0.00")]
        {
            let header = SnapshotHeader { driver_version: cuda, device_count: 0, driver_name: [0; 32] };
            assert_eq!(driver_version(&header), want);
        }
    }

    #[test]
    fn the_driver_api_is_shown_no_newer_than_the_shims() {
        assert_eq!(library(1).cuda_version, 13000);
    }
}
