//! Programs without an agent.

use vgpu_tests::artifacts::Artifacts;
use vgpu_tests::client::{ClientCommand, Outcome};
use vgpu_tests::host::Folder;

/// The one line that `text` has to be.
fn only_line(text: &str) -> &str {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one line is expected in: {text:?}");
    lines[0]
}

fn check(outcome: &Outcome, log: &std::path::Path, expected: &[&str]) {
    outcome.assert_success();
    assert_eq!(outcome.lines, ["cuInit: 100"]);
    let (said, logged) = (only_line(&outcome.stderr).to_owned(), std::fs::read_to_string(log).unwrap());
    assert_eq!(only_line(&logged), said, "the log file has the same line");
    for part in expected {
        assert!(said.contains(part), "{part:?} is missing in {said:?}");
    }
}

#[test]
fn without_an_agent_there_is_no_device_and_a_line_says_what_to_start() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let socket = folder.join("agent.sock");
    // No socket, then one that nobody serves.
    for round in 0..2 {
        if round == 1 {
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        let log = folder.join(&format!("log{round}"));
        let outcome = ClientCommand::new(&artifacts, &socket, &["init"]).env("VGPU_LOG_FILE", &log).run();
        check(&outcome, &log, &["vgpu-agent", socket.to_str().unwrap(), "VGPU_AGENT_SOCKET"]);
    }
}

#[test]
fn socket_that_is_another_program_s_gives_no_device() {
    let (artifacts, folder) = (Artifacts::find(), Folder::new());
    let (socket, log) = (folder.join("other.sock"), folder.join("log"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let outcome = ClientCommand::new(&artifacts, &socket, &["init"]).env("VGPU_LOG_FILE", &log).run();
    check(&outcome, &log, &[socket.to_str().unwrap()]);
}
