//! CUDA_VISIBLE_DEVICES: which of the host's devices the program sees, and in which order.

use vgpu_spec::wire::snapshot::{Snapshot, uuid_text};

/// Indexes into the snapshot's devices, in the program's order.
///
/// As the CUDA programming guide says: a list of ordinals or of UUID prefixes (`GPU-…`); what follows the first entry that names no
/// device is ignored; a device named twice leaves none.
pub fn select(wish: Option<&str>, snapshot: &Snapshot) -> Vec<usize> {
    let Some(wish) = wish else {
        return (0..snapshot.devices.len()).collect();
    };
    let mut chosen = Vec::new();
    for entry in wish.split(',') {
        let Some(index) = find(entry.trim(), snapshot) else { break };
        if chosen.contains(&index) {
            return Vec::new();
        }
        chosen.push(index);
    }
    chosen
}

fn find(entry: &str, snapshot: &Snapshot) -> Option<usize> {
    if entry.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("GPU-")) {
        return by_uuid(&entry[4..], snapshot);
    }
    // As the driver reads a number: digits, whatever follows them.
    let digits: String = entry.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|&i: &usize| i < snapshot.devices.len())
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
        ] {
            assert_eq!(select(wish, &s), want, "{wish:?}");
        }
    }
}
