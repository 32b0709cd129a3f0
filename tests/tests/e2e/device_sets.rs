//! VMs that have some of the host's devices.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::client::{Client, ClientCommand};
use vgpu_tests::daemon::Daemon;
use vgpu_tests::host::{Folder, Host};
use vgpu_tests::operator::Operator;
use vgpu_tests::poll::eventually;

/// softgpu's UUIDs: "vgpu-softgpu" and the number.
const FIRST: &str = "766770752d736f667467707500000000";
const SECOND: &str = "766770752d736f667467707500000001";
const MIB: u64 = 1 << 20;

/// A host with two devices and four VMs: `broker` has the second, `both` both, `first` the first, `turned` both in the other order.
struct Vms {
    host: Host,
    agents: Vec<(Daemon, PathBuf)>,
    folder: Folder,
}

const OTHERS: [(&str, &str); 3] = [("both", "0,1"), ("first", "0"), ("turned", "1,0")];

impl Vms {
    fn start() -> Self {
        let folder = Folder::new();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let mut options = vec!["--operator-socket".to_owned(), path("operator.sock")];
        options.extend(["--devices", "1", "--device-memory", "1=300"].map(String::from));
        for (name, devices) in OTHERS {
            options.extend([
                "--socket".into(),
                path(&format!("{name}.sock")),
                "--devices".into(),
                devices.into(),
            ]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let host = Host::options().env("VGPU_SOFTGPU_DEVICES", "2").broker(&options).start();
        let agent =
            |(name, _)| host.another_vm(&format!("{name}-agent"), &folder.join(&format!("{name}.sock")));
        let agents = OTHERS.map(agent).into_iter().collect();
        Vms { host, agents, folder }
    }

    /// A program in the VM of this name.
    fn client(&self, name: &str, scenario: &[&str]) -> ClientCommand {
        let own = self.host.agent_socket();
        let place = OTHERS.iter().position(|(other, _)| *other == name);
        let socket: &Path = place.map_or(&own, |place| &self.agents[place].1);
        ClientCommand::new(&self.host.artifacts, socket, scenario)
    }

    fn operator(&self) -> Operator<'_> {
        Operator { host: &self.host, socket: self.folder.join("operator.sock") }
    }

    fn order(&self, arguments: &[&str]) -> Output {
        self.operator().order(arguments)
    }

    fn done(&self, arguments: &[&str]) -> String {
        self.operator().done(arguments)
    }

    fn status_of(&self, name: &str) -> Value {
        self.operator().vm(name).unwrap()
    }
}

#[test]
fn each_vm_sees_the_devices_that_it_has() {
    let vms = Vms::start();
    for (vm, devices) in [
        ("broker", &[SECOND][..]),
        ("both", &[FIRST, SECOND]),
        ("first", &[FIRST]),
        ("turned", &[SECOND, FIRST]),
    ] {
        assert_eq!(vms.client(vm, &["devices"]).succeed(), devices, "{vm}");
    }
    // What a program chooses of them counts as if there were no others.
    let second = "GPU-76677075-2d73-6f66-7467-707500000001";
    for (vm, wish, seen) in [
        ("broker", "0", SECOND),
        ("broker", second, SECOND),
        ("broker", "1", "cuInit: 100"),
        ("first", second, "cuInit: 100"),
        ("turned", "1", FIRST),
    ] {
        let seen_there = vms.client(vm, &["devices"]).env("CUDA_VISIBLE_DEVICES", wish).succeed();
        assert_eq!(seen_there, [seen], "{vm}: {wish}");
    }
    let list = vms.done(&["vm", "list"]);
    for (vm, devices) in [("broker", "1"), ("both", "all"), ("first", "0"), ("turned", "1,0")] {
        let line = list.lines().find(|line| line.starts_with(&format!("{vm} "))).unwrap();
        assert!(line.split_whitespace().any(|word| word == devices), "{vm}: {line}");
    }
}

#[test]
fn a_limit_counts_on_the_hosts_device() {
    let vms = Vms::start();
    let used = |vm: &str, device: usize| vms.status_of(vm)["memory"][device]["used"].as_u64().unwrap();
    assert!(vms.client("broker", &["identity"]).succeed()[0].ends_with(&format!("{SECOND}, 300")));
    let mut own = vms.client("broker", &["memory-left", "100"]).start();
    own.expect("300 of 300");
    own.go();
    own.expect("200 of 300");
    assert_eq!((used("broker", 0), used("broker", 1)), (0, 100 * MIB));
    let limits = &vms.status_of("broker")["memory"];
    assert_eq!((limits[0]["limit"].as_u64(), limits[1]["limit"].as_u64()), (None, Some(300 * MIB)));
    // What it may not have, nobody gives it, and what others have is theirs.
    assert!(!vms.client("broker", &["memory-left", "201"]).run().status.success());
    let mut turned = vms.client("turned", &["memory-left", "500"]).start();
    turned.line();
    turned.go();
    turned.line();
    assert_eq!((used("turned", 0), used("turned", 1)), (0, 500 * MIB), "its first is the host's second");
    for mut client in [own, turned] {
        client.go();
        client.line();
        client.go();
        client.finish().assert_success();
    }
}

#[test]
fn all_compute_at_once() {
    let vms = Vms::start();
    let names = ["broker", "both", "first", "turned"];
    let mut clients: Vec<Client> = names.map(|vm| vms.client(vm, &["compute"]).start()).into();
    clients.iter_mut().for_each(|client| client.expect("computing"));
    for mut client in clients {
        client.go();
        client.finish().assert_success();
    }
}

#[test]
fn workers_are_kept_for_devices_that_vms_have() {
    let vms = Vms::start();
    let workers = |count: usize| {
        eventually(&format!("{count} workers are warm"), || vms.host.workers().len() == count);
    };
    workers(4);
    vms.done(&["vm", "remove", "turned"]);
    workers(3);
    vms.done(&["vm", "set", "both", "--devices", "0"]);
    // Its agent has the devices that it was shown, until another says hello.
    assert_eq!(vms.client("both", &["devices"]).succeed(), [FIRST, SECOND]);
    let (mut agents, host, folder) = (vms.agents, vms.host, vms.folder);
    agents[0].0.kill();
    let (_agent, socket) = host.another_vm("again", &folder.join("both.sock"));
    let seen = || ClientCommand::new(&host.artifacts, &socket, &["devices"]).succeed();
    assert_eq!(seen(), [FIRST]);
    eventually("two workers are warm", || host.workers().len() == 2);
    assert_eq!(seen(), [FIRST]);
}

#[test]
fn devices_that_the_host_does_not_have_are_refused() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let socket = folder.join("vm.sock");
    for (devices, says) in
        [("0,1", "there is no device 1, the host shows 1"), ("0,0", "devices 0: given twice")]
    {
        let mut command = Command::new(&artifacts.broker);
        let output =
            command.args(["--softgpu", "--devices", devices, "--socket"]).arg(&socket).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("vgpu-backend: vm vm: devices ") && text.contains(says), "{text}");
        assert!(!socket.exists(), "a socket that nobody serves is left");
    }
    let vms = Vms::start();
    let other = folder.join("other.sock");
    let other = other.to_str().unwrap();
    for arguments in [
        &["vm", "set", "first", "--devices", "2"][..],
        &["vm", "set", "first", "--devices", "1,1"],
        &["vm", "add", "other", "--socket", other, "--devices", "5"],
    ] {
        let output = vms.order(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("devices "), "{arguments:?}: {text}");
    }
    assert_eq!(vms.status_of("first")["devices"], serde_json::json!([0]));
}
