//! The command line: `serve` is what happens without a subcommand.

use crate::config::Config;
use crate::doctor::{DoctorOptions, probe::ProbeOptions};
use crate::install::{InstallOptions, UninstallOptions};
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  vgpu-agent
      In a VM, as root: take the only vgpu device, with interrupts if the VM has an IOMMU.
  vgpu-agent --device 00:04.0 --method sysfs --lanes 8
      In a VM: take this device, poll it, keep 8 lanes (16 MiB of huge pages).
  vgpu-agent --backend /run/vgpu/local.sock --socket /tmp/agent.sock
      On the host: local mode, no VM and no root. Programs find the agent by VGPU_AGENT_SOCKET=/tmp/agent.sock.
  vgpu-agent install
      In a VM, as root: have every program find the GPU, and start the agent now and at boot.
  vgpu-agent doctor -- ollama serve
      Check everything, then show which process loads which library and what fails first.

Huge pages: in a VM, lanes and windows are 2 MiB huge pages. The agent asks the kernel for them as they are needed. If it
says that they are short, set vm.nr_hugepages or boot with hugepages=N.

Exit status: 0 after SIGTERM or SIGINT, 1 if it could not start or the device is lost, 2 for a wrong command line.
doctor: 0 if nothing is wrong, 1 if something is.";

/// Owns the vgpu device of this machine and serves it to programs.
///
/// In a VM the agent takes the virtio device that QEMU carries. With --backend it connects to a broker's socket on the
/// same machine instead (local mode). Programs reach it through libvgpu-cuda.so and the agent's unix socket. When it
/// serves, it logs one line that starts with "ready".
#[derive(Debug, Parser)]
#[command(name = "vgpu-agent", version, after_help = EXAMPLES, after_long_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Config,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the device: the same as without a subcommand
    Serve(Config),
    /// Put libraries, their names, the unit and huge pages into a guest
    Install(InstallOptions),
    /// Take back what install did
    Uninstall(UninstallOptions),
    /// Print the file of the Container Device Interface that gives containers the GPU; install puts it to /etc/cdi
    Cdi,
    /// Check from the kernel up what keeps programs from the GPU, and say what to do
    Doctor(DoctorOptions),
    /// What doctor runs in a process of its own
    #[command(hide = true)]
    Probe(ProbeOptions),
}

impl Cli {
    /// What the log shows: only serving has an option for it.
    pub fn log_level(&self) -> &str {
        match &self.command {
            None => &self.serve.log,
            Some(Command::Serve(config)) => &config.log,
            Some(_) => "warn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serving_is_what_happens_without_a_subcommand() {
        let parse = |arguments: &[&str]| Cli::try_parse_from([&["vgpu-agent"], arguments].concat());
        let cli = parse(&["--backend", "/s", "--lanes", "3"]).unwrap();
        assert!(cli.command.is_none() && cli.serve.lanes == Some(3));
        let cli = parse(&["serve", "--lanes", "3"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Serve(config)) if config.lanes == Some(3)));
        assert!(parse(&["--lanes", "3", "install"]).is_err());
        let doctor = parse(&["doctor", "--json", "--", "ollama", "serve", "--x"]).unwrap();
        assert!(matches!(doctor.command, Some(Command::Doctor(options)) if options.command.len() == 3));
    }
}
