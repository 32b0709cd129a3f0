//! The command line.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::file::File;
use super::globals::{self, Globals, Sandbox, parse_metrics, parse_mode, parse_turns};
use super::operator_args::{StatusArgs, TopArgs, VmCommands};
use super::settings::{self, VmSettings};
use super::vm_args::{VmArgs, range};
use super::{Config, ConfigError, MetricsAddress, VmConfig};
use crate::operator::commands::Order;
use crate::sandbox::SandboxArgs;
use crate::sandbox::check::CheckOptions;

const EXAMPLES: &str = "\
Examples:
  Serve one VM with the host's GPU:
    vgpu-backend --socket /run/vgpu/vm1.sock

  Serve the VMs of a configuration file:
    vgpu-backend serve --config /etc/vgpu/backend.toml

  Add one more while it runs, look at all of them:
    vgpu-backend vm add vm2 --socket /run/vgpu/vm2.sock --device-memory 16384 --weight 200
    vgpu-backend top

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
Exit status: 0 after a signal, 1 if it could not start, 2 for wrong settings.
Of the other commands: 0 if done, 1 if refused or no broker answers, 2 for a wrong command line.";

/// The host side of vgpu: lends the host's GPU to virtual machines over vhost-user sockets.
///
/// One socket serves one VM (or one vgpu-agent in local mode) at a time. Each guest process that uses CUDA gets a worker
/// process of its own on the host; the broker itself never loads CUDA.
#[derive(Parser)]
#[command(
    name = "vgpu-backend",
    version,
    after_help = EXAMPLES,
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
    /// Listen on this path; give it once per VM, which is called as the file is, without the ending
    #[arg(long = "socket", value_name = "PATH")]
    sockets: Vec<PathBuf>,
    #[command(flatten)]
    vm: VmArgs,
    /// Use the software CUDA driver that lies in the folder "softgpu" beside this executable
    #[arg(long)]
    softgpu: bool,
    /// Load libcuda.so from this folder (overrides --softgpu)
    #[arg(long, value_name = "DIR")]
    cuda_dir: Option<PathBuf>,
    /// Who shares a device out among VMs that use it at the same time: "on" for this program, by weights, "off" for the driver [default: on]
    #[arg(long, value_name = "on|off", value_parser = parse_turns)]
    turns: Option<bool>,
    /// Milliseconds of a VM's turn while others wait: longer ones lose less to handovers, and have others wait longer [default: 20]
    #[arg(long, value_name = "N", value_parser = range(globals::TURN_MS))]
    turn_ms: Option<u64>,
    /// Move idle VMs to the host's memory when others need the device's: those with --suspend-after
    #[arg(long)]
    oversubscribe: bool,
    /// Workers to keep started ahead, each with a CUDA context, for each selection of devices that a VM has [default: 1]
    #[arg(long, value_name = "N", value_parser = range(globals::WARM))]
    warm: Option<u64>,
    /// Microseconds for which an idle lane polls before it sleeps [default: 500; 50 below 4 CPUs, 0 on one]
    ///
    /// Eight times that if its program came back within that the last time. The environment variable VGPU_POLL_US says the same.
    #[arg(long, value_name = "N", value_parser = range(globals::POLL_US))]
    poll_us: Option<u64>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// What to log on stderr: error, warn, info, debug or trace, or a filter such as "info,vgpu_backend::worker=debug" [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = crate::log::check_filter)]
    log: Option<String>,
    /// Socket for the commands vm, status and top; "none" for none [default: /run/vgpu/operator.sock if that can be made]
    #[arg(long, value_name = "PATH")]
    operator_socket: Option<PathBuf>,
    /// Group that may use the operator's socket, besides root and the broker's user
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Mode of the operator's socket [default: 0660]
    #[arg(long, value_name = "OCTAL", value_parser = parse_mode)]
    mode: Option<u32>,
    /// Serve metrics in Prometheus's text format there: ADDRESS:PORT or an absolute path of a socket
    #[arg(long, value_name = "ADDRESS", value_parser = parse_metrics)]
    metrics: Option<MetricsAddress>,
}

#[derive(Subcommand)]
enum Commands {
    /// Serve the VMs of a configuration file, and those of the command line
    Serve(Box<ServeArgs>),
    /// Add, change, remove and list VMs of the broker that runs
    #[command(subcommand)]
    Vm(VmCommands),
    /// Say what the broker that runs does
    Status(StatusArgs),
    /// Show VMs and their processes as they work; q ends
    Top(TopArgs),
    /// Show how workers are confined on this machine, and try the driver in such a confinement
    SandboxCheck(CheckOptions),
    /// A worker process; the broker starts it
    #[command(hide = true)]
    Worker(WorkerOptions),
    /// The process that asks the host's NVML; the broker starts it
    #[command(hide = true)]
    Monitor(HelperOptions),
    /// The process that moves workers off the device and back; the broker starts it
    #[command(hide = true)]
    Checkpointer(HelperOptions),
}

#[derive(Args)]
struct ServeArgs {
    /// The configuration file; options beside it count before what it says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    broker: BrokerArgs,
}

/// What the broker tells the monitor and the checkpointer on their command lines.
#[derive(Args, Debug, Clone)]
pub struct HelperOptions {
    /// Descriptor of the link to the broker.
    #[arg(long)]
    pub link_fd: i32,
    /// Where the driver's libraries lie, if not in the system's folders.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// For the checkpointer only the user counts.
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
    Broker(Box<Config>),
    Operator(Box<Order>),
    Worker(WorkerOptions),
    Monitor(HelperOptions),
    Checkpointer(HelperOptions),
    SandboxCheck(CheckOptions),
}

/// Parses the command line; on a wrong one prints what is wrong and exits with status 2.
pub fn parse() -> Command {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    command(cli, &matches).unwrap_or_else(|error| {
        eprintln!("vgpu-backend: {}", crate::log::chain(&error));
        std::process::exit(2)
    })
}

fn command(cli: Cli, matches: &ArgMatches) -> Result<Command, ConfigError> {
    match cli.command {
        None if cli.broker.sockets.is_empty() => Err(ConfigError::Nothing),
        None => config(cli.broker, matches, File::default()),
        Some(Commands::Serve(serve)) => {
            let matches = matches.subcommand_matches("serve").unwrap_or(matches);
            let file = serve.config.map(|path| File::read(&path)).transpose()?;
            config(serve.broker, matches, file.unwrap_or_default())
        }
        Some(Commands::Vm(vm)) => Ok(Command::Operator(Box::new(vm.order()?))),
        Some(Commands::Status(status)) => Ok(Command::Operator(Box::new(status.order()))),
        Some(Commands::Top(top)) => Ok(Command::Operator(Box::new(top.order()))),
        Some(Commands::SandboxCheck(options)) => Ok(Command::SandboxCheck(options)),
        Some(Commands::Worker(options)) => Ok(Command::Worker(options)),
        Some(Commands::Monitor(options)) => Ok(Command::Monitor(options)),
        Some(Commands::Checkpointer(options)) => Ok(Command::Checkpointer(options)),
    }
}

/// The broker's settings. `matches` are those that the arguments come from: where each stood.
fn config(args: BrokerArgs, matches: &ArgMatches, file: File) -> Result<Command, ConfigError> {
    let (globals, vms) = args.split(matches)?;
    let vms = file.vms.into_iter().chain(vms).collect();
    globals.over(file.globals).config(vms).map(|config| Command::Broker(Box::new(config)))
}

impl BrokerArgs {
    /// What is said of the broker, and a VM for each socket.
    fn split(self, matches: &ArgMatches) -> Result<(Globals, Vec<VmConfig>), ConfigError> {
        let globals = Globals {
            cuda_dir: self.cuda_dir,
            softgpu: self.softgpu.then_some(true),
            turns: self.turns,
            turn_ms: self.turn_ms,
            oversubscribe: self.oversubscribe.then_some(true),
            warm: self.warm,
            poll_us: self.poll_us,
            sandbox: Sandbox {
                layers: said(matches, "layers").then_some(self.sandbox.layers),
                allow: said(matches, "allow").then_some(self.sandbox.allow),
                user: self.sandbox.user,
                compute_cache: self.sandbox.compute_cache,
            },
            log: self.log,
            operator_socket: self.operator_socket,
            group: self.group,
            mode: self.mode,
            metrics: self.metrics,
        };
        let places = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<usize>>();
        let sockets = places("sockets");
        // Of an option: the number of the VM from 1 on, 0 for all.
        let vm_of =
            |id: &str| places(id).iter().map(|place| sockets.iter().filter(|s| *s < place).count()).collect();
        let mut settings = self.vm.spread(sockets.len() + 1, vm_of)?.into_iter();
        let common = settings.next().unwrap_or_default();
        if self.sockets.is_empty() && common != VmSettings::default() {
            return Err(ConfigError::NoVm);
        }
        let mut vms: Vec<VmConfig> = Vec::new();
        for (socket, own) in self.sockets.into_iter().zip(settings) {
            let name = free_name(&settings::name_of(&socket), &vms);
            vms.push(VmSettings { socket: Some(socket), ..own.over(&common) }.vm(&name)?);
        }
        Ok((globals, vms))
    }
}

/// Whether an option that has a default was given.
fn said(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Sockets in different folders may have the same name.
fn free_name(wanted: &str, vms: &[VmConfig]) -> String {
    let taken = |name: &str| vms.iter().any(|vm| vm.name == name);
    let others = (2..).map(|n| format!("{}-{n}", wanted.get(..60).unwrap_or(wanted)));
    let mut names = std::iter::once(wanted.to_owned()).chain(others);
    names.find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{self, Identities};

    fn config(args: &[&str]) -> Result<Config, String> {
        let arguments = std::iter::once(&"vgpu-backend").chain(args);
        let matches = Cli::command().try_get_matches_from(arguments).map_err(|e| e.to_string())?;
        let cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        match command(cli, &matches).map_err(|e| e.to_string())? {
            Command::Broker(config) => Ok(*config),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_command_lines_say_what_is_wrong() {
        for (args, expected) in [
            (&[][..], "--socket"),
            (&["--operator-socket", "/tmp/o"], "--socket"),
            (&["serve", "--operator-socket", "none"], "nothing to serve"),
            (&["serve", "--operator-socket", "/tmp/o", "--weight", "5"], "without a --socket"),
            (&["serve", "--config", "/nonexistent/x.toml"], "/nonexistent/x.toml"),
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
            (&["--socket", "/tmp/a", "--weight", "0"], "1..=10000"),
            (&["--socket", "/tmp/a", "--cap", "101"], "1..=100"),
            (&["--socket", "/tmp/a", "--cap", "1", "--cap", "2"], "cap: given twice"),
            (&["--socket", "/tmp/a", "--metrics", "9445"], "127.0.0.1:9445"),
            (&["--socket", "/tmp/a", "--mode", "9"], "--mode"),
            (&["--socket", "/tmp/a", "--group", "no such group"], "no such group"),
            (&["vm", "add", "a"], "--socket"),
            (&["vm", "add", "a b", "--socket", "/tmp/a"], "vm \"a b\""),
            (&["vm", "set", "a", "--weight", "1", "--weight", "2"], "given twice"),
        ] {
            let error = config(args).expect_err("accepted");
            assert!(error.contains(expected), "{args:?} gave: {error}");
        }
        let long = format!("/tmp/{}", "x".repeat(110));
        assert!(config(&["--socket", &long]).expect_err("accepted").contains("107"));
    }

    #[test]
    fn what_is_said_of_a_vm_counts_for_the_socket_before_it_or_for_all() {
        let config = config(&[
            "--device-name=all",
            "--weight=7",
            "--socket=/tmp/a",
            "--device-memory=1=5",
            "--socket=/tmp/b",
            "--device-name=mine",
            "--device-memory=1=6",
            "--weight=8",
            "--queues=9",
        ]);
        let config = config.unwrap();
        let of = |vm: &VmConfig| (vm.identities.memory(1), vm.limits.weight, vm.queues);
        let settings: Vec<_> = config.vms.iter().map(of).collect();
        assert_eq!(settings, [(Some(5 << 20), 7, 64), (Some(6 << 20), 8, 9)]);
        let mut wanted = Identities::default();
        wanted.set_name(identity::parse_name("all").unwrap()).unwrap();
        wanted.set_memory(identity::parse_memory("1=5").unwrap()).unwrap();
        assert_eq!(config.vms[0].identities, wanted);
    }

    #[test]
    fn vms_are_called_as_their_sockets_and_differ() {
        let config = config(&["--socket=/a/vm.sock", "--socket=/b/vm.sock", "--socket=/b/x.y"]).unwrap();
        let names: Vec<_> = config.vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["vm", "vm-2", "x"]);
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = config(&["--socket", "/tmp/a"]).unwrap();
        assert_eq!((config.warm, config.vms[0].queues, config.vms[0].clients), (1, 64, 64));
        assert_eq!(config.cuda_dir, None);
        assert!(config.vms.iter().all(|vm| vm.identities.is_empty()));
    }
}
