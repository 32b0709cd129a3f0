//! What the host's devices are: taken once by a worker, shown to every client, so that getters need no round trip.
//!
//! Bytes: [`SnapshotHeader`], then per device [`DeviceRecord`] and its `attribute_count` × `i32`: attribute k is at index k − 1.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of an attribute that the host's driver does not know.
pub const NO_ATTRIBUTE: i32 = i32::MIN;
/// The most devices of a snapshot.
pub const MAX_DEVICES: u32 = 16;
/// The most attributes of a device.
pub const MAX_ATTRIBUTES: u32 = 512;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotHeader {
    /// As cuDriverGetVersion: 1000 × major + 10 × minor.
    pub driver_version: u32,
    pub device_count: u32,
    /// The driver's own version as text ("580.159.04"), NUL-padded; empty if not known.
    pub driver_name: [u8; 32],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceRecord {
    pub name: [u8; 256],
    pub uuid: [u8; 16],
    /// As cuDeviceTotalMem, in bytes.
    pub total_memory: u64,
    pub pci_domain: u32,
    pub pci_bus: u32,
    pub pci_device: u32,
    /// Context priorities: least (numerically greatest) and greatest.
    pub least_priority: i32,
    pub greatest_priority: i32,
    pub attribute_count: u32,
}

/// A device of a snapshot.
#[derive(Debug, Clone)]
pub struct Device {
    pub record: DeviceRecord,
    /// Attribute k at index k − 1.
    pub attributes: Vec<i32>,
}

/// A snapshot, decoded.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub header: SnapshotHeader,
    pub devices: Vec<Device>,
}

impl Snapshot {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.as_bytes().to_vec();
        for device in &self.devices {
            bytes.extend_from_slice(device.record.as_bytes());
            bytes.extend_from_slice(device.attributes.as_bytes());
            // Each record starts 8-byte aligned.
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    /// Decodes `bytes`; `None` if they are not a snapshot within the limits.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = super::split::<SnapshotHeader>(bytes)?;
        if header.device_count > MAX_DEVICES {
            return None;
        }
        let mut devices = Vec::new();
        for _ in 0..header.device_count {
            let (record, after) = super::split::<DeviceRecord>(rest)?;
            if record.attribute_count > MAX_ATTRIBUTES {
                return None;
            }
            let len = record.attribute_count as usize * 4;
            let attributes = after
                .get(..len)?
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            rest = after.get(len.next_multiple_of(8)..)?;
            devices.push(Device { record, attributes });
        }
        Some(Snapshot { header, devices })
    }
}

impl DeviceRecord {
    /// The host's PCI address, by which devices are ordered: domain, bus, device.
    pub fn pci_address(&self) -> (u32, u32, u32) {
        (self.pci_domain, self.pci_bus, self.pci_device)
    }
}

impl Device {
    /// The device's name, up to its NUL.
    pub fn name(&self) -> String {
        text(&self.record.name)
    }

    /// Attribute `id` (CUdevice_attribute), or `None` if the host's driver does not know it.
    pub fn attribute(&self, id: u32) -> Option<i32> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.attributes.get(index).copied().filter(|&v| v != NO_ATTRIBUTE)
    }
}

/// A UUID as NVIDIA writes it, without the `GPU-` before it: `8-4-4-4-12` lower-case hexadecimal digits.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Text up to its NUL, for NUL-padded fields.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        let mut record = DeviceRecord::read_from_bytes(&[0; size_of::<DeviceRecord>()]).unwrap();
        record.name[..3].copy_from_slice(b"GPU");
        record.attribute_count = 3;
        let header = SnapshotHeader { driver_version: 13000, device_count: 2, driver_name: [0; 32] };
        let device = Device { record, attributes: vec![7, NO_ATTRIBUTE, 9] };
        Snapshot { header, devices: vec![device.clone(), device] }
    }

    #[test]
    fn snapshot_survives_encoding() {
        let bytes = sample().encode();
        let back = Snapshot::decode(&bytes).unwrap();
        assert_eq!(back.devices.len(), 2);
        assert_eq!(back.devices[1].name(), "GPU");
        assert_eq!(back.devices[1].attribute(1), Some(7));
        assert_eq!(back.devices[1].attribute(2), None);
        assert_eq!(back.devices[1].attribute(0), None);
        assert_eq!(back.devices[1].attribute(4), None);
    }

    #[test]
    fn uuids_read_as_nvidia_writes_them() {
        let uuid: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 17).unwrap());
        assert_eq!(uuid_text(&uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn truncated_snapshot_is_refused() {
        let bytes = sample().encode();
        for len in 0..bytes.len() - 4 {
            assert!(Snapshot::decode(&bytes[..len]).is_none(), "accepted {len} of {} bytes", bytes.len());
        }
    }
}
