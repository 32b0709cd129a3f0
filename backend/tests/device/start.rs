//! Starting the broker, and what it says when it cannot.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::broker::{BROKER, Broker, Folder, install_driver, kill};

fn run(socket: &Path, options: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        Command::new(BROKER).arg("--socket").arg(socket).args(options).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn served_socket_is_not_taken_over() {
    let broker = Broker::start("busy", &[]);
    let dir = broker.socket.parent().unwrap().to_str().unwrap().to_owned();
    let (code, text) = run(&broker.socket, &["--cuda-dir", &dir]);
    assert_eq!(code, Some(1));
    assert!(text.contains("already served by another process"), "{text}");
    crate::guest::Guest::connect(&broker.socket).hello();
}

#[test]
fn stale_socket_is_replaced_and_a_file_is_not() {
    let folder = Folder::new("stale");
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let (code, text) = run(&file, &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    // A socket whose listener is gone.
    let stale = folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    install_driver(folder.path());
    let dir = folder.path().to_str().unwrap().to_owned();
    let mut child = Command::new(BROKER)
        .arg("--socket")
        .arg(&stale)
        .args(["--cuda-dir", &dir, "--log", "off"])
        .spawn()
        .unwrap();
    let connects = || std::os::unix::net::UnixStream::connect(&stale).is_ok();
    crate::broker::eventually("a listener", connects, String::new);
    kill(child.id(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!stale.exists(), "the socket is removed at the end");
}

#[test]
fn unusable_driver_is_one_clear_line_and_a_hint() {
    let folder = Folder::new("nodriver");
    // A file that is no library: no driver is found there, and none must be taken from elsewhere.
    std::fs::write(folder.path().join("libcuda.so"), "not ELF").unwrap();
    let dir = folder.path().to_str().unwrap().to_owned();
    let (code, text) = run(&folder.path().join("s"), &["--cuda-dir", &dir]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("starting a worker"), "{text}");
    assert!(!folder.path().join("s").exists(), "a socket that nobody serves is left");
    assert!(text.contains("--softgpu"), "{text}");
}

#[test]
fn missing_softgpu_folder_is_a_clear_error() {
    let folder = Folder::new("nosoftgpu");
    let copy = folder.path().join("vgpu-backend");
    std::fs::copy(BROKER, &copy).unwrap();
    let output =
        Command::new(copy).arg("--softgpu").arg("--socket").arg(folder.path().join("s")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("softgpu") && text.contains("libcuda.so"), "{text}");
}

#[test]
fn help_has_a_command_line_for_qemu() {
    let output = Command::new(BROKER).arg("--help").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["vhost-user-fs-pci", "memory-backend-memfd", "share=on", "--softgpu", "vgpu-agent"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert!(!text.contains("link-fd"), "the worker's options are hidden");
}
