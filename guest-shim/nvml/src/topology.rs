//! How devices are connected.

use crate::{
    abi::HwbcEntry,
    call::{List, Out},
    error,
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
    fn a_device_is_alone_on_its_board() {
        let library = library(2);
        let [a, b] = library.devices() else { unreachable!() };
        assert_eq!(output(|o| nvmlDeviceOnSameBoard(&library, a, a, o)), Ok(1));
        assert_eq!(output(|o| nvmlDeviceOnSameBoard(&library, a, b, o)), Ok(0));
    }
}
