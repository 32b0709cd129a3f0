//! Which files a process can reach: Landlock.
//!
//! What the driver needs was taken from what it opens: its libraries, its device nodes, and what the kernel tells of the machine.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::SandboxError;

/// The newest set of restrictions that this code knows; of an older kernel as many as it has.
const NEWEST: ABI = ABI::V7;

/// Programs and libraries. The driver may lie outside /usr where a container runtime or another distribution puts it.
const LIBRARIES: [&str; 13] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/opt",
    "/etc/alternatives",
    "/run/nvidia/driver",
    "/run/opengl-driver",
    "/nix/store",
    "/gnu/store",
    "/usr/local/nvidia",
    "/usr/local/cuda",
];
/// What the kernel tells of the machine and the driver, and the driver's settings.
const READ: [&str; 8] = [
    "/proc",
    "/sys",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nvidia",
    "/etc/localtime",
    "/etc/OpenCL",
    "/etc/nvidia-container-runtime",
];
/// The process's own threads: cuInit names those that it starts, and fails if it cannot.
const THREADS: &str = "/proc/self/task";
/// Nodes that are no device of the driver's.
const NODES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];
/// Folders of nodes of the driver's.
const NODE_FOLDERS: [&str; 2] = ["/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels"];
/// Where the driver keeps what processes share by IPC.
const SHARED: &str = "/dev/shm";

/// Restricts the process; `folders` may have libraries too, and `cache` is what the driver compiled. With `connects` it may reach abstract
/// sockets of others.
pub fn enter(folders: &[PathBuf], cache: Option<&Path>, connects: bool) -> Result<String, SandboxError> {
    let scope = if connects { Scope::Signal.into() } else { Scope::AbstractUnixSocket | Scope::Signal };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scope)?
        .create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let node = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let own = AccessFs::from_all(NEWEST) & !(device_making() | AccessFs::Execute);
    let mut rules = Rules(ruleset);
    for path in LIBRARIES.iter().map(Path::new).chain(folders.iter().map(PathBuf::as_path)) {
        rules.add(path, read | AccessFs::Execute)?;
    }
    for path in READ {
        rules.add(Path::new(path), read)?;
    }
    rules.add(Path::new(THREADS), read | AccessFs::WriteFile | AccessFs::Truncate)?;
    for path in NODES {
        rules.add(Path::new(path), node)?;
    }
    for path in NODE_FOLDERS {
        rules.add(Path::new(path), node | AccessFs::ReadDir)?;
    }
    for path in device_nodes() {
        rules.add(&path, node)?;
    }
    for path in [Some(Path::new(SHARED)), cache].into_iter().flatten() {
        rules.add(path, own)?;
    }
    let status = rules.0.restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(SandboxError::NoLandlock),
        RulesetStatus::PartiallyEnforced => Ok("Landlock, as much as this kernel has of it".into()),
        RulesetStatus::FullyEnforced => Ok("Landlock".into()),
    }
}

/// Nodes, sockets and pipes are not for workers to make.
fn device_making() -> BitFlags<AccessFs> {
    AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::MakeFifo | AccessFs::IoctlDev
}

/// `/dev/nvidia0`, `/dev/nvidiactl`, `/dev/nvidia-uvm` and so on.
fn device_nodes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_nodes = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("nvidia")) && !path.is_dir()
    };
    entries.map(|entry| entry.path()).filter(is_nodes).collect()
}

struct Rules(RulesetCreated);

impl Rules {
    /// Allows `access` beneath `path`, if there is such a thing.
    fn add(&mut self, path: &Path, access: BitFlags<AccessFs>) -> Result<(), SandboxError> {
        let Ok(file) = PathFd::new(path) else { return Ok(()) };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        (&mut self.0).add_rule(PathBeneath::new(file, access))?;
        Ok(())
    }
}
