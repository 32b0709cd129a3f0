//! What an operator takes back of a VM's settings.

use serde::{Deserialize, Serialize};

use super::VmConfig;
use crate::limits::Limits;

/// A setting for which the default counts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    DeviceName,
    DeviceUuid,
    DeviceMemory,
    Devices,
    PinnedMemory,
    Weight,
    Cap,
    Clients,
    SuspendAfter,
}

impl Reset {
    /// Takes it back in `vm`, of all devices.
    pub fn apply(self, vm: &mut VmConfig) {
        let defaults = Limits::default();
        match self {
            Reset::DeviceName => vm.identities.forget_names(),
            Reset::DeviceUuid => vm.identities.forget_uuids(),
            Reset::DeviceMemory => vm.identities.forget_memory(),
            Reset::Devices => vm.devices = None,
            Reset::PinnedMemory => vm.limits.pinned = defaults.pinned,
            Reset::Weight => vm.limits.weight = defaults.weight,
            Reset::Cap => vm.limits.cap = defaults.cap,
            Reset::Clients => vm.clients = VmConfig::CLIENTS,
            Reset::SuspendAfter => vm.limits.suspend_after = defaults.suspend_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::VmSettings;
    use clap::ValueEnum;

    #[test]
    fn all_that_can_be_set_can_be_taken_back() {
        let said = "socket = '/run/a.sock'\ndevice-name = 'x'\ndevice-uuid = '1=GPU-01234567-89ab-cdef-0123-456789abcdef'\n\
                    device-memory = 512\ndevices = [1]\npinned-memory = 5\nweight = 7\ncap = 20\nclients = 3\nsuspend-after = 9";
        let said: VmSettings = toml::from_str(said).unwrap();
        let mut vm = said.vm("a").unwrap();
        let socket = VmSettings { socket: said.socket, ..VmSettings::default() };
        let plain = socket.vm("a").unwrap();
        for (left, reset) in (0..Reset::value_variants().len()).rev().zip(Reset::value_variants()) {
            let before = vm.clone();
            reset.apply(&mut vm);
            assert!(vm != before && (left == 0) == (vm == plain), "{reset:?}");
        }
    }
}
