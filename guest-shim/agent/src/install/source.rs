//! Where the files come from that are installed: a folder with the shims, and this program.

use super::InstallError;
use crate::system::library::Owner;
use crate::system::root::Root;
use std::path::{Path, PathBuf};

/// The shims' files.
pub const SHIMS: [&str; 2] = ["libvgpu-cuda.so", "libvgpu-nvml.so"];

/// What is installed.
#[derive(Debug)]
pub struct Source {
    /// The folder with the shims.
    pub shims: PathBuf,
    pub agent: PathBuf,
}

impl Source {
    /// From the folder `from`, else from `../lib/vgpu` beside `agent`.
    pub fn find(from: Option<&Path>, agent: PathBuf) -> Result<Self, InstallError> {
        let shims = match from {
            Some(folder) => folder.to_path_buf(),
            None => agent.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("lib/vgpu"),
        };
        for name in SHIMS {
            let path = shims.join(name);
            match Owner::of_file(&path) {
                Ok(Owner::Ours) => {}
                Ok(owner) => return Err(InstallError::OtherRelease { path, owner: owner.to_string() }),
                Err(source) => return Err(InstallError::NoShim { path, source }),
            }
        }
        Ok(Self { shims, agent })
    }

    /// The prefix below which this program and its shims lie already, as a package puts them.
    pub fn in_place(&self, root: &Root) -> Option<&'static str> {
        let canonical = |path: &Path| path.canonicalize().ok();
        ["/usr", "/usr/local"].into_iter().find(|prefix| {
            let there = |path: &Path, place: &str| {
                let place = canonical(&root.behind(format!("{prefix}/{place}")));
                place.is_some() && place == canonical(path)
            };
            there(&self.agent, "bin/vgpu-agent") && there(&self.shims, "lib/vgpu")
        })
    }
}
