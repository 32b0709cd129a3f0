//! What a VM is shown of the devices: the host's, or what the broker's command line says.

use std::process::Command;

use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::host::{Folder, Host};

const OWN: &str = "GPU-00112233-4455-6677-8899-AABBCCDDEEFF";
const OWN_BYTES: &str = "00112233445566778899aabbccddeeff";
const SECOND_BYTES: &str = "766770752d736f667467707500000001";

#[test]
fn each_device_is_shown_as_the_command_line_says() {
    let options = ["--device-name", "GPU of A", "--device-uuid", OWN, "--device-memory", "1=300"];
    let host = Host::options().env("VGPU_SOFTGPU_DEVICES", "2").broker(&options).start();
    let shown = host.client(&["identity"]).succeed();
    assert_eq!(shown[0], format!("GPU of A, {OWN_BYTES}, 4096"));
    assert_eq!(shown[1], format!("vgpu softgpu (CPU), {SECOND_BYTES}, 300"));
    // The VM's UUID selects, the host's does not.
    let by = |uuid: &str| host.client(&["devices"]).env("CUDA_VISIBLE_DEVICES", uuid).succeed();
    assert_eq!(by("GPU-0011"), [OWN_BYTES]);
    assert_eq!(by("GPU-76677075-2d73-6f66-7467-707500000000"), ["cuInit: 100"]);
    host.client(&["compute-once"]).succeed();
}

#[test]
fn free_memory_is_what_the_vm_has_left_of_its_part() {
    let host = Host::options().broker(&["--device-memory", "256"]).start();
    let mut first = host.client(&["memory-left", "100"]).start();
    first.expect("256 of 256");
    first.go();
    first.expect("156 of 256");
    // What another process of the VM uses counts, at once.
    let mut second = host.client(&["memory-left", "156"]).start();
    second.expect("156 of 256");
    second.go();
    second.expect("0 of 256");
    second.go();
    second.expect("156 of 256");
    first.go();
    first.expect("256 of 256");
    second.go();
    second.finish().assert_success();
    first.go();
    first.finish().assert_success();
}

#[test]
fn what_the_devices_cannot_be_is_refused_and_leaves_no_socket() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let socket = folder.join("vm.sock");
    for (option, value, says) in [
        ("--device-memory", "9999999", "device 0 has 4096 MiB"),
        ("--device-name", "1=x", "there is no device 1"),
    ] {
        let mut command = Command::new(&artifacts.broker);
        let output = command.args(["--softgpu", option, value, "--socket"]).arg(&socket).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let key = option.trim_start_matches('-');
        assert!(text.contains(&format!("vgpu-backend: vm vm: {key} ")) && text.contains(says), "{text}");
        assert!(!socket.exists(), "a socket that nobody serves is left");
    }
}
