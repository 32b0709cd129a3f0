//! Where the driver keeps what it has compiled.
//!
//! SECURITY: who can write there can give others code. A worker that a guest has taken over could, so VMs share it only if the operator
//! says so.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use super::SandboxArgs;

/// The driver's own variables.
const PATH: &str = "CUDA_CACHE_PATH";
const DISABLE: &str = "CUDA_CACHE_DISABLE";
/// Instead of a folder.
const OFF: &str = "off";

/// The folder that the options name, or the driver's own; made if it is missing. `None` switches the cache off.
///
/// Sets the driver's variables, so to be called while there is one thread.
pub fn find(args: &SandboxArgs) -> Option<PathBuf> {
    let folder = match &args.compute_cache {
        Some(folder) if folder.as_os_str() == OFF => None,
        Some(folder) => Some(folder.clone()),
        None => default_folder(),
    };
    let made = folder.filter(|folder| make(folder, args));
    // SAFETY: single-threaded, as the caller promises.
    unsafe {
        match &made {
            Some(folder) => std::env::set_var(PATH, folder),
            None => std::env::set_var(DISABLE, "1"),
        }
    }
    made
}

fn default_folder() -> Option<PathBuf> {
    let set = std::env::var_os(PATH).filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".nv/ComputeCache"));
    set.or_else(home).filter(|path| path.is_absolute())
}

/// Whether the folder is there; a new one belongs to the user of workers.
fn make(folder: &Path, args: &SandboxArgs) -> bool {
    if folder.is_dir() {
        return true;
    }
    if fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).is_err() {
        return false;
    }
    args.user.is_none_or(|user| chown(folder, Some(user.uid), Some(user.gid)).is_ok())
}

/// The option that a broker of several VMs passes on: its workers keep nothing unless a folder was named.
pub fn of_several(args: &mut SandboxArgs) {
    args.compute_cache.get_or_insert_with(|| OFF.into());
}
