//! NVML's structures, in C's layout; `X` is `nvmlX_t` of the header.
#![allow(non_camel_case_types, clippy::upper_case_acronyms)]

use std::{ffi::c_void, os::raw::c_char};
use zerocopy::{FromBytes, Immutable, KnownLayout};

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
versioned!(
    EccSramErrorStatus 1,
    GpmSupport 1,
    GpuFabricInfoV 2,
    MarginTemperature 1,
    Memory_v2 2,
    PciInfoExt 1,
    ProcessDetailList 1,
    ProcessesUtilizationInfo 1,
    SystemDriverBranchInfo 1,
    Temperature 1,
    UUID 1
);

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, Immutable, KnownLayout)]
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

/// Percent of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Utilization {
    pub gpu: u32,
    pub memory: u32,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BAR1Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EccErrorCounts {
    pub l1_cache: u64,
    pub l2_cache: u64,
    pub device_memory: u64,
    pub register_file: u64,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RowRemapperHistogramValues {
    pub max: u32,
    pub high: u32,
    pub partial: u32,
    pub low: u32,
    pub none: u32,
}

/// Nanoseconds, of time and of violations in it.
#[derive(Debug, Clone, Copy, Default, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ViolationTime {
    pub reference: u64,
    pub violation: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessUtilizationSample {
    pub pid: u32,
    /// Microseconds since 1970.
    pub timestamp: u64,
    /// Percent, as the others.
    pub sm: u32,
    pub memory: u32,
    pub encoder: u32,
    pub decoder: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessUtilizationInfo_v1 {
    /// Microseconds since 1970.
    pub timestamp: u64,
    pub pid: u32,
    /// Percent, as the others.
    pub sm: u32,
    pub memory: u32,
    pub encoder: u32,
    pub decoder: u32,
    pub jpeg: u32,
    pub optical_flow: u32,
}

#[derive(Debug)]
#[repr(C)]
pub struct ProcessesUtilizationInfo {
    pub version: u32,
    pub count: u32,
    pub last_seen: u64,
    pub array: *mut ProcessUtilizationInfo_v1,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Temperature {
    pub version: u32,
    pub sensor: u32,
    pub degrees: i32,
}

/// Degrees below the temperature at which the device slows down.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MarginTemperature {
    pub version: u32,
    pub degrees: i32,
}

#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EccSramErrorStatus {
    pub version: u32,
    /// Uncorrectable by parity and by code, and correctable: since ever, and since the driver's start.
    pub aggregate: [u64; 3],
    pub volatile: [u64; 3],
    /// Uncorrectable since ever, by unit: L2, SM, PCIe, microcontroller, others.
    pub units: [u64; 5],
    pub threshold_exceeded: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GpuFabricInfo {
    pub cluster: [u8; 16],
    pub status: u32,
    pub clique: u32,
    /// A byte in the header, with padding behind it.
    pub state: u8,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct GpuFabricInfoV {
    pub version: u32,
    pub cluster: [u8; 16],
    pub status: u32,
    pub clique: u32,
    pub state: u8,
    pub health: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SystemDriverBranchInfo {
    pub version: u32,
    pub branch: [u8; 80],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct GpmSupport {
    pub version: u32,
    pub supported: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct FBCStats {
    pub sessions: u32,
    pub average_fps: u32,
    pub average_latency: u32,
}

/// 16 bytes.
pub type Uuid = [u8; 16];

/// Text with its NUL.
pub type GspFirmwareVersion = [u8; 64];

/// Never written: there are no sessions.
pub type EncoderSessionInfo = c_void;
pub type FBCSessionInfo = c_void;

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ConfComputeSystemState {
    pub environment: u32,
    pub feature: u32,
    pub developer_tools: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ConfComputeSystemCaps {
    pub processor: u32,
    pub devices: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct EventData {
    pub device: u64,
    pub kind: u64,
    pub data: u64,
    pub gpu_instance: u32,
    pub compute_instance: u32,
}

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
        assert_eq!(size_of::<Utilization>(), 8);
        for (name, size, version) in [
            ("BAR1Memory", size_of::<BAR1Memory>(), 0),
            ("EccErrorCounts", size_of::<EccErrorCounts>(), 0),
            ("EccSramErrorStatus", size_of::<EccSramErrorStatus>(), EccSramErrorStatus::VERSION),
            ("MarginTemperature", size_of::<MarginTemperature>(), MarginTemperature::VERSION),
            ("RowRemapperHistogramValues", size_of::<RowRemapperHistogramValues>(), 0),
            ("ViolationTime", size_of::<ViolationTime>(), 0),
        ] {
            let ty = vgpu_spec::nvml::Type::Struct(name.into());
            assert_eq!(vgpu_spec::nvml::host::size(&ty), Some(size), "{name}, as the host passes it on");
            assert_eq!(vgpu_spec::nvml::host::version(&ty), version, "{name}");
        }
        assert_eq!(Memory_v2::VERSION, 0x0200_0028);
        assert_eq!(PciInfoExt::VERSION, 0x0100_0040);
        assert_eq!(ProcessDetailList::VERSION, 0x0100_0018);
        assert_eq!(UUID::VERSION, 0x0100_0034);
    }
}
