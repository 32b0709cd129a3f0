//! The command line, and the settings that come of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use vgpu_spec::wire::control::FIRST_LANE;

use crate::identity::{self, Identities, IdentityError, Setting};
use crate::sandbox::SandboxArgs;
use crate::sandbox::check::CheckOptions;

/// vhost-user-backend keeps queues in a `u64` mask.
pub const MAX_QUEUES: u16 = 64;
/// Where workers look for the software driver, beside the executable.
const SOFTGPU_FOLDER: &str = "softgpu";

const EXAMPLES: &str = "\
Examples:
  Serve one VM with the host's GPU:
    vgpu-backend --socket /run/vgpu/vm1.sock

  Serve two VMs from a machine without a GPU:
    vgpu-backend --softgpu --socket /tmp/a.sock --socket /tmp/b.sock

  Show the first of them a part of the memory, and the other a device of its own name:
    vgpu-backend --socket /tmp/a.sock --device-memory 16384 --socket /tmp/b.sock --device-name \"GPU of B\"

  Start QEMU on the socket (the memory backend must be shared; the vIOMMU lets the guest
  drive the device through vfio-pci):
    qemu-system-x86_64 -machine q35,kernel-irqchip=split,accel=kvm -cpu host -smp 4 -m 8G \\
      -object memory-backend-memfd,id=mem,size=8G,share=on -numa node,memdev=mem \\
      -device intel-iommu,intremap=on \\
      -chardev socket,id=vgpu,path=/run/vgpu/vm1.sock \\
      -device vhost-user-fs-pci,chardev=vgpu,tag=vgpu,num-request-queues=63,queue-size=256 \\
      -drive file=guest.qcow2,if=virtio
  num-request-queues is at most --queues less one.

  In the guest (kernel command line: intel_iommu=on):
    vgpu-agent

  Local mode, without a VM:
    vgpu-backend --socket /tmp/vgpu.sock &
    vgpu-agent --backend /tmp/vgpu.sock

Signals: SIGINT and SIGTERM end all workers, remove the sockets and exit.
Exit status: 0 after a signal, 1 if it could not start, 2 for a wrong command line.";

/// The host side of vgpu: lends the host's GPU to virtual machines over vhost-user sockets.
///
/// One socket serves one VM (or one vgpu-agent in local mode) at a time. Each guest process that uses CUDA gets a worker
/// process of its own on the host; the broker itself never loads CUDA.
#[derive(Parser)]
#[command(
    name = "vgpu-backend",
    version,
    after_help = EXAMPLES,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(subcommand)]
    command: Option<Commands>,
}

#[derive(Args)]
struct BrokerArgs {
    /// Listen on this path; give it once per VM
    #[arg(long = "socket", value_name = "PATH", required = true)]
    sockets: Vec<PathBuf>,
    /// Use the software CUDA driver that lies in the folder "softgpu" beside this executable
    #[arg(long)]
    softgpu: bool,
    /// Load libcuda.so from this folder (overrides --softgpu)
    #[arg(long, value_name = "DIR")]
    cuda_dir: Option<PathBuf>,
    /// Name that the VM is shown of device N (0 if left out), at most 95 printable ASCII characters
    ///
    /// This and the two options below count for the --socket before them, or for all VMs if before the first.
    #[arg(long = "device-name", value_name = "[N=]NAME", value_parser = identity::parse_name)]
    device_names: Vec<Setting<String>>,
    /// UUID that the VM is shown of device N, as GPU-01234567-89ab-cdef-0123-456789abcdef [default: the device's own]
    #[arg(long = "device-uuid", value_name = "[N=]UUID", value_parser = identity::parse_uuid)]
    device_uuids: Vec<Setting<[u8; 16]>>,
    /// Memory in MiB that the VM is shown of device N; allocating more is not refused
    #[arg(long = "device-memory", value_name = "[N=]MIB", value_parser = identity::parse_memory)]
    device_memories: Vec<Setting<u64>>,
    /// Workers to keep started ahead, each with a CUDA context
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    warm: u16,
    /// Virtqueues of the device: one control, one event, the rest lanes
    #[arg(long, value_name = "N", default_value_t = MAX_QUEUES,
          value_parser = clap::value_parser!(u16).range(i64::from(FIRST_LANE) + 1..=i64::from(MAX_QUEUES)))]
    queues: u16,
    /// Guest processes that one VM may have at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Microseconds for which an idle lane polls before it sleeps [default: 50; 0 on a machine with one CPU]
    ///
    /// The environment variable VGPU_POLL_US says the same.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    poll_us: Option<u32>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// What to log on stderr: error, warn, info, debug or trace, or a filter such as "info,vgpu_backend::worker=debug"
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = crate::log::check_filter)]
    log: String,
}

#[derive(Subcommand)]
enum Commands {
    /// Show how workers are confined on this machine, and try the driver in such a confinement
    SandboxCheck(CheckOptions),
    /// A worker process; the broker starts it
    #[command(hide = true)]
    Worker(WorkerOptions),
    /// The process that asks the host's NVML; the broker starts it
    #[command(hide = true)]
    Monitor(MonitorOptions),
}

/// What the broker tells the monitor on its command line.
#[derive(Args, Debug, Clone)]
pub struct MonitorOptions {
    /// Descriptor of the link to the broker.
    #[arg(long)]
    pub link_fd: i32,
    /// Where the driver's libraries lie, if not in the system's folders.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// What the broker tells a worker on its command line.
#[derive(Args, Debug, Clone)]
pub struct WorkerOptions {
    /// Descriptor of the link to the broker.
    #[arg(long)]
    pub link_fd: i32,
    #[arg(long, default_value_t = 50)]
    pub poll_us: u32,
    /// Where the driver's libraries lie, if not in the system's folders.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Whether to say how it is confined at level info: the first of all.
    #[arg(long)]
    pub first: bool,
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// What to run.
pub enum Command {
    Broker(Config),
    Worker(WorkerOptions),
    Monitor(MonitorOptions),
    SandboxCheck(CheckOptions),
}

/// Settings of one VM.
#[derive(Debug, Clone)]
pub struct VmConfig {
    pub socket: PathBuf,
    /// What it is shown of the devices.
    pub identities: Identities,
}

/// Settings of the broker. Can be built by hand (tests).
#[derive(Debug, Clone)]
pub struct Config {
    pub vms: Vec<VmConfig>,
    /// Folder from which workers load libcuda, if not the system's.
    pub cuda_dir: Option<PathBuf>,
    pub warm: usize,
    pub queues: u16,
    pub clients: u32,
    /// For how long an idle lane polls before it sleeps.
    pub poll: Duration,
    /// How workers and the monitor are confined.
    pub sandbox: SandboxArgs,
    pub log: String,
}

/// A command line that parses and makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--{flag}: there is no CUDA driver (libcuda.so) in {dir}")]
    NoDriver { flag: &'static str, dir: PathBuf },
    #[error("VGPU_POLL_US: \"{0}\" is not a number of microseconds up to 1000000")]
    PollTime(String),
    #[error("--softgpu: finding the folder of this executable")]
    NoExecutable(#[source] std::io::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("--socket {0}: given twice")]
    Twice(PathBuf),
    #[error("--socket {path}: the path has {len} bytes, but a socket's path has at most 107")]
    Long { path: PathBuf, len: usize },
}

/// Parses the command line; on a wrong one prints what is wrong and exits with status 2.
pub fn parse() -> Command {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Some(Commands::Worker(options)) => return Command::Worker(options),
        Some(Commands::Monitor(options)) => return Command::Monitor(options),
        Some(Commands::SandboxCheck(options)) => return Command::SandboxCheck(options),
        None => {}
    }
    match Config::new(cli.broker, &matches) {
        Ok(config) => Command::Broker(config),
        Err(error) => {
            eprintln!("vgpu-backend: {}", crate::log::chain(&error));
            std::process::exit(2)
        }
    }
}

impl Config {
    /// `matches` are those that the arguments come from: where each stood.
    fn new(args: BrokerArgs, matches: &ArgMatches) -> Result<Self, ConfigError> {
        check_sockets(&args.sockets)?;
        let cuda_dir = driver_dir(args.softgpu, args.cuda_dir.as_deref())?;
        Ok(Config {
            cuda_dir,
            warm: usize::from(args.warm),
            queues: args.queues,
            clients: args.clients,
            poll: Duration::from_micros(u64::from(match args.poll_us {
                Some(us) => us,
                None => default_poll_us()?,
            })),
            sandbox: args.sandbox.clone().for_vms(args.sockets.len()),
            log: args.log.clone(),
            vms: vms(args, matches)?,
        })
    }
}

/// A VM for each socket, with what is said of its devices.
fn vms(args: BrokerArgs, matches: &ArgMatches) -> Result<Vec<VmConfig>, ConfigError> {
    let places = |id| matches.indices_of(id).into_iter().flatten().collect::<Vec<usize>>();
    let sockets = places("sockets");
    // Of the options: the number of the VM from 1 on, 0 for all.
    let vms = |id| {
        places(id).into_iter().map(|place| sockets.iter().filter(|&&s| s < place).count()).collect::<Vec<_>>()
    };
    let mut identities = vec![Identities::default(); sockets.len() + 1];
    for (vm, name) in vms("device_names").into_iter().zip(args.device_names) {
        identities.get_mut(vm).map_or(Ok(()), |i| i.set_name(name))?;
    }
    for (vm, uuid) in vms("device_uuids").into_iter().zip(args.device_uuids) {
        identities.get_mut(vm).map_or(Ok(()), |i| i.set_uuid(uuid))?;
    }
    for (vm, memory) in vms("device_memories").into_iter().zip(args.device_memories) {
        identities.get_mut(vm).map_or(Ok(()), |i| i.set_memory(memory))?;
    }
    let mut identities = identities.into_iter();
    let common = identities.next().unwrap_or_default();
    let vm = |(socket, own): (PathBuf, Identities)| VmConfig { socket, identities: own.over(&common) };
    Ok(args.sockets.into_iter().zip(identities).map(vm).collect())
}

fn check_sockets(sockets: &[PathBuf]) -> Result<(), ConfigError> {
    for (i, path) in sockets.iter().enumerate() {
        let len = path.as_os_str().len();
        if len > 107 {
            return Err(ConfigError::Long { path: path.clone(), len });
        }
        if sockets[..i].contains(path) {
            return Err(ConfigError::Twice(path.clone()));
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

/// Where the software driver is, if it is.
pub fn softgpu_folder() -> Result<PathBuf, ConfigError> {
    let mut path = std::env::current_exe().map_err(ConfigError::NoExecutable)?;
    path.set_file_name(SOFTGPU_FOLDER);
    Ok(path)
}

/// `dir` as an absolute path, if a driver is there. Workers look for `libcuda.so` first, so with another name in `dir`
/// they could load the system's instead.
fn driver_folder(flag: &'static str, dir: &Path) -> Result<PathBuf, ConfigError> {
    let found = dir.join("libcuda.so").is_file();
    match dir.canonicalize() {
        Ok(absolute) if found => Ok(absolute),
        _ => Err(ConfigError::NoDriver { flag, dir: dir.to_owned() }),
    }
}

/// Polling would only take the only CPU from the side that is waited for. Where there are some to spare it covers what a program does
/// between two steps: a sleeping worker begins tens of microseconds late.
fn default_poll_us() -> Result<u32, ConfigError> {
    if let Some(text) = std::env::var_os("VGPU_POLL_US") {
        let value = text.to_str().and_then(|t| t.parse().ok()).filter(|&us: &u32| us <= 1_000_000);
        return value.ok_or_else(|| ConfigError::PollTime(text.to_string_lossy().into_owned()));
    }
    Ok(match std::thread::available_parallelism() {
        Ok(n) if n.get() == 1 => 0,
        Ok(n) if n.get() >= 4 => 500,
        _ => 50,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let arguments = std::iter::once(&"vgpu-backend").chain(args);
        let matches = Cli::command().try_get_matches_from(arguments).map_err(|e| e.to_string())?;
        let cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        Config::new(cli.broker, &matches).map_err(|e| e.to_string())
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_command_lines_say_what_is_wrong() {
        for (args, expected) in [
            (&[][..], "--socket"),
            (&["--socket", "/tmp/a", "--queues", "2"], "3..=64"),
            (&["--socket", "/tmp/a", "--queues", "65"], "3..=64"),
            (&["--socket", "/tmp/a", "--socket", "/tmp/a"], "given twice"),
            (&["--socket", "/tmp/a", "--cuda-dir", "/nonexistent"], "/nonexistent"),
            (&["--socket", "/tmp/a", "--log", "info,=x=y"], "--log"),
            (&["--socket", "/tmp/a", "--clients", "0"], "1..=1024"),
            (&["--socket", "/tmp/a", "--wram", "1"], "--warm"),
            (&["--socket", "/tmp/a", "--device-name", ""], "--device-name"),
            (&["--socket", "/tmp/a", "--device-uuid", "GPU-1"], "8-4-4-4-12"),
            (&["--socket", "/tmp/a", "--device-memory", "1=0"], "--device-memory"),
            (&["--socket", "/tmp/a", "--device-memory", "1", "--device-memory", "0=2"], "given twice"),
        ] {
            let error = config(args).expect_err("accepted");
            assert!(error.contains(expected), "{args:?} gave: {error}");
        }
        let long = format!("/tmp/{}", "x".repeat(110));
        assert!(config(&["--socket", &long]).expect_err("accepted").contains("107"));
    }

    #[test]
    fn what_is_said_of_devices_counts_for_the_socket_before_it_or_for_all() {
        let config = config(&[
            "--device-name=all",
            "--socket=/tmp/a",
            "--device-memory=1=5",
            "--socket=/tmp/b",
            "--device-name=mine",
            "--device-memory=1=6",
        ]);
        let config = config.unwrap();
        let memories: Vec<_> = config.vms.iter().map(|vm| vm.identities.memory(1)).collect();
        assert_eq!(memories, [Some(5 << 20), Some(6 << 20)]);
        let mut wanted = Identities::default();
        wanted.set_name(identity::parse_name("all").unwrap()).unwrap();
        wanted.set_memory(identity::parse_memory("1=5").unwrap()).unwrap();
        assert_eq!(config.vms[0].identities, wanted);
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = config(&["--socket", "/tmp/a"]).unwrap();
        assert_eq!((config.warm, config.queues, config.clients), (1, 64, 64));
        assert_eq!(config.cuda_dir, None);
        assert!(config.vms.iter().all(|vm| vm.identities.is_empty()));
    }
}
