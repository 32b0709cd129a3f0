//! What the command line says of VMs.

use clap::Args;

use super::ConfigError;
use super::settings::{self, VmSettings};
use crate::identity::{self, Setting};

/// What is said of VMs. For the broker they count for the --socket before them, or for all VMs if before the first.
#[derive(Args)]
pub struct VmArgs {
    /// Name that the VM is shown of the host's device N (0 if left out), at most 95 printable ASCII characters
    ///
    /// This and the options below, up to --suspend-after, count for the --socket before them, or for all VMs if before the first.
    #[arg(long = "device-name", value_name = "[N=]NAME", value_parser = identity::parse_name)]
    device_name: Vec<Setting<String>>,
    /// UUID that the VM is shown of the host's device N, as GPU-01234567-89ab-cdef-0123-456789abcdef [default: the device's own]
    #[arg(long = "device-uuid", value_name = "[N=]UUID", value_parser = identity::parse_uuid)]
    device_uuid: Vec<Setting<[u8; 16]>>,
    /// Memory in MiB that the VM has of the host's device N, all its processes together: it is shown so much, and gets no more
    #[arg(long = "device-memory", value_name = "[N=]MIB", value_parser = identity::parse_memory)]
    device_memory: Vec<Setting<u64>>,
    /// The host's devices that the VM has, by their ordinals: the first is its device 0, and so on [default: all]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    devices: Vec<u32>,
    /// MiB of guest memory that the VM's processes may have pinned [default: no limit]
    #[arg(long, value_name = "MIB", value_parser = range(settings::PINNED))]
    pinned_memory: Vec<u64>,
    /// The VM's share of a device's time against others that want it, 1 to 10000 [default: 100]
    #[arg(long, value_name = "N", value_parser = range(settings::WEIGHT))]
    weight: Vec<u64>,
    /// Percent of a device's time that the VM gets at most [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = range(settings::CAP))]
    cap: Vec<u64>,
    /// Guest processes that the VM may have at once [default: 64]
    #[arg(long, value_name = "N", value_parser = range(settings::CLIENTS))]
    clients: Vec<u64>,
    /// Virtqueues of the VM's device: one control, one event, the rest lanes [default: 64]
    #[arg(long, value_name = "N", value_parser = range(settings::QUEUES))]
    queues: Vec<u64>,
    /// Seconds without a call after which the VM may be suspended when another needs the memory (--oversubscribe) [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = range(settings::SUSPEND_AFTER))]
    suspend_after: Vec<u64>,
}

/// Numbers within bounds.
pub fn range((least, most): (u64, u64)) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(least..=most)
}

impl VmArgs {
    /// For one VM.
    pub fn one(self) -> Result<VmSettings, ConfigError> {
        let mut settings = self.spread(1, |_| Vec::new())?;
        Ok(settings.pop().unwrap_or_default())
    }

    /// For `count` VMs; `vm_of` says of each occurrence of an option which is meant, the first if it does not.
    pub fn spread(
        self,
        count: usize,
        vm_of: impl Fn(&str) -> Vec<usize>,
    ) -> Result<Vec<VmSettings>, ConfigError> {
        let mut vms = vec![VmSettings::default(); count];
        let vms = &mut vms;
        give(vms, vm_of("device_name"), self.device_name, |vm, value| {
            vm.device_name.push(value);
            Ok(())
        })?;
        give(vms, vm_of("device_uuid"), self.device_uuid, |vm, value| {
            vm.device_uuid.push(value);
            Ok(())
        })?;
        give(vms, vm_of("device_memory"), self.device_memory, |vm, value| {
            vm.device_memory.push(value);
            Ok(())
        })?;
        give(vms, vm_of("devices"), self.devices, |vm, value| {
            vm.devices.get_or_insert_default().push(value);
            Ok(())
        })?;
        type Place = fn(&mut VmSettings) -> &mut Option<u64>;
        let numbers: [(&'static str, &str, Vec<u64>, Place); 6] = [
            ("pinned-memory", "pinned_memory", self.pinned_memory, |vm| &mut vm.pinned_memory),
            ("weight", "weight", self.weight, |vm| &mut vm.weight),
            ("cap", "cap", self.cap, |vm| &mut vm.cap),
            ("clients", "clients", self.clients, |vm| &mut vm.clients),
            ("queues", "queues", self.queues, |vm| &mut vm.queues),
            ("suspend-after", "suspend_after", self.suspend_after, |vm| &mut vm.suspend_after),
        ];
        for (key, id, values, place) in numbers {
            give(vms, vm_of(id), values, |vm, value| match place(vm).replace(value) {
                Some(_) => Err(ConfigError::Twice(key)),
                None => Ok(()),
            })?;
        }
        Ok(std::mem::take(vms))
    }
}

/// Gives each value to the VM that it is meant for.
fn give<T>(
    vms: &mut [VmSettings],
    places: Vec<usize>,
    values: Vec<T>,
    set: impl Fn(&mut VmSettings, T) -> Result<(), ConfigError>,
) -> Result<(), ConfigError> {
    for (vm, value) in places.into_iter().chain(std::iter::repeat(0)).zip(values) {
        vms.get_mut(vm).map_or(Ok(()), |vm| set(vm, value))?;
    }
    Ok(())
}
