//! NVML's structures, in C's layout; `X` is `nvmlX_t` of the header.
#![allow(non_camel_case_types, clippy::upper_case_acronyms)]

use std::{ffi::c_void, os::raw::c_char};

/// NVML_STRUCT_VERSION: the size and the number of a structure's version.
const fn version<T>(number: u32) -> u32 {
    // No structure of NVML comes near 16 MiB.
    size_of::<T>() as u32 | (number << 24)
}

/// A structure whose first member says which version of it the program passes.
pub trait Versioned: Sized {
    const VERSION: u32;
    fn version(&self) -> u32;
}

macro_rules! versioned {
    ($($name:ident $number:literal),*) => {$(
        impl Versioned for $name {
            const VERSION: u32 = version::<Self>($number);
            fn version(&self) -> u32 {
                self.version
            }
        }
    )*};
}
versioned!(Memory_v2 2, PciInfoExt 1, ProcessDetailList 1, UUID 1);

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Memory_v2 {
    pub version: u32,
    pub total: u64,
    pub reserved: u64,
    pub free: u64,
    pub used: u64,
}

/// What nvmlDeviceGetPciInfo writes of `nvmlPciInfo_t`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PciInfo_v1 {
    pub bus_id_legacy: [u8; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    /// Device number (high half) and vendor number.
    pub pci_device_id: u32,
}

/// What nvmlDeviceGetPciInfo_v2 writes of `nvmlPciInfo_t`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PciInfo_v2 {
    pub v1: PciInfo_v1,
    pub pci_subsystem_id: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PciInfo {
    pub v2: PciInfo_v2,
    pub bus_id: [u8; 32],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PciInfoExt {
    pub version: u32,
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    pub base_class: u32,
    pub sub_class: u32,
    pub bus_id: [u8; 32],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct UUID {
    pub version: u32,
    /// 1: text with its NUL, 2: 16 bytes.
    pub kind: u32,
    pub value: [u8; 41],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessInfo_v1 {
    pub pid: u32,
    /// Bytes.
    pub used_gpu_memory: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessInfo_v2 {
    pub pid: u32,
    /// Bytes.
    pub used_gpu_memory: u64,
    pub gpu_instance_id: u32,
    pub compute_instance_id: u32,
}

/// The third version of the call has the second version of the structure.
pub type ProcessInfo = ProcessInfo_v2;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessDetail_v1 {
    pub pid: u32,
    /// Bytes.
    pub used_gpu_memory: u64,
    pub gpu_instance_id: u32,
    pub compute_instance_id: u32,
    /// Bytes.
    pub used_protected_memory: u64,
}

#[derive(Debug)]
#[repr(C)]
pub struct ProcessDetailList {
    pub version: u32,
    /// 0: compute, 1: graphics, 2: MPS, 3: all.
    pub mode: u32,
    pub entries: u32,
    pub array: *mut ProcessDetail_v1,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct FieldValue {
    pub field_id: u32,
    pub scope_id: u32,
    /// Microseconds since 1970.
    pub timestamp: i64,
    pub latency_us: i64,
    pub value_type: u32,
    /// The code of this field alone.
    pub status: u32,
    pub value: u64,
}

#[derive(Debug)]
#[repr(C)]
pub struct HwbcEntry {
    pub id: u32,
    pub firmware: [c_char; 32],
}

/// Never written: there are no excluded devices.
pub type ExcludedDeviceInfo = c_void;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<PciInfo>(), 68);
        assert_eq!(size_of::<ProcessInfo_v1>(), 16);
        assert_eq!(size_of::<ProcessInfo_v2>(), 24);
        assert_eq!(size_of::<ProcessDetail_v1>(), 32);
        assert_eq!(size_of::<FieldValue>(), 40);
        assert_eq!(size_of::<HwbcEntry>(), 36);
        assert_eq!(Memory_v2::VERSION, 0x0200_0028);
        assert_eq!(PciInfoExt::VERSION, 0x0100_0040);
        assert_eq!(ProcessDetailList::VERSION, 0x0100_0018);
        assert_eq!(UUID::VERSION, 0x0100_0034);
    }
}
