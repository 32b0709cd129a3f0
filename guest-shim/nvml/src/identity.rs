//! One device as this VM sees it: who it is.

use crate::{
    error::{self, NvmlError},
    pci::Address,
};
use vgpu_spec::wire::{control::PciAddress, snapshot};

/// CUdevice_attribute values from which NVML's figures come.
pub mod attribute {
    pub const CLOCK_RATE: u32 = 13;
    pub const MULTIPROCESSOR_COUNT: u32 = 16;
    pub const COMPUTE_MODE: u32 = 20;
    pub const ECC_ENABLED: u32 = 32;
    pub const MEMORY_CLOCK_RATE: u32 = 36;
    pub const GLOBAL_MEMORY_BUS_WIDTH: u32 = 37;
    pub const COMPUTE_CAPABILITY_MAJOR: u32 = 75;
    pub const COMPUTE_CAPABILITY_MINOR: u32 = 76;
    pub const MULTI_GPU_BOARD: u32 = 84;
    pub const MULTI_GPU_BOARD_GROUP_ID: u32 = 85;
}

#[derive(Debug)]
pub struct Device {
    pub index: u32,
    /// In the snapshot, by which the agent knows it.
    pub ordinal: u32,
    pub name: String,
    /// As `GPU-8-4-4-4-12` lower-case hexadecimal digits.
    pub uuid: String,
    pub uuid_bytes: [u8; 16],
    pub address: Address,
    /// Bytes.
    pub total_memory: u64,
    snapshot: snapshot::Device,
}

impl Device {
    /// `guest` is the address of the guest's device; the host's is shown if the guest has none.
    pub fn new(index: u32, ordinal: u32, snapshot: snapshot::Device, guest: PciAddress) -> Self {
        let record = &snapshot.record;
        Device {
            index,
            ordinal,
            name: snapshot.name(),
            uuid: format!("GPU-{}", snapshot::uuid_text(&record.uuid)),
            uuid_bytes: record.uuid,
            address: Address::of(record, guest),
            total_memory: record.total_memory,
            snapshot,
        }
    }

    /// A CUdevice_attribute; NVML_ERROR_NOT_SUPPORTED if the host's driver does not know it.
    pub fn attribute(&self, id: u32) -> error::Result<u32> {
        self.snapshot.attribute(id).and_then(|v| u32::try_from(v).ok()).ok_or(NvmlError::NotSupported)
    }

    pub fn compute_capability(&self) -> error::Result<(u32, u32)> {
        let major = self.attribute(attribute::COMPUTE_CAPABILITY_MAJOR)?;
        Ok((major, self.attribute(attribute::COMPUTE_CAPABILITY_MINOR)?))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use vgpu_spec::wire::snapshot::{DeviceRecord, NO_ATTRIBUTE};

    /// An H100's figures, as its driver tells them; `number` makes UUID and PCI address.
    pub fn h100(number: u8) -> snapshot::Device {
        let mut name = [0; 256];
        name[..21].copy_from_slice(b"NVIDIA H100 80GB HBM3");
        let mut attributes = vec![NO_ATTRIBUTE; 140];
        for (id, value) in [
            (attribute::CLOCK_RATE, 1_980_000),
            (attribute::MULTIPROCESSOR_COUNT, 132),
            (attribute::COMPUTE_MODE, 0),
            (attribute::ECC_ENABLED, 1),
            (attribute::MEMORY_CLOCK_RATE, 2_619_000),
            (attribute::GLOBAL_MEMORY_BUS_WIDTH, 5120),
            (attribute::COMPUTE_CAPABILITY_MAJOR, 9),
            (attribute::COMPUTE_CAPABILITY_MINOR, 0),
            (attribute::MULTI_GPU_BOARD, 0),
        ] {
            attributes[id as usize - 1] = value;
        }
        let record = DeviceRecord {
            name,
            uuid: [number + 0xa0; 16],
            total_memory: 80 << 30,
            pci_domain: 0,
            pci_bus: 0x1b,
            pci_device: u32::from(number),
            least_priority: 0,
            greatest_priority: -5,
            attribute_count: 140,
        };
        snapshot::Device { record, attributes }
    }

    #[test]
    fn an_attribute_that_the_host_lacks_is_not_supported() {
        let device = Device::new(0, 0, h100(0), PciAddress::default());
        assert_eq!(device.attribute(attribute::MULTIPROCESSOR_COUNT), Ok(132));
        assert_eq!(device.attribute(attribute::MULTI_GPU_BOARD_GROUP_ID), Err(NvmlError::NotSupported));
        assert_eq!(device.attribute(9999), Err(NvmlError::NotSupported));
    }
}
