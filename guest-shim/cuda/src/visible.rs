//! CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER: which of the host's devices the program sees, and in which order.

use vgpu_spec::wire::snapshot::{Snapshot, uuid_text};

/// What the environment asks for.
#[derive(Debug, Default)]
pub struct Wish {
    /// CUDA_VISIBLE_DEVICES.
    pub devices: Option<String>,
    /// CUDA_DEVICE_ORDER.
    pub order: Option<String>,
}

impl Wish {
    pub fn of_environment() -> Self {
        // What is not UTF-8 names nothing, but it is set.
        let get = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Wish { devices: get("CUDA_VISIBLE_DEVICES"), order: get("CUDA_DEVICE_ORDER") }
    }
}

/// Indexes into the snapshot's devices, in the program's order.
///
/// As the CUDA programming guide says: a list of ordinals or of UUID prefixes (`GPU-…`); what follows the first entry that names no
/// device is ignored; a device named twice leaves none. Ordinals count in the host's order (the fastest first), or in that of the
/// host's PCI addresses.
pub fn select(wish: &Wish, snapshot: &Snapshot) -> Vec<usize> {
    let mut all: Vec<usize> = (0..snapshot.devices.len()).collect();
    if wish.order.as_deref() == Some("PCI_BUS_ID") {
        all.sort_by_key(|&i| snapshot.devices.get(i).map(|device| device.record.pci_address()));
    }
    let Some(devices) = &wish.devices else { return all };
    let mut chosen = Vec::new();
    for entry in devices.split(',') {
        let Some(index) = find(entry.trim(), &all, snapshot) else { break };
        if chosen.contains(&index) {
            return Vec::new();
        }
        chosen.push(index);
    }
    chosen
}

fn find(entry: &str, all: &[usize], snapshot: &Snapshot) -> Option<usize> {
    if entry.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("GPU-")) {
        return by_uuid(&entry[4..], snapshot);
    }
    // As the driver reads a number: digits, whatever follows them.
    let digits: String = entry.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().and_then(|ordinal: usize| all.get(ordinal).copied())
}

/// The one device whose UUID begins so.
fn by_uuid(prefix: &str, snapshot: &Snapshot) -> Option<usize> {
    let wanted = prefix.to_ascii_lowercase();
    let mut matches = (0..snapshot.devices.len())
        .filter(|&i| uuid_text(&snapshot.devices[i].record.uuid).starts_with(&wanted));
    match (matches.next(), matches.next()) {
        (Some(index), None) if !wanted.is_empty() => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_spec::wire::snapshot::{Device, SnapshotHeader};

    fn snapshot() -> Snapshot {
        let devices = [0x11_u8, 0x12, 0x22]
            .map(|byte| Device { record: crate::device::tests::record([byte; 16]), attributes: Vec::new() })
            .to_vec();
        Snapshot {
            header: SnapshotHeader { driver_version: 13000, device_count: 3, driver_name: [0; 32] },
            devices,
        }
    }

    #[test]
    fn devices_are_chosen_as_the_driver_does() {
        let s = snapshot();
        for (wish, want) in [
            (None, vec![0, 1, 2]),
            (Some(""), vec![]),
            (Some("-1"), vec![]),
            (Some("2,0"), vec![2, 0]),
            (Some("0,7,1"), vec![0]),
            (Some("1,-1,0"), vec![1]),
            (Some("0,0"), vec![]),
            (Some(" 1 , 2"), vec![1, 2]),
            (Some("GPU-22"), vec![2]),
            (Some("GPU-1"), vec![]),
            (Some("gpu-12121212-1212"), vec![1]),
            (Some("GPU-22,GPU-11"), vec![2, 0]),
            (Some("GPU-"), vec![]),
            (Some("NoDevFiles"), vec![]),
            (Some("MIG-11111111-1111-1111-1111-111111111111"), vec![]),
            (Some("1x"), vec![1]),
            (Some("0,,1"), vec![0]),
            (Some("99999999999999999999"), vec![]),
        ] {
            let wish = Wish { devices: wish.map(Into::into), order: None };
            assert_eq!(select(&wish, &s), want, "{wish:?}");
        }
    }

    #[test]
    fn ordinals_count_in_the_order_that_is_asked_for() {
        let mut s = snapshot();
        for (device, bus) in s.devices.iter_mut().zip([3, 1, 2]) {
            device.record.pci_bus = bus;
        }
        for (devices, order, want) in [
            (None, "PCI_BUS_ID", vec![1, 2, 0]),
            (None, "FASTEST_FIRST", vec![0, 1, 2]),
            (None, "anything", vec![0, 1, 2]),
            (Some("2,0"), "PCI_BUS_ID", vec![0, 1]),
            (Some("3"), "PCI_BUS_ID", vec![]),
            (Some("GPU-22,GPU-11"), "PCI_BUS_ID", vec![2, 0]),
        ] {
            let wish = Wish { devices: devices.map(Into::into), order: Some(order.into()) };
            assert_eq!(select(&wish, &s), want, "{wish:?}");
        }
    }
}
