//! The system: versions, and names of processes.

use crate::{
    abi::SystemDriverBranchInfo,
    call::{Out, Text, check_version},
    error::{self, NvmlError},
    library::{self, Library},
};
use std::{fs, io::ErrorKind};

/// NVML_API_VERSION, of the description.
const API_VERSION: u32 = 13;

/// The host's driver; see [`Library::driver_version`] for hosts without one.
pub fn nvmlSystemGetDriverVersion(library: &Library, version: Text) -> error::Result {
    version.set(&library.driver_version)
}

/// As `r580`, of the driver's version.
pub fn nvmlSystemGetDriverBranch(
    library: &Library,
    branchInfo: &mut SystemDriverBranchInfo,
    length: u32,
) -> error::Result {
    check_version(branchInfo)?;
    let number = library.driver_version.split('.').next().unwrap_or_default();
    let text = format!("r{number}");
    let room = usize::try_from(length).unwrap_or(usize::MAX).min(branchInfo.branch.len());
    if text.len() >= room {
        return Err(NvmlError::InsufficientSize);
    }
    branchInfo.branch = [0; 80];
    for (place, byte) in branchInfo.branch.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    Ok(())
}

/// NVML's version has the driver's in it. It may be asked for before nvmlInit; without an agent it is the bare number.
pub fn nvmlSystemGetNVMLVersion(version: Text) -> error::Result {
    match library::current_or_new() {
        Some(library) => version.set(&format!("{API_VERSION}.{}", library.driver_version)),
        None => version.set(&API_VERSION.to_string()),
    }
}

/// As cuDriverGetVersion of the shim of libcuda.
pub fn nvmlSystemGetCudaDriverVersion(library: &Library, cudaDriverVersion: Out<i32>) -> error::Result {
    cudaDriverVersion.set(i32::try_from(library.cuda_version).unwrap_or(i32::MAX));
    Ok(())
}

pub fn nvmlSystemGetCudaDriverVersion_v2(library: &Library, cudaDriverVersion: Out<i32>) -> error::Result {
    nvmlSystemGetCudaDriverVersion(library, cudaDriverVersion)
}

/// The name by which the process was called, cut to the buffer.
pub fn nvmlSystemGetProcessName(_: &Library, pid: u32, name: Text) -> error::Result {
    if name.capacity() == 0 {
        return Err(NvmlError::InvalidArgument);
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).map_err(|e| match e.kind() {
        ErrorKind::NotFound => NvmlError::NotFound,
        ErrorKind::PermissionDenied => NvmlError::NoPermission,
        _ => NvmlError::Unknown,
    })?;
    name.set_cut(line.split(|&byte| byte == 0).next().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::Versioned, call::tests::text_output, library::tests::library};

    #[test]
    fn versions_need_room() {
        let library = library(1);
        let version = |capacity| text_output(capacity, |t| nvmlSystemGetDriverVersion(&library, t));
        assert_eq!(version(11), Ok("580.159.04".into()));
        assert_eq!(version(10), Err(NvmlError::InsufficientSize));
    }

    #[test]
    fn the_branch_needs_its_version_and_room() {
        let library = library(1);
        let mut info = SystemDriverBranchInfo { version: 0, branch: [1; 80] };
        let get = |i: &mut _, length| nvmlSystemGetDriverBranch(&library, i, length);
        assert_eq!(get(&mut info, 80), Err(NvmlError::ArgumentVersionMismatch));
        info.version = SystemDriverBranchInfo::VERSION;
        assert_eq!(get(&mut info, 4), Err(NvmlError::InsufficientSize));
        assert_eq!(get(&mut info, 5), Ok(()));
        assert_eq!(&info.branch[..5], b"r580\0");
    }

    #[test]
    fn names_of_processes_are_cut() {
        let library = library(1);
        let name = |pid, capacity| text_output(capacity, |t| nvmlSystemGetProcessName(&library, pid, t));
        let whole = name(std::process::id(), 4096).unwrap();
        assert_eq!(whole, std::env::args().next().unwrap());
        assert_eq!(name(std::process::id(), 5).unwrap(), whole[..4]);
        assert_eq!(name(std::process::id(), 0), Err(NvmlError::InvalidArgument));
        // Beyond the kernel's greatest process number.
        assert_eq!(name(1 << 30, 80), Err(NvmlError::NotFound));
    }
}
