//! Processes that use a device.
//!
//! None is known yet: the agent has no message that lists its clients. The lists are empty, which programs show as "no processes".

use crate::{
    abi::{ProcessDetailList, ProcessInfo, ProcessInfo_v1, ProcessInfo_v2, Versioned},
    call::List,
    error::{self, NvmlError},
    identity::Device,
    library::Library,
};

/// nvmlProcessMode_t's last: all processes.
const ALL: u32 = 3;

macro_rules! none {
    ($($name:ident: $info:ty),* $(,)?) => {$(
        pub fn $name(_: &Library, _: &Device, infos: List<$info>) -> error::Result {
            infos.set(&[])
        }
    )*};
}
none!(
    nvmlDeviceGetComputeRunningProcesses: ProcessInfo_v1,
    nvmlDeviceGetComputeRunningProcesses_v2: ProcessInfo_v2,
    nvmlDeviceGetComputeRunningProcesses_v3: ProcessInfo,
    nvmlDeviceGetGraphicsRunningProcesses: ProcessInfo_v1,
    nvmlDeviceGetGraphicsRunningProcesses_v2: ProcessInfo_v2,
    nvmlDeviceGetGraphicsRunningProcesses_v3: ProcessInfo,
    nvmlDeviceGetMPSComputeRunningProcesses: ProcessInfo_v1,
    nvmlDeviceGetMPSComputeRunningProcesses_v2: ProcessInfo_v2,
    nvmlDeviceGetMPSComputeRunningProcesses_v3: ProcessInfo,
);

pub fn nvmlDeviceGetRunningProcessDetailList(
    _: &Library,
    _: &Device,
    plist: &mut ProcessDetailList,
) -> error::Result {
    if plist.version() != ProcessDetailList::VERSION {
        return Err(NvmlError::ArgumentVersionMismatch);
    }
    if plist.mode > ALL {
        return Err(NvmlError::InvalidArgument);
    }
    // SAFETY: a place of our own, and an array for as many entries as it says.
    unsafe { List::new(&raw mut plist.entries, plist.array) }?.set(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::tests::library;
    use std::ptr;

    #[test]
    fn a_list_of_another_version_or_mode_is_refused() {
        let library = library(1);
        let device = &library.devices()[0];
        for (version, mode, want) in [
            (0, 0, Err(NvmlError::ArgumentVersionMismatch)),
            (ProcessDetailList::VERSION, 4, Err(NvmlError::InvalidArgument)),
            (ProcessDetailList::VERSION, 3, Ok(())),
        ] {
            let mut list = ProcessDetailList { version, mode, entries: 5, array: ptr::null_mut() };
            assert_eq!(nvmlDeviceGetRunningProcessDetailList(&library, device, &mut list), want);
            assert_eq!(list.entries, if want.is_ok() { 0 } else { 5 });
        }
    }
}
