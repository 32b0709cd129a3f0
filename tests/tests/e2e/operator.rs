//! Many VMs of one broker, which come, go and fail while the others compute; and what the operator is shown of it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use vgpu_tests::client::{Client, ClientCommand};
use vgpu_tests::daemon::Daemon;
use vgpu_tests::host::{Folder, Host};
use vgpu_tests::operator::Operator;
use vgpu_tests::poll::eventually;

/// A broker with an operator's socket, and what VMs were added.
struct Operated {
    host: Host,
    folder: Folder,
}

/// A VM in local mode: an agent on a socket of the broker.
struct Vm {
    agent: Daemon,
    socket: PathBuf,
}

impl Operated {
    fn start() -> Self {
        let folder = Folder::new();
        let operator = folder.join("operator.sock");
        let host = Host::options().broker(&["--operator-socket", operator.to_str().unwrap()]).start();
        Operated { host, folder }
    }

    fn operator(&self) -> Operator<'_> {
        Operator { host: &self.host, socket: self.folder.join("operator.sock") }
    }

    /// Runs a command of the operator, which must succeed.
    fn done(&self, arguments: &[&str]) -> String {
        self.operator().done(arguments)
    }

    fn vm(&self, name: &str) -> Option<Value> {
        self.operator().vm(name)
    }

    /// Adds a VM, and starts its agent.
    fn add(&self, name: &str, options: &[&str]) -> Vm {
        let socket = self.folder.join(&format!("{name}.sock"));
        self.done(&[&["vm", "add", name, "--socket", socket.to_str().unwrap()], options].concat());
        let (agent, socket) = self.host.another_vm(&format!("{name}-agent.sock"), &socket);
        Vm { agent, socket }
    }

    fn client(&self, agent: &Path, scenario: &[&str]) -> ClientCommand {
        ClientCommand::new(&self.host.artifacts, agent, scenario)
    }

    /// A program that computes and checks what comes out, until it is told to stop.
    fn compute(&self, agent: &Path) -> Client {
        let mut client = self.client(agent, &["compute"]).start();
        client.expect("computing");
        client
    }
}

fn right(mut client: Client) {
    client.go();
    client.finish().assert_success();
}

#[test]
fn vms_come_go_and_fail_while_the_others_compute() {
    let mut operated = Operated::start();
    let first = operated.compute(&operated.host.agent_socket());
    let options =
        ["--weight", "200", "--clients", "2", "--device-memory", "256", "--device-name", "GPU of b"];
    let b = operated.add("b", &options);
    let mut c = operated.add("c", &[]);
    let d = operated.add("d", &["--cap", "50"]);
    let in_b = operated.compute(&b.socket);
    let mut in_c = operated.compute(&c.socket);
    let in_d = operated.compute(&d.socket);
    // What was said of a VM is what its programs see.
    let seen = operated.client(&b.socket, &["identity"]).succeed();
    assert!(seen[0].starts_with("GPU of b, ") && seen[0].ends_with(", 256"), "{seen:?}");
    eventually("all four work", || {
        ["broker", "b", "c", "d"].iter().all(|name| {
            operated.vm(name).is_some_and(|vm| vm["counts"]["launches"].as_u64().is_some_and(|n| n > 3))
        })
    });
    let frame = operated.done(&["top", "--once"]);
    assert_eq!(frame.matches("cuda-client").count(), 4, "{frame}");
    // One guest dies with its agent, another VM is taken away.
    c.agent.kill();
    in_c.kill();
    operated.done(&["vm", "remove", "d"]);
    let outcome = in_d.finish();
    assert!(!outcome.status.success(), "a program of a VM that is gone cannot go on: {:?}", outcome.lines);
    assert!(operated.vm("d").is_none());
    eventually("nothing of c is left", || {
        operated
            .vm("c")
            .is_some_and(|vm| vm["front_end"].is_null() && vm["clients"] == Value::Array(Vec::new()))
    });
    right(in_b);
    right(first);
    // A removed VM's place is free.
    let d = operated.add("e", &[]);
    operated.client(&d.socket, &["compute-once"]).succeed();
    operated.host.broker.assert_alive();
}

#[test]
fn what_is_set_is_seen_by_the_next_agent() {
    let operated = Operated::start();
    let mut vm = operated.add("vm", &["--device-name", "before", "--device-memory", "512"]);
    let seen = operated.client(&vm.socket, &["identity"]).succeed();
    assert!(seen[0].starts_with("before, "), "{seen:?}");
    operated.done(&["vm", "set", "vm", "--device-name", "after", "--device-memory", "128"]);
    vm.agent.kill();
    let (mut agent, socket) = operated.host.another_vm("again.sock", &operated.folder.join("vm.sock"));
    let seen = operated.client(&socket, &["identity"]).succeed();
    assert!(seen[0].starts_with("after, ") && seen[0].ends_with(", 128"), "{seen:?}");
    // What was said is taken back: the limit at once, the name for the next agent.
    operated.done(&["vm", "set", "vm", "--reset", "device-memory,device-name"]);
    let vm_now = operated.vm("vm").unwrap();
    assert!(vm_now["memory"][0]["limit"].is_null() && vm_now["memory"][0].is_object(), "{vm_now}");
    agent.kill();
    let (_agent, socket) = operated.host.another_vm("third.sock", &operated.folder.join("vm.sock"));
    let seen = operated.client(&socket, &["identity"]).succeed();
    assert!(!seen[0].starts_with("after, ") && !seen[0].ends_with(", 128"), "{seen:?}");
}
