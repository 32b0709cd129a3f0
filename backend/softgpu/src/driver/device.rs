//! Devices.

use std::ffi::c_char;

use super::{Out, name_at, put, put_if_wanted, put_text};
use crate::model::device::NAME;
use crate::model::{CudaError, Result, state};

driver_api! {
    /// The device with an ordinal.
    fn cuDeviceGet(device: Out<'_, i32>, ordinal: i32) {
        state()?.device(ordinal)?;
        put(device, ordinal)
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: Out<'_, i32>) {
        put(count, i32::try_from(state()?.devices().len()).unwrap_or(i32::MAX))
    }

    /// The device's name, cut to `length` bytes with its NUL.
    fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) {
        state()?.device(device)?;
        // SAFETY: the caller answers for `length` bytes.
        unsafe { put_text(name, length, NAME) }
    }

    /// The device's UUID, fixed per ordinal.
    fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, device: i32) {
        put(uuid, state()?.device(device)?.uuid())
    }

    /// The device's UUID, fixed per ordinal.
    fn cuDeviceGetUuid(uuid: Out<'_, [u8; 16]>, device: i32) {
        put(uuid, state()?.device(device)?.uuid())
    }

    /// Bytes of device memory.
    fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, device: i32) {
        put(bytes, usize::try_from(state()?.device(device)?.total()).unwrap_or(usize::MAX))
    }

    /// An attribute. Unknown: `INVALID_VALUE`.
    fn cuDeviceGetAttribute(value: Out<'_, i32>, attribute: u32, device: i32) {
        put(value, state()?.device(device)?.attribute(attribute)?)
    }

    /// Compute capability 9.0.
    fn cuDeviceComputeCapability(major: Out<'_, i32>, minor: Out<'_, i32>, device: i32) {
        state()?.device(device)?;
        put(major, 9)?;
        put(minor, 0)
    }

    /// The made-up PCI address.
    fn cuDeviceGetPCIBusId(text: *mut c_char, length: i32, device: i32) {
        let address = state()?.device(device)?.pci_bus_id();
        // SAFETY: the caller answers for `length` bytes.
        unsafe { put_text(text, length, &address) }
    }

    /// The device with a PCI address: `[domain:]bus:device[.function]`.
    fn cuDeviceGetByPCIBusId(device: Out<'_, i32>, text: *const c_char) {
        // SAFETY: the caller answers for the string.
        let wanted = parse_address(unsafe { name_at(text) }?).ok_or(CudaError::InvalidValue)?;
        let devices = state()?.devices();
        let found = devices.iter().find(|device| parse_address(&device.pci_bus_id()) == Some(wanted));
        put(device, ordinal_of(found.map(|device| device.ordinal()))?)
    }

    /// Devices are not each other's peers.
    fn cuDeviceCanAccessPeer(can: Out<'_, i32>, device: i32, peer: i32) {
        state()?.device(device)?;
        state()?.device(peer)?;
        put(can, 0)
    }

    /// Devices are not each other's peers: every property is 0.
    fn cuDeviceGetP2PAttribute(value: Out<'_, i32>, _attribute: u32, from: i32, to: i32) {
        state()?.device(from)?;
        state()?.device(to)?;
        if from == to {
            return Err(CudaError::InvalidDevice);
        }
        put(value, 0)
    }

    /// No atomic operation reaches another device.
    fn cuDeviceGetP2PAtomicCapabilities(
        capabilities: *mut u32, operations: *const u32, count: u32, from: i32, to: i32
    ) {
        state()?.device(from)?;
        state()?.device(to)?;
        if from == to {
            return Err(CudaError::InvalidDevice);
        }
        // SAFETY: the caller answers for both arrays.
        unsafe { no_atomics(capabilities, operations, count) }
    }

    /// No atomic operation reaches the host.
    fn cuDeviceGetHostAtomicCapabilities(
        capabilities: *mut u32, operations: *const u32, count: u32, device: i32
    ) {
        state()?.device(device)?;
        // SAFETY: the caller answers for both arrays.
        unsafe { no_atomics(capabilities, operations, count) }
    }

    /// No execution affinity is supported.
    fn cuDeviceGetExecAffinitySupport(supported: Out<'_, i32>, _kind: u32, device: i32) {
        state()?.device(device)?;
        put(supported, 0)
    }

    /// There are no LUIDs on Linux.
    fn cuDeviceGetLuid(_luid: *mut c_char, mask: Out<'_, u32>, device: i32) {
        state()?.device(device)?;
        put_if_wanted(mask, 0);
        Err(CudaError::NotSupported)
    }
}

/// # Safety
/// The pointers must be NULL or have room for `count` values.
unsafe fn no_atomics(capabilities: *mut u32, operations: *const u32, count: u32) -> Result {
    if capabilities.is_null() || operations.is_null() || count == 0 {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the caller answers for the array.
    unsafe { super::put_array(capabilities, count as usize, std::iter::repeat_n(0, count as usize)) }
}

fn ordinal_of(ordinal: Option<u32>) -> Result<i32> {
    ordinal.and_then(|ordinal| i32::try_from(ordinal).ok()).ok_or(CudaError::InvalidDevice)
}

fn parse_address(text: &str) -> Option<[u32; 4]> {
    let (rest, function) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    Some([hex(domain)?, hex(bus)?, hex(device)?, hex(function)?])
}
