//! VMs share a device by turns: what each gets is as its weight, whatever becomes of others.
//!
//! softgpu computes on the CPU, which these VMs share with everything else, so the bounds are wide.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vgpu_tests::client::{Client, ClientCommand};
use vgpu_tests::daemon::Daemon;
use vgpu_tests::host::Host;

/// VMs of one broker.
struct Vms {
    host: Host,
    agents: Vec<(Daemon, PathBuf)>,
}

impl Vms {
    /// With these options for each.
    fn start(options: &[&[&str]]) -> Self {
        let folder = vgpu_tests::host::Folder::new();
        let socket = |vm: usize| folder.join(&format!("vm{vm}.sock"));
        let more: Vec<PathBuf> = (1..options.len()).map(socket).collect();
        let mut arguments: Vec<&str> = options[0].to_vec();
        for (path, options) in more.iter().zip(&options[1..]) {
            arguments.extend(["--socket", path.to_str().unwrap()]);
            arguments.extend(*options);
        }
        let host = Host::options().broker(&arguments).start();
        let agents =
            (1..).zip(&more).map(|(vm, path)| host.another_vm(&format!("agent{vm}.sock"), path)).collect();
        Vms { host, agents }
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
    let launches = vms.compete(&[0, 1], || {});
    let ratio = launches[1] / launches[0];
    assert!((1.4..6.0).contains(&ratio), "{launches:?}");
}

#[test]
fn a_vm_that_is_capped_gets_no_more_when_it_is_alone() {
    let vms = Vms::start(&[&["--cap", "20"], &[]]);
    let capped = vms.compete(&[0], || {});
    let free = vms.compete(&[1], || {});
    let ratio = capped[0] / free[0];
    assert!((0.05..0.35).contains(&ratio), "{capped:?} {free:?}");
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
    assert!((0.5..2.0).contains(&ratio), "{launches:?}");
}
