//! VMs share a device by turns: what each gets is as its weight, whatever becomes of others.
//!
//! softgpu computes on the CPU, which these VMs share with everything else: what they get done says little. So shares are those of the
//! device's time, as the broker measured it, of kernels that take as long on a processor that has much else to do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgpu_tests::client::{Client, ClientCommand};
use vgpu_tests::daemon::Daemon;
use vgpu_tests::host::{Folder, Host};

/// Kernels that take a while whatever else the processor has to do, and enough of them under way that the VM always wants the device.
const OCCUPY: [&str; 2] = ["occupy", "4000"];
/// How often shares may be spoilt by what else the processor has to do.
const ATTEMPTS: u32 = 4;

/// VMs of one broker.
struct Vms {
    host: Host,
    agents: Vec<(Daemon, PathBuf)>,
    operator: PathBuf,
    _folder: Folder,
}

impl Vms {
    /// With these options for each.
    fn start(options: &[&[&str]]) -> Self {
        let folder = Folder::new();
        let socket = |vm: usize| folder.join(&format!("vm{vm}.sock"));
        let more: Vec<PathBuf> = (1..options.len()).map(socket).collect();
        let operator = folder.join("operator.sock");
        let mut arguments: Vec<&str> = options[0].to_vec();
        arguments.extend(["--operator-socket", operator.to_str().unwrap()]);
        for (path, options) in more.iter().zip(&options[1..]) {
            arguments.extend(["--socket", path.to_str().unwrap()]);
            arguments.extend(*options);
        }
        let host = Host::options().broker(&arguments).start();
        let agents =
            (1..).zip(&more).map(|(vm, path)| host.another_vm(&format!("agent{vm}.sock"), path)).collect();
        Vms { host, agents, operator, _folder: folder }
    }

    /// Seconds for which the VMs have had the device, in their turns.
    fn device_time(&self) -> Vec<f64> {
        let mut command = Command::new(&self.host.artifacts.broker);
        let output =
            command.args(["status", "--json", "--operator-socket"]).arg(&self.operator).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |vm: &Value| vm["counts"]["device_ns"].as_f64().unwrap() / 1e9;
        status["vms"].as_array().unwrap().iter().map(of).collect()
    }

    /// What VMs have of the device per second, while busy clients, one in each of these, run for a while.
    fn shares(&self, vms: &[usize]) -> Vec<f64> {
        let mut clients: Vec<Client> = vms.iter().map(|&vm| self.client(vm, &OCCUPY)).collect();
        clients.iter_mut().for_each(|client| client.expect("ready"));
        clients.iter_mut().for_each(Client::go);
        // What they were too late for at the beginning has been made up for.
        std::thread::sleep(Duration::from_millis(500));
        let (start, before) = (Instant::now(), self.device_time());
        std::thread::sleep(Duration::from_secs(3));
        // Asking takes time too, which is better counted than not.
        let (after, seconds) = (self.device_time(), start.elapsed().as_secs_f64());
        clients.iter_mut().for_each(Client::go);
        clients.into_iter().for_each(|client| client.finish().assert_success());
        after.iter().zip(before).map(|(after, before)| (after - before) / seconds).collect()
    }

    fn client(&self, vm: usize, scenario: &[&str]) -> Client {
        let first = self.host.agent_socket();
        let socket: &Path = if vm == 0 { &first } else { &self.agents[vm - 1].1 };
        ClientCommand::new(&self.host.artifacts, socket, scenario).start()
    }

    /// What busy clients, one in each of these VMs, get done in a while, during which `meanwhile` is called.
    fn compete(&self, vms: &[usize], meanwhile: impl FnOnce()) -> Vec<f64> {
        let mut clients: Vec<Client> = vms.iter().map(|&vm| self.client(vm, &["busy"])).collect();
        clients.iter_mut().for_each(|client| client.expect("ready"));
        clients.iter_mut().for_each(Client::go);
        std::thread::sleep(Duration::from_secs(2));
        meanwhile();
        clients.iter_mut().for_each(Client::go);
        let launches = |client: &mut Client| {
            let line = client.line();
            line.split(' ').next().and_then(|n| n.parse().ok()).unwrap()
        };
        let launches = clients.iter_mut().map(launches).collect();
        clients.into_iter().for_each(|client| client.finish().assert_success());
        launches
    }
}

#[test]
fn what_vms_get_is_as_their_weights() {
    let vms = Vms::start(&[&["--weight", "100"], &["--weight", "300"]]);
    let mut seen = Vec::new();
    let right = (0..ATTEMPTS).any(|_| {
        let shares = vms.shares(&[0, 1]);
        let ratio = shares[1] / shares[0];
        seen.push(shares);
        (2.2..4.0).contains(&ratio)
    });
    assert!(right, "{seen:?}");
}

#[test]
fn a_vm_that_is_capped_gets_no_more_when_it_is_alone() {
    let vms = Vms::start(&[&["--cap", "20"], &[]]);
    let share = vms.shares(&[0])[0];
    assert!((0.05..0.25).contains(&share), "{share}");
    let launches = vms.compete(&[1], || {});
    assert!(launches[0] > 100.0, "{launches:?}");
}

#[test]
fn a_killed_and_an_endless_neighbour_leave_others_their_turns() {
    let vms = Vms::start(&[&[], &[], &[]]);
    let mut endless = vms.client(2, &["spin"]);
    endless.expect("spinning");
    let launches = vms.compete(&[0], || {
        let mut killed = vms.client(1, &["busy"]);
        killed.expect("ready");
        killed.go();
        std::thread::sleep(Duration::from_millis(300));
        killed.kill();
        std::thread::sleep(Duration::from_millis(700));
    });
    assert!(launches[0] > 100.0, "{launches:?}");
    endless.kill();
}

#[test]
fn work_that_waits_for_later_work_gets_it() {
    let vms = Vms::start(&[&[], &[]]);
    let launches = vms.compete(&[0], || {
        let client = vms.client(1, &["wait-for-later-work"]);
        client.finish().assert_success();
    });
    assert!(launches[0] > 100.0, "{launches:?}");
}

#[test]
fn the_driver_shares_out_where_turns_are_off() {
    let vms = Vms::start(&[&["--turns", "off", "--cap", "20"], &[]]);
    let launches = vms.compete(&[0, 1], || {});
    let ratio = launches[1] / launches[0];
    // Turns and the cap would make this 4 and more.
    assert!(ratio < 3.0, "{launches:?}");
}
