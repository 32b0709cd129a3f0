//! A real NVIDIA driver on the system, which must not be put out of work by accident.

use crate::system::cache;
use crate::system::library::{is_driver_name, is_ours_in};
use crate::system::loader::DEFAULT_FOLDERS;
use crate::system::root::Root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Signs of a driver.
#[derive(Debug, Default)]
pub struct Driver {
    /// The kernel module's version file, if it is loaded.
    pub module: Option<PathBuf>,
    /// libcuda and NVML that are not ours, where the loader looks.
    pub libraries: Vec<PathBuf>,
}

impl Driver {
    pub fn find(root: &Root) -> Self {
        let module = ["/proc/driver/nvidia/version", "/sys/module/nvidia"].map(PathBuf::from);
        let module = module.into_iter().find(|path| root.has(path));
        let mut libraries = BTreeSet::new();
        for folder in folders(root) {
            for name in root.names(&folder).into_iter().filter(|name| is_driver_name(name)) {
                let path = folder.join(name);
                if is_foreign(root, &path) {
                    libraries.insert(path);
                }
            }
        }
        Self { module, libraries: libraries.into_iter().collect() }
    }

    pub fn is_there(&self) -> bool {
        self.module.is_some() || !self.libraries.is_empty()
    }

    /// For people: what was found.
    pub fn signs(&self) -> String {
        let paths = self.module.iter().chain(&self.libraries);
        paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// Folders in which the loader finds libraries by name, without links.
fn folders(root: &Root) -> BTreeSet<PathBuf> {
    let cached = cache::parse(&root.read("/etc/ld.so.cache").unwrap_or_default());
    let cached = cached.into_iter().filter(|entry| is_driver_name(&entry.soname));
    let cached = cached.filter_map(|entry| entry.path.parent().map(Path::to_path_buf));
    cached.chain(DEFAULT_FOLDERS.map(PathBuf::from)).map(|folder| root.real(folder)).collect()
}

/// A link that leads nowhere is nobody's; a file that is no library is somebody's.
fn is_foreign(root: &Root, path: &Path) -> bool {
    root.has(path) && !is_ours_in(root, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    #[test]
    fn a_driver_is_found_by_its_module_and_its_libraries() {
        let tree = Tree::new();
        tree.ours("usr/lib64/libvgpu-cuda.so", "libcuda.so.1")
            .link("usr/lib64/libcuda.so.1", "libvgpu-cuda.so");
        tree.link("usr/lib64/libnvidia-ml.so.1", "gone");
        assert!(!Driver::find(&tree.root()).is_there());
        tree.foreign("opt/compat/libcuda.so.1", "libcuda.so.1");
        assert!(!Driver::find(&tree.root()).is_there(), "not where the loader looks");
        tree.file("etc/ld.so.cache", cache::build(&[("libcuda.so.1", "/opt/compat/libcuda.so.1")]));
        let driver = Driver::find(&tree.root());
        assert_eq!(driver.libraries, [PathBuf::from("/opt/compat/libcuda.so.1")]);
        tree.file("proc/driver/nvidia/version", "NVRM version");
        assert!(Driver::find(&tree.root()).signs().starts_with("/proc/driver/nvidia/version, /opt"));
    }
}
