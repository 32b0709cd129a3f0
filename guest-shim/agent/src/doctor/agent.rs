//! The agent: it answers, and of which version.

use super::report::Report;
use super::subject::{AgentState, Facts, Subject};
use crate::install::plan::UNIT;
use std::io::ErrorKind;
use std::path::Path;
use vgpu_client::ConnectionError;
use vgpu_client::connection::socket_path;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::snapshot::Device;

pub fn check(subject: &Subject, _: &mut Facts, report: &mut Report) {
    let socket = socket_path();
    let agent = match &subject.agent {
        Ok(agent) => agent,
        Err(AgentState::NotAsked) => return report.note("not asked: the system does not run"),
        Err(AgentState::Unreachable(error)) => return unreachable(subject, &socket, error, report),
    };
    if agent.snapshot.devices.is_empty() {
        return report.error(
            "no-gpu-on-host",
            "the agent and the host's broker serve, and the host shows no GPU",
            "on the host: does nvidia-smi work for the user of vgpu-backend? Its log says what the workers found",
        );
    }
    let names: Vec<String> = agent.snapshot.devices.iter().map(Device::name).collect();
    report.ok(format!("it serves {}: {}", socket.display(), names.join(", ")));
}

fn unreachable(subject: &Subject, socket: &Path, error: &ConnectionError, report: &mut Report) {
    let text = crate::error::chain(error);
    let text = text.strip_prefix("vgpu: ").unwrap_or(&text);
    let start = if subject.root.has(UNIT) {
        "systemctl start vgpu-agent; if that fails, journalctl -u vgpu-agent says why"
    } else {
        "run vgpu-agent install as root, or start vgpu-agent by hand and read what it logs"
    };
    match error {
        ConnectionError::NoAgent { source, .. } if source.kind() == ErrorKind::ConnectionRefused => report
            .error(
                "agent-dead",
                format!("{} is there and nobody serves it: the agent was killed", socket.display()),
                start,
            ),
        ConnectionError::NoAgent { .. } => {
            let named = subject.environment.contains_key(vgpu_spec::wire::socket::PATH_VARIABLE);
            let named = if named { " (from VGPU_AGENT_SOCKET)" } else { "" };
            report.error("no-agent", format!("there is no agent at {}{named}", socket.display()), start);
        }
        ConnectionError::Permission { .. } => report.error(
            "agent-permission",
            format!("this user may not use {}", socket.display()),
            "add the user to the socket's group, or start vgpu-agent with --socket-mode 0666",
        ),
        ConnectionError::Version { .. } => version(text, report),
        ConnectionError::Refused { status: status::UNSUPPORTED, .. } => version(text, report),
        _ => report.error(
            "agent-broken",
            format!("what serves {} does not answer as an agent: {text}", socket.display()),
            "see the agent's log (journalctl -u vgpu-agent); is VGPU_AGENT_SOCKET the agent's socket?",
        ),
    }
}

fn version(text: &str, report: &mut Report) {
    report.error(
        "agent-version",
        text,
        "install agent and libraries of one release: vgpu-agent install, then restart it",
    );
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::doctor::subject::Agent;
    use crate::testing::tree::Tree;
    use std::io;
    use vgpu_spec::wire::control::PciAddress;
    use vgpu_spec::wire::snapshot::{DeviceRecord, Snapshot, SnapshotHeader};
    use zerocopy::FromZeros;

    /// An agent of a VM with `count` devices, whose own address is 0000:00:04.0.
    pub fn agent(count: u32) -> Agent {
        let header = SnapshotHeader { driver_version: 13000, device_count: count, driver_name: [0; 32] };
        let device = || Device { record: DeviceRecord::new_zeroed(), attributes: Vec::new() };
        let pci = PciAddress { domain: 0, bus: 0, device: 4, function: 0, present: 1 };
        Agent { snapshot: Snapshot { header, devices: (0..count).map(|_| device()).collect() }, pci }
    }

    fn found(state: Result<Agent, ConnectionError>) -> Vec<&'static str> {
        let tree = Tree::new();
        let mut subject = Subject::files(tree.root());
        subject.agent = state.map_err(AgentState::Unreachable);
        let mut report = Report::default();
        check(&subject, &mut Facts::default(), &mut report);
        report.faults()
    }

    #[test]
    fn each_way_not_to_reach_the_agent_has_its_name() {
        let path = || "/run/vgpu/agent.sock".into();
        let error = |kind: ErrorKind| io::Error::from(kind);
        let what = "a connection";
        let cases = [
            (ConnectionError::NoAgent { path: path(), source: error(ErrorKind::NotFound) }, "no-agent"),
            (
                ConnectionError::NoAgent { path: path(), source: error(ErrorKind::ConnectionRefused) },
                "agent-dead",
            ),
            (
                ConnectionError::Permission { path: path(), source: error(ErrorKind::PermissionDenied) },
                "agent-permission",
            ),
            (ConnectionError::Version { ours: 2, theirs: 3 }, "agent-version"),
            (ConnectionError::Refused { what, status: status::UNSUPPORTED }, "agent-version"),
            (ConnectionError::Closed { what }, "agent-broken"),
            (ConnectionError::Timeout { what }, "agent-broken"),
        ];
        for (state, fault) in cases {
            assert_eq!(found(Err(state)), [fault]);
        }
    }

    #[test]
    fn a_host_without_gpu_is_named() {
        assert_eq!(found(Ok(agent(0))), ["no-gpu-on-host"]);
        assert!(found(Ok(agent(1))).is_empty());
    }
}
