//! Whose a library is: ours, or somebody else's.

use super::elf::{self, ElfError};
use super::root::Root;
use std::fmt;
use std::path::Path;
use vgpu_client::marker::Marker;

/// Whose a library is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Of this release.
    Ours,
    /// Ours of another build: its marker.
    Other(Marker),
    /// The CUDA toolkit's stand-in for linking, which does nothing.
    Stub,
    /// NVIDIA's, or anybody's.
    Foreign,
}

impl Owner {
    /// Whose the library is that lies at `path`, a path of this process.
    pub fn of_file(path: &Path) -> Result<Self, ElfError> {
        Ok(Self::of(path, &elf::read(path)?))
    }

    /// Whose the system's library at `path` is.
    pub fn in_system(root: &Root, path: &Path) -> Result<Self, ElfError> {
        Self::of_file(&root.behind(path))
    }

    /// Whose the library is that was read from `path`.
    pub fn of(path: &Path, library: &elf::Library) -> Self {
        match library.marker {
            Some(marker) if marker == Marker::ours() => Owner::Ours,
            Some(marker) => Owner::Other(marker),
            None if path.parent().is_some_and(|folder| folder.ends_with("stubs")) => Owner::Stub,
            None => Owner::Foreign,
        }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self, Owner::Ours | Owner::Other(_))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Ours => f.write_str("vgpu's"),
            Owner::Other(marker) => {
                write!(f, "vgpu's of release {} (protocol {})", marker.release(), marker.protocol())
            }
            Owner::Stub => f.write_str("the CUDA toolkit's stub for linking"),
            Owner::Foreign => f.write_str("not vgpu's"),
        }
    }
}

/// Whether the system's file at `path` is a library of ours, of any release.
pub fn is_ours_in(root: &Root, path: &Path) -> bool {
    Owner::in_system(root, path).is_ok_and(|owner| owner.is_ours())
}

/// Whether a file's name is that of a libcuda or NVML, with or without a version behind it.
pub fn is_driver_name(name: &str) -> bool {
    ["libcuda.so", "libnvidia-ml.so"]
        .iter()
        .any(|stem| name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_driver_s_libraries_are_told_from_others() {
        for name in ["libcuda.so", "libcuda.so.1", "libcuda.so.580.159.04", "libnvidia-ml.so.1"] {
            assert!(is_driver_name(name), "{name}");
        }
        for name in ["libcudart.so.12", "libcudadebugger.so.1", "libnvidia-ml-x.so", "libcuda.a"] {
            assert!(!is_driver_name(name), "{name}");
        }
    }
}
