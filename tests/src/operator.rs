//! What an operator asks of a broker.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::host::Host;

/// The commands of a host's broker, on its socket for the operator.
pub struct Operator<'a> {
    pub host: &'a Host,
    pub socket: PathBuf,
}

impl Operator<'_> {
    /// Runs a command.
    pub fn order(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.host.artifacts.broker);
        command.args(arguments).arg("--operator-socket").arg(&self.socket).output().unwrap()
    }

    /// Runs a command, which must succeed; what it says.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.order(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// What `status` says of a VM.
    pub fn vm(&self, name: &str) -> Option<Value> {
        let status: Value = serde_json::from_str(&self.done(&["status", "--json"])).unwrap();
        status["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).cloned()
    }
}
