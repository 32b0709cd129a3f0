//! Wrong flags and things that cannot be: one clear line each, and an exit code.

use std::path::Path;
use std::process::{Command, Output};

use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::host::{Folder, Host};

/// Runs a binary that must refuse: its exit code and what it said.
fn refused(binary: &Path, arguments: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(binary).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    for panic in ["panicked", "RUST_BACKTRACE", "unwrap()"] {
        assert!(!text.contains(panic), "{arguments:?}: {text}");
    }
    let code = status.code().unwrap_or_else(|| panic!("{arguments:?}: {status}\n{text}"));
    (code, text)
}

fn check(binary: &Path, cases: &[(&[&str], i32, &str)]) {
    for (arguments, code, expected) in cases {
        let (got, text) = refused(binary, arguments);
        assert_eq!(got, *code, "{arguments:?}: {text}");
        let lines = text.lines().filter(|line| line.contains(expected)).count();
        assert!(lines >= 1, "{arguments:?}: {expected:?} is not in: {text}");
    }
}

#[test]
fn wrong_flags_of_the_broker_are_named() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let name = "x".repeat(96);
    check(
        &Artifacts::find().broker,
        &[
            (&[], 2, "--socket"),
            (&["--socket"], 2, "--socket"),
            (&["--sockets", "/tmp/a"], 2, "--sockets"),
            (&["--socket", "/tmp/a", "--queues", "2"], 2, "--queues"),
            (&["--socket", "/tmp/a", "--queues", "many"], 2, "--queues"),
            (&["--socket", "/tmp/a", "--clients", "0"], 2, "--clients"),
            (&["--socket", "/tmp/a", "--warm", "-1"], 2, "-1"),
            (&["--socket", "/tmp/a", "--log", "=,="], 2, "--log"),
            (&["--socket", "/tmp/a", "--socket", "/tmp/a"], 2, "given twice"),
            (&["--socket", "/tmp/a", "--cuda-dir", "/nonexistent"], 2, "/nonexistent"),
            (&["--socket", &long, "--softgpu"], 2, "107"),
            (&["--socket", "/nonexistent/folder/a", "--softgpu"], 1, "folder"),
            (&["--socket", "/dev/null", "--softgpu"], 1, "not a socket"),
            (&["--socket", "/tmp/a", "surplus"], 2, "surplus"),
            (&["--socket", "/tmp/a", "--device-name", &name], 2, "at most 95"),
            (&["--socket", "/tmp/a", "--device-uuid", "1=GPU-12"], 2, "8-4-4-4-12"),
            (&["--socket", "/tmp/a", "--device-memory", "0"], 2, "without memory"),
            (&["--socket", "/tmp/a", "--device-memory", "99=1"], 2, "99"),
            (&["--socket", "/tmp/a", "--device-name", "a", "--device-name", "b"], 2, "given twice"),
        ],
    );
}

#[test]
fn wrong_flags_of_the_agent_are_named() {
    let missing = "/nonexistent/broker.sock";
    check(
        &Artifacts::find().agent,
        &[
            (&["--backend"], 2, "--backend"),
            (&["--back", "/tmp/a"], 2, "--back"),
            (&["--device", "nowhere"], 2, "nowhere"),
            (&["--method", "magic"], 2, "magic"),
            (&["--backend", "/tmp/a", "--method", "uio"], 2, "--method"),
            (&["--backend", "/tmp/a", "--lanes", "0"], 2, "--lanes"),
            (&["--backend", "/tmp/a", "--socket-mode", "9"], 2, "9"),
            (&["--backend", "/tmp/a", "--log", "loud"], 2, "loud"),
            (&["--backend", missing, "--socket", "/tmp/vgpu-e2e-none.sock"], 1, missing),
            (&["--backend", "/dev/null", "--socket", "/tmp/vgpu-e2e-none.sock"], 1, "/dev/null"),
        ],
    );
}

#[test]
fn help_and_version_are_there() {
    let artifacts = Artifacts::find();
    for binary in [&artifacts.broker, &artifacts.agent] {
        for (flag, expected) in [("--help", "Examples:"), ("--version", "vgpu-")] {
            let (code, text) = refused(binary, &[flag]);
            assert_eq!(code, 0);
            assert!(text.contains(expected), "{flag}: {text}");
        }
    }
}

/// Runs the agent in PCI mode as user "nobody"; the binary is copied to where that user may execute it.
#[test]
fn agent_without_root_says_so() {
    use std::os::unix::process::CommandExt;

    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let agent = folder.copy_program(&artifacts.agent);
    let mut command = Command::new(&agent);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stderr);
    assert_eq!((status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("root") && text.contains("--backend"), "{text}");
}

#[test]
fn second_broker_on_a_socket_is_refused_and_the_first_goes_on() {
    let host = Host::start();
    let socket = host.broker_socket();
    let (code, text) = refused(&host.artifacts.broker, &["--softgpu", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("already served") && text.contains(socket.to_str().unwrap()), "{text}");
    host.client(&["compute-once"]).succeed();
}

#[test]
fn second_agent_on_a_socket_is_refused_and_the_first_goes_on() {
    let host = Host::start();
    let socket = host.agent_socket();
    let other = host.folder().join("other.sock");
    let arguments = ["--socket", socket.to_str().unwrap(), "--backend", other.to_str().unwrap()];
    let (code, text) = refused(&host.artifacts.agent, &arguments);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(socket.to_str().unwrap()), "{text}");
    host.client(&["compute-once"]).succeed();
}
