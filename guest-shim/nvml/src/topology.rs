//! How devices are connected.

use crate::{
    abi::HwbcEntry,
    call::{List, Out},
    error::{self, NvmlError},
    identity::{Device, attribute},
    library::Library,
};

/// NVML_P2P_STATUS_NOT_SUPPORTED.
const P2P_NOT_SUPPORTED: u32 = 5;

/// Peer access between a guest's devices is not supported yet, as cuDeviceCanAccessPeer says.
pub fn nvmlDeviceGetP2PStatus(
    _: &Library,
    _: &Device,
    _: &Device,
    _p2pIndex: u32,
    p2pStatus: Out<u32>,
) -> error::Result {
    p2pStatus.set(P2P_NOT_SUPPORTED);
    Ok(())
}

pub fn nvmlDeviceOnSameBoard(
    _: &Library,
    device1: &Device,
    device2: &Device,
    onSameBoard: Out<i32>,
) -> error::Result {
    onSameBoard.set(i32::from(device1.index == device2.index || one_board(device1, device2)));
    Ok(())
}

fn one_board(a: &Device, b: &Device) -> bool {
    let group = |d: &Device| match d.attribute(attribute::MULTI_GPU_BOARD) {
        Ok(1) => d.attribute(attribute::MULTI_GPU_BOARD_GROUP_ID).ok(),
        _ => None,
    };
    group(a).is_some_and(|id| group(b) == Some(id))
}

/// NVML_TOPOLOGY_INTERNAL and _SYSTEM.
const INTERNAL: u32 = 0;
const SYSTEM: u32 = 50;
/// NVML_AFFINITY_SCOPE_NODE and _SOCKET.
const SCOPES: u32 = 2;

/// How the host connects devices does not show in a guest: two are in one system, and that is all.
pub fn nvmlDeviceGetTopologyCommonAncestor(
    _: &Library,
    device1: &Device,
    device2: &Device,
    pathInfo: Out<u32>,
) -> error::Result {
    pathInfo.set(if device1.index == device2.index { INTERNAL } else { SYSTEM });
    Ok(())
}

/// The other devices, for the level of the whole system.
pub fn nvmlDeviceGetTopologyNearestGpus(
    library: &Library,
    device: &Device,
    level: u32,
    deviceArray: List<u64>,
) -> error::Result {
    match level {
        SYSTEM => {
            let others = library.devices().iter().filter(|d| d.index != device.index);
            deviceArray.set(&others.map(|d| library.handle(d)).collect::<error::Result<Vec<_>>>()?)
        }
        0 | 10 | 20 | 30 | 40 => deviceArray.set(&[]),
        _ => Err(NvmlError::InvalidArgument),
    }
}

/// All devices are as near to one processor as to another.
pub fn nvmlSystemGetTopologyGpuSet(
    library: &Library,
    _cpuNumber: u32,
    deviceArray: List<u64>,
) -> error::Result {
    let devices = library.devices().iter().map(|d| library.handle(d));
    deviceArray.set(&devices.collect::<error::Result<Vec<_>>>()?)
}

/// All processors that the guest has.
pub fn nvmlDeviceGetCpuAffinity(_: &Library, _: &Device, cpuSet: &mut [u64]) -> error::Result {
    online("/sys/devices/system/cpu/online", cpuSet)
}

pub fn nvmlDeviceGetCpuAffinityWithinScope(
    library: &Library,
    device: &Device,
    cpuSet: &mut [u64],
    scope: u32,
) -> error::Result {
    if scope >= SCOPES {
        return Err(NvmlError::InvalidArgument);
    }
    nvmlDeviceGetCpuAffinity(library, device, cpuSet)
}

/// All NUMA nodes that the guest has.
pub fn nvmlDeviceGetMemoryAffinity(
    _: &Library,
    _: &Device,
    nodeSet: &mut [u64],
    scope: u32,
) -> error::Result {
    if scope >= SCOPES {
        return Err(NvmlError::InvalidArgument);
    }
    online("/sys/devices/system/node/online", nodeSet)
}

/// Sets the bits of a list of the kernel's.
fn online(path: &str, set: &mut [u64]) -> error::Result {
    if set.is_empty() {
        return Err(NvmlError::InvalidArgument);
    }
    let text = std::fs::read_to_string(path).map_err(|_| NvmlError::NotSupported)?;
    fill(&text, set).ok_or(NvmlError::Unknown)
}

/// `0-3,8` as bits; those beyond the set are left out.
fn fill(list: &str, set: &mut [u64]) -> Option<()> {
    set.fill(0);
    let bits = u32::try_from(set.len()).ok()?.saturating_mul(u64::BITS);
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        for bit in first..=last.min(bits.saturating_sub(1)) {
            *set.get_mut(usize::try_from(bit / u64::BITS).ok()?)? |= 1 << (bit % u64::BITS);
        }
    }
    Some(())
}

/// There are no host interface cards in a guest.
pub fn nvmlSystemGetHicVersion(_: &Library, hwbcEntries: List<HwbcEntry>) -> error::Result {
    hwbcEntries.set_empty();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, library::tests::library};

    #[test]
    fn lists_of_the_kernel_become_bits() {
        let mut set = [9; 2];
        for (text, want) in [
            ("0-3,8\n", Some([0x10f, 0])),
            ("63-64", Some([1 << 63, 1])),
            ("0-500", Some([u64::MAX; 2])),
            ("200", Some([0; 2])),
            ("", Some([0; 2])),
            ("x", None),
        ] {
            assert_eq!(fill(text, &mut set).map(|()| set), want, "{text}");
        }
        let library = library(1);
        let device = &library.devices()[0];
        assert_eq!(nvmlDeviceGetCpuAffinity(&library, device, &mut set), Ok(()));
        assert_eq!(set[0] & 1, 1, "there is a first processor");
        assert_eq!(nvmlDeviceGetCpuAffinity(&library, device, &mut []), Err(NvmlError::InvalidArgument));
        let beyond = nvmlDeviceGetMemoryAffinity(&library, device, &mut set, 2);
        assert_eq!(beyond, Err(NvmlError::InvalidArgument));
    }

    #[test]
    fn devices_have_the_system_in_common() {
        let library = library(2);
        let [a, b] = library.devices() else { unreachable!() };
        assert_eq!(output(|o| nvmlDeviceGetTopologyCommonAncestor(&library, a, b, o)), Ok(SYSTEM));
        assert_eq!(output(|o| nvmlDeviceGetTopologyCommonAncestor(&library, a, a, o)), Ok(INTERNAL));
        let (mut count, mut found) = (2, [0; 2]);
        // SAFETY: places that outlive the call.
        let list = unsafe { List::new(&raw mut count, found.as_mut_ptr()) }.unwrap();
        assert_eq!(nvmlDeviceGetTopologyNearestGpus(&library, a, SYSTEM, list), Ok(()));
        assert_eq!((count, found[0]), (1, library.handle(b).unwrap()));
    }

    #[test]
    fn a_device_is_alone_on_its_board() {
        let library = library(2);
        let [a, b] = library.devices() else { unreachable!() };
        assert_eq!(output(|o| nvmlDeviceOnSameBoard(&library, a, a, o)), Ok(1));
        assert_eq!(output(|o| nvmlDeviceOnSameBoard(&library, a, b, o)), Ok(0));
    }
}
