//! What is said once for the whole broker: by flags, by the file, or not at all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Config, ConfigError, MetricsAddress, OPERATOR_SOCKET, OperatorConfig, VmConfig, check_distinct,
    default_poll_us, driver_dir,
};
use crate::broker::turns::QUANTUM;
use crate::sandbox::{Layers, SandboxArgs, User};

/// Workers kept started ahead.
pub const WARM: (u64, u64) = (0, 64);
pub const POLL_US: (u64, u64) = (0, 1_000_000);
/// Milliseconds of a turn.
pub const TURN_MS: (u64, u64) = (2, 200);
const DEFAULT_MODE: u32 = 0o660;

/// What is said.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    pub cuda_dir: Option<PathBuf>,
    pub softgpu: Option<bool>,
    /// Whether VMs take turns on devices.
    pub turns: Option<bool>,
    pub turn_ms: Option<u64>,
    /// Whether idle VMs are suspended when others need the memory.
    pub oversubscribe: Option<bool>,
    pub warm: Option<u64>,
    pub poll_us: Option<u64>,
    pub sandbox: Sandbox,
    pub log: Option<String>,
    pub operator_socket: Option<PathBuf>,
    pub group: Option<String>,
    pub mode: Option<u32>,
    pub metrics: Option<MetricsAddress>,
}

/// How workers are to be confined.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    pub layers: Option<Layers>,
    pub allow: Option<Vec<i64>>,
    pub user: Option<User>,
    pub compute_cache: Option<PathBuf>,
}

impl Sandbox {
    fn over(self, other: Sandbox) -> Self {
        Sandbox {
            layers: self.layers.or(other.layers),
            allow: self.allow.or(other.allow),
            user: self.user.or(other.user),
            compute_cache: self.compute_cache.or(other.compute_cache),
        }
    }

    fn args(&self) -> SandboxArgs {
        SandboxArgs {
            layers: self.layers.unwrap_or_default(),
            allow: self.allow.clone().unwrap_or_default(),
            user: self.user,
            compute_cache: self.compute_cache.clone(),
        }
    }
}

impl Globals {
    /// These, and `other` for what they leave open.
    #[must_use]
    pub fn over(self, other: Globals) -> Self {
        // A folder on the command line counts before `softgpu` in the file, and the other way round.
        let drivers = if self.cuda_dir.is_some() || self.softgpu.is_some() { &self } else { &other };
        let (cuda_dir, softgpu) = (drivers.cuda_dir.clone(), drivers.softgpu);
        Globals {
            cuda_dir,
            softgpu,
            turns: self.turns.or(other.turns),
            turn_ms: self.turn_ms.or(other.turn_ms),
            oversubscribe: self.oversubscribe.or(other.oversubscribe),
            warm: self.warm.or(other.warm),
            poll_us: self.poll_us.or(other.poll_us),
            sandbox: self.sandbox.over(other.sandbox),
            log: self.log.or(other.log),
            operator_socket: self.operator_socket.or(other.operator_socket),
            group: self.group.or(other.group),
            mode: self.mode.or(other.mode),
            metrics: self.metrics.or(other.metrics),
        }
    }

    /// The broker's settings, with these VMs.
    pub fn config(self, vms: Vec<VmConfig>) -> Result<Config, ConfigError> {
        check_distinct(&vms)?;
        let cuda_dir = driver_dir(self.softgpu.unwrap_or(false), self.cuda_dir.as_deref())?;
        let operator = self.operator()?;
        if vms.is_empty() && operator.socket.is_none() {
            return Err(ConfigError::Nothing);
        }
        Ok(Config {
            cuda_dir,
            turns: self.turns.unwrap_or(true),
            turn: self.turn_ms.map_or(Duration::from_nanos(QUANTUM), Duration::from_millis),
            oversubscribe: self.oversubscribe.unwrap_or(false),
            warm: usize::try_from(self.warm.unwrap_or(1)).unwrap_or(1),
            poll: Duration::from_micros(match self.poll_us {
                Some(us) => us,
                None => default_poll_us()?,
            }),
            // With an operator's socket there may be more at any time.
            sandbox: self.sandbox.args().for_vms(if operator.socket.is_some() { 2 } else { vms.len() }),
            log: self.log.unwrap_or_else(|| "info".into()),
            operator,
            metrics: self.metrics,
            vms,
        })
    }

    fn operator(&self) -> Result<OperatorConfig, ConfigError> {
        let group = self.group.as_deref().map(group_number).transpose()?;
        let mode = self.mode.unwrap_or(DEFAULT_MODE);
        let (socket, required) = match &self.operator_socket {
            Some(path) if path.as_os_str() == "none" => (None, false),
            Some(path) => (Some(path.clone()), true),
            None => (default_socket(), false),
        };
        Ok(OperatorConfig { socket, required, group, mode })
    }
}

/// The usual place, if this user can make a socket there.
fn default_socket() -> Option<PathBuf> {
    let path = PathBuf::from(OPERATOR_SOCKET);
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(path.parent()?, access).is_ok().then_some(path)
}

/// A group, by its name or number.
fn group_number(name: &str) -> Result<u32, ConfigError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    // The system's own list only: what else a host asks (LDAP, for example) may not answer while it starts.
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| ConfigError::Group(name.to_owned()))
}

/// `660` or `0660`.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777);
    mode.ok_or_else(|| format!("\"{text}\" is no mode of a file such as 0660"))
}

/// `on` or `off`.
pub fn parse_turns(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("\"{text}\" is neither \"on\" nor \"off\"")),
    }
}

/// An address with a port, or an absolute path.
pub fn parse_metrics(text: &str) -> Result<MetricsAddress, String> {
    if text.starts_with('/') {
        return Ok(MetricsAddress::Unix(text.into()));
    }
    let address = text.parse::<SocketAddr>();
    address.map(MetricsAddress::Tcp).map_err(|_| {
        format!("\"{text}\" is neither ADDRESS:PORT such as 127.0.0.1:9445 nor an absolute path")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_modes_and_groups_are_checked() {
        let address = MetricsAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9445)));
        assert_eq!(parse_metrics("127.0.0.1:9445"), Ok(address));
        assert_eq!(parse_metrics("/run/m.sock"), Ok(MetricsAddress::Unix("/run/m.sock".into())));
        for text in ["", "9445", "localhost:9445", "m.sock"] {
            assert!(parse_metrics(text).is_err(), "{text}");
        }
        assert_eq!((parse_mode("0660"), parse_mode("600")), (Ok(0o660), Ok(0o600)));
        assert!(parse_mode("0880").is_err() && parse_mode("7777").is_err() && parse_mode("-1").is_err());
        assert_eq!((group_number("root").unwrap(), group_number("77").unwrap()), (0, 77));
        assert!(matches!(group_number("no such group"), Err(ConfigError::Group(_))));
    }

    #[test]
    fn flags_count_before_the_file() {
        let flags = Globals { warm: Some(2), softgpu: Some(true), ..Globals::default() };
        let file =
            Globals { warm: Some(3), cuda_dir: Some("/x".into()), poll_us: Some(7), ..Globals::default() };
        let both = flags.over(file);
        assert_eq!(
            (both.warm, both.poll_us, both.softgpu, both.cuda_dir),
            (Some(2), Some(7), Some(true), None)
        );
    }
}
