//! The settings of the broker: from the command line, a configuration file, or both.

pub mod cli;
mod file;
mod globals;
mod operator_args;
pub mod reset;
pub mod settings;
mod vm_args;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cli::{Command, HelperOptions, WorkerOptions, parse};

use crate::identity::{Identities, IdentityError};
use crate::limits::Limits;
use crate::sandbox::SandboxArgs;

/// vhost-user-backend keeps queues in a `u64` mask.
pub const MAX_QUEUES: u16 = 64;
/// Where the operator's commands look for the broker.
pub const OPERATOR_SOCKET: &str = "/run/vgpu/operator.sock";

/// Settings of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// In logs, metrics and commands; unique.
    pub name: String,
    pub socket: PathBuf,
    /// What it is shown of the devices.
    pub identities: Identities,
    pub limits: Limits,
    /// Guest processes that it may have at once.
    pub clients: u32,
    /// Virtqueues of its device.
    pub queues: u16,
    /// The host's ordinals of the devices that it sees; `None` for all.
    pub devices: Option<Vec<u32>>,
}

impl VmConfig {
    /// Guest processes, where nothing is said.
    pub const CLIENTS: u32 = 64;
}

/// The operator's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorConfig {
    /// `None` for none.
    pub socket: Option<PathBuf>,
    /// It was asked for: the broker does not start without.
    pub required: bool,
    /// May use it, besides root and the broker's user.
    pub group: Option<u32>,
    pub mode: u32,
}

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Settings of the broker. Can be built by hand (tests).
#[derive(Debug, Clone)]
pub struct Config {
    /// Those that are there from the start.
    pub vms: Vec<VmConfig>,
    /// Folder from which workers load libcuda, if not the system's.
    pub cuda_dir: Option<PathBuf>,
    /// Whether VMs take turns on devices.
    pub turns: bool,
    /// How long a turn is, if others wait.
    pub turn: Duration,
    /// Whether idle VMs are suspended when others need the memory.
    pub oversubscribe: bool,
    pub warm: usize,
    /// For how long an idle lane polls before it sleeps.
    pub poll: Duration,
    /// How workers and the monitor are confined.
    pub sandbox: SandboxArgs,
    pub log: String,
    pub operator: OperatorConfig,
    pub metrics: Option<MetricsAddress>,
}

/// Settings that parse and make no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: there is no CUDA driver (libcuda.so) in {dir}")]
    NoDriver { key: &'static str, dir: PathBuf },
    #[error("VGPU_POLL_US: \"{0}\" is not a number of microseconds up to 1000000")]
    PollTime(String),
    #[error("softgpu: finding the folder of this executable")]
    NoExecutable(#[source] std::io::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0}: given twice for one VM")]
    Twice(&'static str),
    #[error(
        "options of a VM without a --socket that they count for: put them into [defaults] or a [vm.NAME] of the file"
    )]
    NoVm,
    #[error("socket {0}: given twice")]
    SocketTwice(PathBuf),
    #[error("vm {0}: given twice")]
    NameTwice(String),
    #[error("vm {0}: it has no socket")]
    NoSocket(String),
    #[error("socket {path}: the path has {len} bytes, but a socket's path has at most 107")]
    Long { path: PathBuf, len: usize },
    #[error("vm \"{0}\": a name is made of 1 to 64 ASCII letters, digits, dots, hyphens and underscores")]
    Name(String),
    #[error("group: there is no group \"{0}\"")]
    Group(String),
    #[error(
        "there is nothing to serve: give --socket PATH, or serve --config FILE with a VM or an operator-socket"
    )]
    Nothing,
    #[error("reading {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// As the compilers of languages say it, so that editors find the place.
    #[error("{path}:{line}: {text}: {message}")]
    File { path: PathBuf, line: usize, text: String, message: String },
    #[error("{path}: {message}")]
    InFile { path: PathBuf, message: String },
}

/// Names and sockets must differ.
fn check_distinct(vms: &[VmConfig]) -> Result<(), ConfigError> {
    for (i, vm) in vms.iter().enumerate() {
        let earlier = vms.iter().take(i);
        if earlier.clone().any(|other| other.socket == vm.socket) {
            return Err(ConfigError::SocketTwice(vm.socket.clone()));
        }
        if earlier.clone().any(|other| other.name == vm.name) {
            return Err(ConfigError::NameTwice(vm.name.clone()));
        }
    }
    Ok(())
}

/// The folder of the driver that the options name, if they name one.
pub fn driver_dir(softgpu: bool, cuda_dir: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    match (cuda_dir, softgpu) {
        (Some(dir), _) => driver_folder("cuda-dir", dir).map(Some),
        (None, true) => driver_folder("softgpu", &softgpu_folder()?).map(Some),
        (None, false) => Ok(None),
    }
}

/// Where workers look for the software driver, beside the executable.
pub fn softgpu_folder() -> Result<PathBuf, ConfigError> {
    let mut path = std::env::current_exe().map_err(ConfigError::NoExecutable)?;
    path.set_file_name("softgpu");
    Ok(path)
}

/// `dir` as an absolute path, if a driver is there. Workers look for `libcuda.so` first, so with another name in `dir`
/// they could load the system's instead.
fn driver_folder(key: &'static str, dir: &Path) -> Result<PathBuf, ConfigError> {
    let found = dir.join("libcuda.so").is_file();
    match dir.canonicalize() {
        Ok(absolute) if found => Ok(absolute),
        _ => Err(ConfigError::NoDriver { key, dir: dir.to_owned() }),
    }
}

/// Polling would only take the only CPU from the side that is waited for. Where there are some to spare it covers what a program does
/// between two steps: a sleeping worker begins tens of microseconds late.
fn default_poll_us() -> Result<u64, ConfigError> {
    if let Some(text) = std::env::var_os("VGPU_POLL_US") {
        let value = text.to_str().and_then(|t| t.parse().ok()).filter(|&us: &u64| us <= 1_000_000);
        return value.ok_or_else(|| ConfigError::PollTime(text.to_string_lossy().into_owned()));
    }
    Ok(match std::thread::available_parallelism() {
        Ok(n) if n.get() == 1 => 0,
        Ok(n) if n.get() >= 4 => 500,
        _ => 50,
    })
}
