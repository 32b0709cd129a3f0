//! What a process prints: checked from outside, in a child that runs the test `child` below.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::process::{Command, Output};
use vgpu_client::stats::Totals;

fn run(environment: &[(&str, &str)]) -> (u32, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    for name in ["VGPU_LOG", "VGPU_LOG_FILE", "VGPU_STATS"] {
        command.env_remove(name);
    }
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.envs(environment.iter().copied()).spawn().unwrap();
    let pid = child.id();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert!(status.success());
    (pid, String::from_utf8(stderr).unwrap())
}

#[test]
#[ignore = "run by the others, in a process of its own"]
fn child() {
    vgpu_client::error!("one {}", 1);
    vgpu_client::warn!("two\nlines");
    vgpu_client::info!("three");
    vgpu_client::trace!("five {}", 5);
    Totals { calls: 3, ..Totals::default() }.print_if_wanted();
}

#[test]
fn warnings_and_errors_are_printed_by_default() {
    let (pid, text) = run(&[]);
    let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(lines, [format!("vgpu[{pid}] error: one 1"), format!("vgpu[{pid}] warn: two lines")]);
    assert!(text.starts_with("20") && text.contains("Z vgpu["), "{text}");
}

#[test]
fn the_log_file_is_appended_and_the_level_is_obeyed() {
    let path = std::env::temp_dir().join(format!("vgpu-client-log-{}", std::process::id()));
    std::fs::write(&path, "before\n").unwrap();
    let (_, text) = run(&[("VGPU_LOG", "info"), ("VGPU_LOG_FILE", path.to_str().unwrap())]);
    let file = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file, format!("before\n{text}"));
    assert!(text.lines().any(|line| line.ends_with("info: three")), "{text}");
    assert!(!text.contains("five"));
    assert!(run(&[("VGPU_LOG", "trace")]).1.contains("trace: five 5"));
}

#[test]
fn counters_are_printed_when_asked_for() {
    assert!(!run(&[]).1.contains("vgpu-stats"));
    let (_, text) = run(&[("VGPU_STATS", "1"), ("VGPU_LOG", "error")]);
    assert!(
        text.lines().any(|line| line.starts_with("vgpu-stats {\"calls\":3,\"async_calls\":0,")),
        "{text}"
    );
}
