//! Where the built files are: `build/` of the checkout, or the folder that `VGPU_BUILD_DIR` names. Nothing is built here.

use std::path::{Path, PathBuf};

/// The files of a build.
#[derive(Debug, Clone)]
pub struct Artifacts {
    pub broker: PathBuf,
    pub agent: PathBuf,
    /// Folder with the shim as `libcuda.so.1`.
    pub shim: PathBuf,
    /// The test program that uses CUDA.
    pub client: PathBuf,
}

impl Artifacts {
    /// Finds them; the test fails if one is missing.
    pub fn find() -> Self {
        let build = match std::env::var_os("VGPU_BUILD_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("build"),
        };
        let need = |path: PathBuf| {
            assert!(path.exists(), "{} is missing: run ./scripts/build", path.display());
            path
        };
        need(build.join("bin/softgpu/libcuda.so"));
        let shim = build.join("lib/vgpu");
        need(shim.join("libcuda.so.1"));
        Artifacts {
            broker: need(build.join("bin/vgpu-backend")),
            agent: need(build.join("bin/vgpu-agent")),
            shim,
            client: need(client()),
        }
    }
}

/// cargo puts test programs into `deps`, beside which the binaries lie.
fn client() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    folder.join("cuda-client")
}
