//! The options of the sandbox. The broker passes its own on to the processes that it starts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{Layers, User, calls, compute_cache};

#[derive(Args, Debug, Clone, Default)]
pub struct SandboxArgs {
    /// What confines workers: all that this machine has, off, or some of limits,namespaces,files,privileges,calls, which must be there
    #[arg(long = "sandbox", value_name = "LAYERS", default_value_t = Layers::ALL)]
    pub layers: Layers,
    /// System calls that workers may make in addition, by name, should a driver need them
    #[arg(long = "sandbox-allow", value_name = "CALL", value_delimiter = ',', value_parser = calls::parse)]
    pub allow: Vec<i64>,
    /// User as which workers run, by name or UID[:GID]; only if this process is root [default: its own]
    #[arg(long = "worker-user", value_name = "USER", value_parser = User::parse)]
    pub user: Option<User>,
    /// Folder in which workers keep what the driver compiled, for all VMs; off for none [default: the driver's own if there is one VM
    /// and no operator's socket, else off]
    #[arg(long = "compute-cache", value_name = "DIR")]
    pub compute_cache: Option<PathBuf>,
}

impl SandboxArgs {
    /// The same for a broker of so many VMs.
    pub fn for_vms(mut self, vms: usize) -> Self {
        if vms > 1 {
            compute_cache::of_several(&mut self);
        }
        self
    }

    /// The same, as options of a process to be started.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--sandbox".into(), self.layers.to_string().into()];
        if !self.allow.is_empty() {
            let names: Vec<String> = self.allow.iter().map(|&call| calls::name(call)).collect();
            arguments.extend(["--sandbox-allow".into(), names.join(",").into()]);
        }
        if let Some(user) = self.user {
            arguments.extend(["--worker-user".into(), user.to_string().into()]);
        }
        if let Some(folder) = &self.compute_cache {
            arguments.extend(["--compute-cache".into(), folder.into()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sandbox: SandboxArgs,
    }

    fn parse(arguments: &[OsString]) -> SandboxArgs {
        let line = [OsString::from("x")].into_iter().chain(arguments.iter().cloned());
        Line::try_parse_from(line).unwrap().sandbox
    }

    #[test]
    fn options_are_passed_on_as_they_were_given() {
        assert_eq!(parse(&[]).layers, Layers::ALL);
        let given = ["--sandbox=files,calls", "--sandbox-allow=socket,connect", "--worker-user=65534:100"];
        let args =
            parse(&[&given.map(OsString::from)[..], &["--compute-cache=/var/cache/x".into()]].concat());
        assert_eq!(args.allow, [libc::SYS_socket, libc::SYS_connect]);
        let again = parse(&args.arguments());
        assert_eq!(format!("{again:?}"), format!("{args:?}"));
    }

    #[test]
    fn unknown_system_calls_and_hostile_ones_are_refused() {
        assert!(calls::parse("sockett").is_err());
        assert!(calls::parse("ptrace").unwrap_err().contains("ptrace"));
    }
}
