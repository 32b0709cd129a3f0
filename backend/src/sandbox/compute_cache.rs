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
/// Where systemd's CacheDirectory=vgpu is.
const SYSTEM: &str = "/var/cache/vgpu";
/// Instead of a folder.
const OFF: &str = "off";

/// The folder that the options name, or the driver's own; made if it is missing. `None` switches the cache off.
///
/// Sets the driver's variables, so to be called while there is one thread.
pub fn find(args: &SandboxArgs) -> Option<PathBuf> {
    let folder = match &args.compute_cache {
        Some(folder) if folder.as_os_str() == OFF => None,
        Some(folder) => Some(folder.clone()),
        None => default_folder(args.user.is_some()),
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

/// The one that the environment names, else the driver's default; a user of workers' own has no home.
fn default_folder(other_user: bool) -> Option<PathBuf> {
    let named =
        |variable: &str| std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let default = || {
        if other_user {
            let caches = named("CACHE_DIRECTORY").unwrap_or_else(|| SYSTEM.into());
            return Some(caches.join("compute"));
        }
        named("HOME").map(|home| home.join(".nv/ComputeCache"))
    };
    named(PATH).or_else(default).filter(|path| path.is_absolute())
}

/// Whether the folder is there; a new one belongs to the user of workers.
fn make(folder: &Path, args: &SandboxArgs) -> bool {
    if folder.is_dir() {
        return true;
    }
    // Those above are for all to pass.
    if let Some(above) = folder.parent() {
        let _ = fs::create_dir_all(above);
    }
    if fs::DirBuilder::new().mode(0o700).create(folder).is_err() {
        return folder.is_dir();
    }
    args.user.is_none_or(|user| chown(folder, Some(user.uid), Some(user.gid)).is_ok())
}

/// The option that a broker of several VMs passes on: its workers keep nothing unless a folder was named.
pub fn of_several(args: &mut SandboxArgs) {
    args.compute_cache.get_or_insert_with(|| OFF.into());
}
