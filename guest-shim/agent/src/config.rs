//! What the agent is told on its command line.

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use vgpu_spec::wire::socket::DEFAULT_PATH;

/// How a PCI device is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The first of vfio, uio, sysfs that works
    Auto,
    /// vfio-pci: interrupts, pinned memory; needs an IOMMU in the VM
    Vfio,
    /// uio_pci_generic: polling
    Uio,
    /// The device's files in sysfs: polling, no driver needed
    Sysfs,
}

/// Which PCI device is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    Auto,
    Bdf(Bdf),
}

/// A PCI address: domain, bus, device, function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

/// Why a command line makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the PCI address {0:?}: give it as 0000:00:04.0 or 00:04.0, or \"auto\"")]
    Bdf(String),
    #[error("reading the socket mode {0:?}: give permissions in octal, such as 0660")]
    Mode(String),
    #[error("reading the log level {0:?}: give error, warn, info, debug or trace")]
    Log(String),
}

impl std::str::FromStr for Bdf {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
            let hex = |text: &str, max: u32| {
                let digits = (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
                u32::from_str_radix(text, 16).ok().filter(|&value| digits && value <= max)
            };
            Some(Bdf {
                domain: hex(domain, u32::MAX)?,
                bus: u8::try_from(hex(bus, 0xff)?).ok()?,
                device: u8::try_from(hex(device, 0x1f)?).ok()?,
                function: u8::try_from(hex(function, 7)?).ok()?,
            })
        };
        parse().ok_or_else(|| ConfigError::Bdf(text.into()))
    }
}

impl std::fmt::Display for Bdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

fn selector(text: &str) -> Result<Selector, ConfigError> {
    if text == "auto" { Ok(Selector::Auto) } else { text.parse().map(Selector::Bdf) }
}

fn mode(text: &str) -> Result<u32, ConfigError> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(ConfigError::Mode(text.into())),
    }
}

/// How the agent serves.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Local mode: the broker's vhost-user socket
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["device", "method"])]
    pub backend: Option<PathBuf>,

    /// PCI address of the device in the VM, or "auto" for the only one there is
    #[arg(long, value_name = "BDF", default_value = "auto", value_parser = selector)]
    pub device: Selector,

    /// How the PCI device is taken
    #[arg(long, value_enum, default_value = "auto")]
    pub method: Method,

    /// Where programs find the agent (their VGPU_AGENT_SOCKET)
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    pub socket: PathBuf,

    /// Permissions of that socket, in octal: who may use the device
    #[arg(long, value_name = "MODE", default_value = "0666", value_parser = mode)]
    pub socket_mode: u32,

    /// Lanes to set up: threads of programs that can run at once without sharing one [default: 16 in a VM, 62 in local mode,
    /// or as many as the device has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1022))]
    pub lanes: Option<u16>,

    /// What is logged to stderr: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "VGPU_LOG", default_value = "info")]
    pub log: String,
}

/// Lanes in a VM, where each takes a huge page, unless told otherwise.
pub const DEFAULT_LANES_VM: u16 = 16;
/// Lanes in local mode unless told otherwise: vhost-user back ends serve 64 queues.
pub const DEFAULT_LANES_LOCAL: u16 = 62;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn pci_addresses_are_read_with_and_without_domain() {
        let bdf: Bdf = "0001:0a:1f.7".parse().unwrap();
        assert_eq!((bdf.domain, bdf.bus, bdf.device, bdf.function), (1, 10, 31, 7));
        assert_eq!("00:04.0".parse::<Bdf>().unwrap().to_string(), "0000:00:04.0");
        for wrong in
            ["", "00:04", "00:20.0", "00:04.8", "100:04.0.0", "00:+4.0", "x:00:04.0", "../../etc:00:00.0"]
        {
            assert!(wrong.parse::<Bdf>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn local_mode_and_device_options_exclude_each_other() {
        let parse = |args: &[&str]| {
            crate::cli::Cli::try_parse_from([&["vgpu-agent"], args].concat()).map(|cli| cli.serve)
        };
        assert!(parse(&["--backend", "/s", "--method", "uio"]).is_err());
        assert!(parse(&["--socket-mode", "999"]).is_err());
        assert!(parse(&["--lanes", "0"]).is_err());
        let config = parse(&["--backend", "/s", "--socket-mode", "0600"]).unwrap();
        assert_eq!(config.socket_mode, 0o600);
    }
}
