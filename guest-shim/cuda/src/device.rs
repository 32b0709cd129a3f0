//! Devices: answered from the snapshot, with the guest's own PCI address.

use crate::{call::put, client, error, handles, sharing};
use std::ffi::{CStr, c_char};
use vgpu_client::Connection;
use vgpu_spec::{
    handle::Kind,
    plain::Blob1,
    wire::{
        control::PciAddress,
        snapshot::{self, Device},
    },
};

/// CUdevice_attribute values that the shim looks at.
pub mod attribute {
    pub const MAX_THREADS_PER_BLOCK: u32 = 1;
    pub const MAX_BLOCK_DIM_X: u32 = 2;
    pub const MAX_GRID_DIM_X: u32 = 5;
    pub const MAX_SHARED_MEMORY_PER_BLOCK: u32 = 8;
    pub const TOTAL_CONSTANT_MEMORY: u32 = 9;
    pub const WARP_SIZE: u32 = 10;
    pub const MAX_PITCH: u32 = 11;
    pub const MAX_REGISTERS_PER_BLOCK: u32 = 12;
    pub const CLOCK_RATE: u32 = 13;
    pub const MULTIPROCESSOR_COUNT: u32 = 16;
    pub const MAX_THREADS_PER_MULTIPROCESSOR: u32 = 39;
    pub const UNIFIED_FUNCTION_POINTERS: u32 = 129;
    pub const TEXTURE_ALIGNMENT: u32 = 14;
    pub const PCI_BUS_ID: u32 = 33;
    pub const PCI_DEVICE_ID: u32 = 34;
    pub const PCI_DOMAIN_ID: u32 = 50;
    pub const COMPUTE_CAPABILITY_MAJOR: u32 = 75;
    pub const COMPUTE_CAPABILITY_MINOR: u32 = 76;
    pub const PAGEABLE_MEMORY_ACCESS: u32 = 88;
    pub const PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES: u32 = 100;
    pub const GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED: u32 = 110;
    pub const DMA_BUF_SUPPORTED: u32 = 124;
    pub const HANDLE_TYPE_FABRIC_SUPPORTED: u32 = 128;
    pub const MULTICAST_SUPPORTED: u32 = 132;
    pub const MEM_DECOMPRESS_ALGORITHM_MASK: u32 = 136;
    pub const MEM_DECOMPRESS_MAXIMUM_LENGTH: u32 = 137;
    pub const HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: u32 = 141;
    pub const HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: u32 = 145;
    pub const MEMPOOL_SUPPORTED_HANDLE_TYPES: u32 = 119;
    pub const HOST_NUMA_MEMORY_POOLS_SUPPORTED: u32 = 142;
    pub const HOST_MEMORY_POOLS_SUPPORTED: u32 = 144;

    /// What is not supported yet is said to be absent, so that programs take another way.
    pub const ABSENT: &[u32] = &[
        PAGEABLE_MEMORY_ACCESS,
        PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
        UNIFIED_FUNCTION_POINTERS,
        GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
        DMA_BUF_SUPPORTED,
        HANDLE_TYPE_FABRIC_SUPPORTED,
        MEM_DECOMPRESS_ALGORITHM_MASK,
        MEM_DECOMPRESS_MAXIMUM_LENGTH,
        HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        HOST_NUMA_MEMORY_POOLS_SUPPORTED,
        HOST_MEMORY_POOLS_SUPPORTED,
    ];
}

/// The devices that the program sees.
pub struct Devices {
    driver_version: u32,
    devices: Vec<Visible>,
}

/// What a launch may ask for at most. Asked by each launch, so looked up once.
#[derive(Clone, Copy)]
pub struct LaunchLimits {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Of a block.
    pub threads: u32,
    /// Bytes of shared memory without asking for more.
    pub shared: u32,
}

impl LaunchLimits {
    /// What the host's driver does not tell has no limit.
    fn new(device: &Device) -> Self {
        let limit = |id| device.attribute(id).map_or(u32::MAX, i32::cast_unsigned);
        let three = |first| [limit(first), limit(first + 1), limit(first + 2)];
        LaunchLimits {
            grid: three(attribute::MAX_GRID_DIM_X),
            block: three(attribute::MAX_BLOCK_DIM_X),
            threads: limit(attribute::MAX_THREADS_PER_BLOCK),
            shared: limit(attribute::MAX_SHARED_MEMORY_PER_BLOCK),
        }
    }
}

struct Visible {
    device: Device,
    limits: LaunchLimits,
    /// The host's ordinal.
    host: i32,
    /// Handle of the primary context.
    primary: u64,
    pci: (i32, i32, i32),
}

impl Devices {
    /// The chosen devices of the connection's snapshot.
    pub fn new(connection: &Connection, chosen: Vec<usize>) -> error::Result<Self> {
        let mut devices = Vec::new();
        for index in chosen {
            let device = connection.snapshot.devices.get(index).ok_or(error::NO_DEVICE)?.clone();
            let ordinal = devices.len() as u64;
            let primary = handles::create_with(Kind::Context, ordinal, 0)?;
            let pci = pci(&device, connection.pci);
            let (limits, host) = (LaunchLimits::new(&device), i32::try_from(index).unwrap_or(0));
            devices.push(Visible { device, limits, host, primary, pci });
        }
        Ok(Devices { driver_version: connection.snapshot.header.driver_version, devices })
    }

    pub fn len(&self) -> usize {
        self.devices.len()
    }

    pub fn driver_version(&self) -> u32 {
        self.driver_version
    }

    fn at(&self, ordinal: i32) -> error::Result<&Visible> {
        usize::try_from(ordinal).ok().and_then(|i| self.devices.get(i)).ok_or(error::INVALID_DEVICE)
    }

    /// The host's ordinal of the program's.
    pub fn host_ordinal(&self, ordinal: i32) -> error::Result<i32> {
        Ok(self.at(ordinal)?.host)
    }

    /// The program's ordinal of the host's; none for a device that it does not see.
    pub fn ordinal_of_host(&self, host: i32) -> Option<i32> {
        self.devices.iter().position(|d| d.host == host).and_then(|i| i32::try_from(i).ok())
    }

    /// Whether a device can be part of a multicast object.
    pub fn have_multicast(&self) -> bool {
        let can = |d: &Visible| d.device.attribute(attribute::MULTICAST_SUPPORTED).is_some_and(|v| v != 0);
        self.devices.iter().any(can)
    }

    /// Handle of the primary context.
    pub fn primary(&self, ordinal: i32) -> error::Result<u64> {
        Ok(self.at(ordinal)?.primary)
    }

    pub fn uuid(&self, ordinal: i32) -> error::Result<[u8; 16]> {
        Ok(self.at(ordinal)?.device.record.uuid)
    }

    /// Domain, bus and device.
    pub fn pci(&self, ordinal: i32) -> error::Result<(i32, i32, i32)> {
        Ok(self.at(ordinal)?.pci)
    }

    /// What a launch may ask for.
    #[inline]
    pub fn launch_limits(&self, ordinal: i32) -> error::Result<&LaunchLimits> {
        Ok(&self.at(ordinal)?.limits)
    }

    /// Least and greatest stream priority.
    pub fn priorities(&self, ordinal: i32) -> error::Result<(i32, i32)> {
        let record = &self.at(ordinal)?.device.record;
        Ok((record.least_priority, record.greatest_priority))
    }

    /// An attribute as the program is to see it.
    pub fn attribute(&self, ordinal: i32, id: u32) -> error::Result<i32> {
        let visible = self.at(ordinal)?;
        let value = visible.device.attribute(id).ok_or(error::INVALID_VALUE)?;
        Ok(match id {
            attribute::PCI_DOMAIN_ID => visible.pci.0,
            attribute::PCI_BUS_ID => visible.pci.1,
            attribute::PCI_DEVICE_ID => visible.pci.2,
            // Only descriptors are exported.
            attribute::MEMPOOL_SUPPORTED_HANDLE_TYPES => value & sharing::FILE_DESCRIPTOR.cast_signed(),
            id if attribute::ABSENT.contains(&id) => 0,
            _ => value,
        })
    }
}

/// The guest's address of the device if it has one of its own, else the host's.
fn pci(device: &Device, guest: PciAddress) -> (i32, i32, i32) {
    if guest.present != 0 {
        return (guest.domain.cast_signed(), i32::from(guest.bus), i32::from(guest.device));
    }
    let record = &device.record;
    (record.pci_domain.cast_signed(), record.pci_bus.cast_signed(), record.pci_device.cast_signed())
}

/// The host's ordinal of the program's.
pub fn host_ordinal(ordinal: i32) -> error::Result<i32> {
    devices()?.host_ordinal(ordinal)
}

/// The program's ordinal of one of the host's devices, if the program sees it.
pub fn own_ordinal(host: i32) -> Option<i32> {
    let devices = devices().ok()?;
    let len = i32::try_from(devices.len()).unwrap_or(i32::MAX);
    (0..len).find(|&own| devices.host_ordinal(own) == Ok(host))
}

fn devices() -> error::Result<&'static Devices> {
    Ok(&client::get()?.devices)
}

pub unsafe fn cuDeviceGetCount(count: *mut i32) -> error::Result {
    let len = devices()?.len();
    // SAFETY: the program's pointer.
    unsafe { put(count, i32::try_from(len).unwrap_or(i32::MAX)) }
}

pub unsafe fn cuDeviceGet(device: *mut i32, ordinal: i32) -> error::Result {
    devices()?.at(ordinal)?;
    // SAFETY: the program's pointer.
    unsafe { put(device, ordinal) }
}

pub unsafe fn cuDeviceGetName(name: *mut u8, len: i32, dev: i32) -> error::Result {
    let record = &devices()?.at(dev)?.device.record;
    // Measured: a length below 0 counts as a large one, here only.
    let len = if len < 0 { i32::MAX } else { len };
    // SAFETY: the program's buffer of `len` bytes.
    unsafe { copy_text(name, len, snapshot::text(&record.name).as_bytes()) }
}

/// Writes `text` and a NUL, cut to `len` bytes.
///
/// # Safety
/// `place` is NULL or has room for `len` bytes.
unsafe fn copy_text(place: *mut u8, len: i32, text: &[u8]) -> error::Result {
    let room =
        usize::try_from(len).ok().filter(|&n| n > 0 && !place.is_null()).ok_or(error::INVALID_VALUE)?;
    let count = text.len().min(room - 1);
    // SAFETY: `count` + 1 is at most `room`.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), place, count);
        place.add(count).write(0);
    }
    Ok(())
}

pub unsafe fn cuDeviceGetUuid(uuid: *mut Blob1<16>, dev: i32) -> error::Result {
    let id = devices()?.uuid(dev)?;
    // SAFETY: the program's pointer.
    unsafe { put(uuid, Blob1(id)) }
}

pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut Blob1<16>, dev: i32) -> error::Result {
    // SAFETY: as there.
    unsafe { cuDeviceGetUuid(uuid, dev) }
}

/// Windows' name of a device. As on Linux, after its checks.
pub unsafe fn cuDeviceGetLuid(luid: *mut u8, deviceNodeMask: *mut u32, dev: i32) -> error::Result {
    let devices = devices()?;
    if luid.is_null() || deviceNodeMask.is_null() {
        return Err(error::INVALID_VALUE);
    }
    devices.at(dev)?;
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuDeviceTotalMem(bytes: *mut u32, dev: i32) -> error::Result {
    let total = devices()?.at(dev)?.device.record.total_memory;
    // SAFETY: the program's pointer. The old form has 32 bits.
    unsafe { put(bytes, u32::try_from(total).unwrap_or(u32::MAX)) }
}

pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: i32) -> error::Result {
    let total = devices()?.at(dev)?.device.record.total_memory;
    // SAFETY: the program's pointer.
    unsafe { put(bytes, usize::try_from(total).unwrap_or(usize::MAX)) }
}

pub unsafe fn cuDeviceGetAttribute(pi: *mut i32, attrib: u32, dev: i32) -> error::Result {
    let value = devices()?.attribute(dev, attrib)?;
    // SAFETY: the program's pointer.
    unsafe { put(pi, value) }
}

pub unsafe fn cuDeviceGetPCIBusId(pciBusId: *mut u8, len: i32, dev: i32) -> error::Result {
    let (domain, bus, device) = devices()?.pci(dev)?;
    let text = format!("{domain:04x}:{bus:02x}:{device:02x}.0").to_ascii_uppercase();
    // SAFETY: the program's buffer of `len` bytes.
    unsafe { copy_text(pciBusId, len, text.as_bytes()) }?;
    if usize::try_from(len).is_ok_and(|len| len > text.len()) { Ok(()) } else { Err(error::INVALID_VALUE) }
}

/// `[domain:]bus:device[.function]`, in hexadecimal.
fn parse_pci(text: &str) -> Option<(i32, i32, i32)> {
    let text = text.split('.').next()?;
    let mut numbers = text.split(':').map(|n| i32::from_str_radix(n, 16));
    let mut next = || numbers.next()?.ok();
    match (next(), next(), next()) {
        (Some(domain), Some(bus), Some(device)) => Some((domain, bus, device)),
        (Some(bus), Some(device), None) => Some((0, bus, device)),
        _ => None,
    }
}

pub unsafe fn cuDeviceGetByPCIBusId(dev: *mut i32, pciBusId: *const c_char) -> error::Result {
    if pciBusId.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not NULL, hence NUL-terminated.
    let text = unsafe { CStr::from_ptr(pciBusId) }.to_string_lossy();
    let wanted = parse_pci(&text).ok_or(error::INVALID_VALUE)?;
    let all = devices()?;
    let found = all.devices.iter().position(|d| d.pci == wanted).ok_or(error::INVALID_DEVICE)?;
    // SAFETY: the program's pointer.
    unsafe { put(dev, i32::try_from(found).unwrap_or(0)) }
}

/// CUdevprop, of the CUDA 1.0 API: eleven numbers.
pub unsafe fn cuDeviceGetProperties(prop: *mut vgpu_spec::plain::Blob4<56>, dev: i32) -> error::Result {
    use attribute::*;
    let all = devices()?;
    let ids = [
        MAX_THREADS_PER_BLOCK,
        MAX_BLOCK_DIM_X,
        MAX_BLOCK_DIM_X + 1,
        MAX_BLOCK_DIM_X + 2,
        MAX_GRID_DIM_X,
        MAX_GRID_DIM_X + 1,
        MAX_GRID_DIM_X + 2,
        MAX_SHARED_MEMORY_PER_BLOCK,
        TOTAL_CONSTANT_MEMORY,
        WARP_SIZE,
        MAX_PITCH,
        MAX_REGISTERS_PER_BLOCK,
        CLOCK_RATE,
        TEXTURE_ALIGNMENT,
    ];
    let mut bytes = [0; 56];
    for (place, id) in bytes.chunks_exact_mut(4).zip(ids) {
        place.copy_from_slice(&all.attribute(dev, id)?.to_le_bytes());
    }
    // SAFETY: the program's pointer.
    unsafe { put(prop, vgpu_spec::plain::Blob4(bytes)) }
}

pub unsafe fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, dev: i32) -> error::Result {
    let all = devices()?;
    let (a, b) = (
        all.attribute(dev, attribute::COMPUTE_CAPABILITY_MAJOR)?,
        all.attribute(dev, attribute::COMPUTE_CAPABILITY_MINOR)?,
    );
    // SAFETY: the program's pointers.
    unsafe { put(major, a).and_then(|()| put(minor, b)) }
}

/// CU_EXEC_AFFINITY_TYPE_SM_COUNT needs MPS, which does not reach into a guest.
pub unsafe fn cuDeviceGetExecAffinitySupport(pi: *mut i32, _kind: u32, dev: i32) -> error::Result {
    devices()?.at(dev)?;
    // SAFETY: the program's pointer.
    unsafe { put(pi, 0) }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use vgpu_spec::wire::snapshot::DeviceRecord;

    pub fn record(uuid: [u8; 16]) -> DeviceRecord {
        DeviceRecord {
            name: [0; 256],
            uuid,
            total_memory: 0,
            pci_domain: 1,
            pci_bus: 2,
            pci_device: 3,
            least_priority: 0,
            greatest_priority: -5,
            attribute_count: 0,
        }
    }

    #[test]
    fn pci_addresses_are_read_in_all_forms() {
        for (text, want) in [
            ("0000:1b:00.0", Some((0, 0x1b, 0))),
            ("0001:0A:1f", Some((1, 10, 31))),
            ("1b:02.0", Some((0, 0x1b, 2))),
            ("1b", None),
            ("x:y:z", None),
            ("", None),
        ] {
            assert_eq!(parse_pci(text), want, "{text}");
        }
    }

    #[test]
    fn the_guests_own_address_is_shown_when_it_has_one() {
        let device = Device { record: record([0; 16]), attributes: Vec::new() };
        let guest = PciAddress { domain: 0, bus: 5, device: 6, function: 0, present: 1 };
        assert_eq!(pci(&device, guest), (0, 5, 6));
        assert_eq!(pci(&device, PciAddress::default()), (1, 2, 3));
    }

    #[test]
    fn text_is_cut_to_the_buffer_and_ends_with_nul() {
        let mut place = [b'x'; 4];
        // SAFETY: the buffer's own length.
        assert_eq!(unsafe { copy_text(place.as_mut_ptr(), 4, b"abcdef") }, Ok(()));
        assert_eq!(&place, b"abc\0");
        // SAFETY: nothing is written.
        assert_eq!(unsafe { copy_text(place.as_mut_ptr(), 0, b"a") }, Err(1));
    }
}
