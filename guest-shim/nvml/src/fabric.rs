//! The fabric between machines: none reaches a guest, which is what the library says of a device outside of one.

use crate::{
    abi::{GpuFabricInfo, GpuFabricInfoV, Versioned},
    call::{Out, check_version},
    error,
    identity::Device,
    library::Library,
};

/// NVML_GPU_FABRIC_STATE_NOT_SUPPORTED.
const NONE: u8 = 0;

pub fn nvmlDeviceGetGpuFabricInfo(
    _: &Library,
    _: &Device,
    gpuFabricInfo: Out<GpuFabricInfo>,
) -> error::Result {
    gpuFabricInfo.set(GpuFabricInfo { state: NONE, ..GpuFabricInfo::default() });
    Ok(())
}

pub fn nvmlDeviceGetGpuFabricInfoV(
    _: &Library,
    _: &Device,
    gpuFabricInfo: &mut GpuFabricInfoV,
) -> error::Result {
    check_version(gpuFabricInfo)?;
    *gpuFabricInfo = GpuFabricInfoV {
        version: GpuFabricInfoV::VERSION,
        cluster: [0; 16],
        status: 0,
        clique: 0,
        state: NONE,
        health: 0,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::output, error::NvmlError, library::tests::library};

    #[test]
    fn a_device_is_in_no_fabric() {
        let library = library(1);
        let device = &library.devices()[0];
        let plain = output(|o| nvmlDeviceGetGpuFabricInfo(&library, device, o));
        assert_eq!(plain, Ok(GpuFabricInfo::default()));
        let mut info =
            GpuFabricInfoV { version: 0, cluster: [9; 16], status: 9, clique: 9, state: 9, health: 9 };
        let get = |info: &mut _| nvmlDeviceGetGpuFabricInfoV(&library, device, info);
        assert_eq!(get(&mut info), Err(NvmlError::ArgumentVersionMismatch));
        assert_eq!(info.state, 9, "left alone");
        info.version = GpuFabricInfoV::VERSION;
        assert_eq!(get(&mut info), Ok(()));
        assert_eq!((info.state, info.clique, info.cluster), (NONE, 0, [0; 16]));
    }
}
