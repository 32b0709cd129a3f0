//! What the broker says of itself, its VMs and their clients, as it goes over the operator's socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// The broker's clock: rates are differences divided by its.
    pub uptime_ms: u64,
    /// By the host's ordinals.
    pub devices: Vec<DeviceStatus>,
    pub workers: WorkersStatus,
    pub vms: Vec<VmStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    pub name: String,
    /// Bytes.
    pub memory: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkersStatus {
    /// That wait for a client.
    pub warm: usize,
    pub starting: usize,
    /// Starts so far that succeeded.
    pub starts: u64,
    /// Starts so far that did not.
    pub failures: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    pub name: String,
    pub socket: PathBuf,
    pub weight: u32,
    /// Percent.
    pub cap: u32,
    /// Bytes.
    pub pinned_limit: Option<u64>,
    /// Seconds of idleness after which it may be suspended.
    #[serde(default)]
    pub suspend_after: Option<u32>,
    #[serde(default)]
    pub presence: PresenceStatus,
    pub max_clients: u32,
    pub queues: u16,
    /// The host's ordinals, in the VM's order; `None` for all.
    #[serde(default)]
    pub devices: Option<Vec<u32>>,
    /// By the host's ordinals.
    pub memory: Vec<MemoryStatus>,
    /// Of all its clients since it was added.
    pub counts: Counts,
    /// `None` if none is connected.
    pub front_end: Option<FrontEnd>,
    pub clients: Vec<ClientStatus>,
}

impl VmStatus {
    /// Whether the host's device is one of the VM's, or was: `used` is what it still uses there.
    pub fn has_device(&self, ordinal: usize, used: u64) -> bool {
        let listed = |devices: &Vec<u32>| devices.iter().any(|&device| device as usize == ordinal);
        used > 0 || self.devices.as_ref().is_none_or(listed)
    }
}

/// Where a VM's device memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPlace {
    /// On the devices.
    #[default]
    Running,
    Suspending,
    /// In the host's memory.
    Suspended,
    Resuming,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PresenceStatus {
    pub place: VmPlace,
    /// Only a command brings it back.
    pub hold: bool,
    /// For how long it has been there; 0 if it never was suspended.
    pub since_ms: u64,
    /// Times that it was suspended.
    pub suspensions: u64,
    /// Why it could not be suspended the last time that this was tried.
    pub failure: Option<String>,
}

/// Bytes of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStatus {
    pub used: u64,
    /// `None` for no limit.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FrontEnd {
    /// The guest's agent has said hello.
    pub agent: bool,
    /// Lanes that clients have.
    pub lanes: usize,
    /// Messages in them that are not done.
    pub queue_depth: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// Its number between agent and broker.
    pub number: u32,
    /// Name and process number in the guest, made printable.
    pub name: String,
    pub pid: u32,
    /// The worker's process number on the host.
    pub worker: u32,
    /// Its worker has ended by itself.
    pub lost: bool,
    pub lanes: usize,
    /// Bytes, by the host's ordinals.
    pub memory: Vec<u64>,
    pub counts: Counts,
}

/// What was done. Each only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls that the guest did not wait for.
    pub calls_async: u64,
    /// Calls that it waited for.
    pub round_trips: u64,
    pub errors: u64,
    pub launches: u64,
    pub bytes_to_device: u64,
    pub bytes_from_device: u64,
    /// For which its work had a device, as far as measured.
    pub device_ns: u64,
    /// For which it was held back in favour of others, or by its cap.
    pub throttled_ns: u64,
}
