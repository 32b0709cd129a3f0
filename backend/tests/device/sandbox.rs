//! The sandbox of workers, from inside: the null driver tries what a worker that was taken over would try.

use std::collections::BTreeMap;
use std::path::Path;

use crate::broker::{Broker, Folder, eventually, runs};
use crate::guest::*;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::lane::{function_id, state};

/// Whether this kernel can do it at all: a test must not claim what the machine lacks.
fn has_landlock() -> bool {
    // SAFETY: asks for the version, which takes no memory.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) >= 6 }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// What came of each attempt of a worker: whether it was refused.
fn attempts(name: &str, options: &[&str]) -> BTreeMap<String, bool> {
    let secret = Folder::new(&format!("{name}-secret"));
    std::fs::write(secret.path().join("file"), "precious").unwrap();
    let broker = Broker::start(name, options);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
    // The next warm one is a neighbour.
    eventually(
        "another worker is ready",
        || broker.log().matches("worker ready").count() == 2,
        || broker.log(),
    );
    let (reply, _) = guest.queues[2].call(&message(function_id("cuProfilerStart"), &[], &[]));
    assert_eq!(reply.status, 0);
    broker.wait_log("attempts: done");
    let log = broker.log();
    let lines = log.lines().filter_map(|line| line.strip_prefix("attempt ")?.split_once(": "));
    lines.map(|(what, how)| (what.to_owned(), how == "refused")).collect()
}

fn assert_refused(attempts: &BTreeMap<String, bool>, what: &[&str]) {
    for what in what {
        assert_eq!(attempts.get(*what), Some(&true), "{what} in {attempts:?}");
    }
}

#[test]
fn worker_that_was_taken_over_gets_nowhere() {
    let attempts = attempts("escape", &[]);
    assert_refused(
        &attempts,
        &["signal", "connect", "network", "execute", "outlive", "capabilities", "core"],
    );
    if has_landlock() {
        assert_refused(&attempts, &["read", "write", "list", "memory"]);
    }
    assert_refused(&attempts, &["neighbour"]);
}

#[test]
fn confined_worker_keeps_what_the_driver_compiled() {
    let folder = Folder::new("compiled");
    let made = folder.path().join("of/workers");
    for (name, cache, refused) in
        [("cache", folder.path(), false), ("cache-made", &made, false), ("cache-off", Path::new("off"), true)]
    {
        let attempts = attempts(name, &["--compute-cache", cache.to_str().unwrap()]);
        assert_eq!(attempts.get("cache"), Some(&refused), "{}", cache.display());
    }
}

#[test]
fn each_layer_holds_by_itself() {
    let calls = attempts("escape-calls", &["--sandbox", "calls"]);
    assert_refused(&calls, &["signal", "connect", "network", "execute", "outlive"]);
    if has_landlock() {
        let files = attempts("escape-files", &["--sandbox", "files"]);
        assert_refused(&files, &["read", "write", "list", "memory", "neighbour", "signal"]);
        assert_eq!((files["execute"], files["outlive"]), (false, false), "another layer's: {files:?}");
    }
    let privileges = attempts("escape-privileges", &["--sandbox", "privileges"]);
    assert_refused(&privileges, &["capabilities", "neighbour"]);
    let limits = attempts("escape-limits", &["--sandbox", "limits"]);
    assert_refused(&limits, &["core"]);
}

#[test]
fn without_a_sandbox_all_is_possible() {
    let attempts = attempts("escape-off", &["--sandbox", "off"]);
    for what in ["read", "write", "list", "neighbour", "signal", "connect", "network", "execute", "outlive"] {
        assert_eq!(attempts.get(what), Some(&false), "{what}: the attempt itself is none");
    }
}

#[test]
fn worker_of_another_user_has_its_rights_and_dies_with_the_broker() {
    if !is_root() {
        println!("only root can start workers of another user");
        return;
    }
    let attempts = attempts("escape-user", &["--worker-user", "65534", "--sandbox", "off"]);
    assert_refused(&attempts, &["write", "memory", "signal", "root"]);
    let mut broker = Broker::start("user-end", &["--worker-user", "65534:65533", "--warm", "0"]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
    guest.queues[2].post(0, &message(function_id("cuCtxSynchronize"), &[], &[]));
    let stuck = broker.client_worker(1);
    assert_eq!(guest.close(1), status::OK);
    assert!(!runs(stuck), "the broker ends a worker of another user");
    guest.open(2);
    let worker = broker.client_worker(2);
    let text = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    assert!(text.contains("Uid:\t65534\t65534\t65534\t65534"), "{text}");
    assert!(text.contains("Gid:\t65533\t65533\t65533\t65533"), "{text}");
    broker.kill();
    eventually("the worker ends", || !runs(worker), String::new);
}

#[test]
fn hostile_system_call_ends_its_worker_and_nothing_else() {
    let mut broker = Broker::start("hostile-call", &[]);
    let mut guest = Guest::connect(&broker.socket);
    guest.hello();
    guest.open(1);
    assert_eq!(guest.attach(1, 2), status::OK);
    guest.queues[2].post(0, &message(function_id("cuProfilerStop"), &[], &[]));
    eventually("the lane is lost", || guest.queues[2].status().state == state::LOST, || broker.log());
    broker.wait_log("worker lost: signal 31");
    assert!(broker.is_alive());
    assert_eq!(guest.close(1), status::OK);
    guest.open(2);
    assert_eq!(guest.attach(2, 2), status::OK);
    assert_eq!(guest.queues[2].call(&message(1, &[], &[])).0.status, NOT_SUPPORTED);
}

#[test]
fn broker_has_no_new_privileges_and_few_capabilities() {
    let broker = Broker::start("broker-privileges", &[]);
    let text = std::fs::read_to_string(format!("/proc/{}/status", broker.pid())).unwrap();
    let value = |of: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(of)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!((value("NoNewPrivs").as_str(), value("Seccomp").as_str()), ("1", "2"));
    let effective = u64::from_str_radix(&value("CapEff"), 16).unwrap();
    // CAP_SYS_PTRACE, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_NET_ADMIN, CAP_BPF.
    for capability in [19, 16, 17, 12, 39] {
        assert_eq!(effective & (1 << capability), 0, "capability {capability} in {effective:#x}");
    }
}

#[test]
fn unknown_layers_and_hostile_calls_are_refused_on_the_command_line() {
    for (options, expected) in [
        (["--sandbox", "filez"], "is not a layer"),
        (["--sandbox-allow", "ptrace"], "is not for workers"),
        (["--worker-user", "nobody knows"], "there is no user"),
    ] {
        let output = std::process::Command::new(crate::broker::BROKER)
            .arg("sandbox-check")
            .args(options)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
