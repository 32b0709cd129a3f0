//! A VM gets no more memory than its limit, whichever way it asks and however many processes ask.

use vgpu_tests::host::Host;

/// What a client says that it got.
fn got(line: &str) -> u32 {
    line.split(' ').next().and_then(|n| n.parse().ok()).unwrap()
}

#[test]
fn every_kind_of_memory_counts_against_the_limit() {
    let host = Host::options().broker(&["--device-memory", "256"]).start();
    for (kind, step, least) in [
        ("plain", 1, 254),
        ("plain", 64, 256),
        ("pitch", 8, 248),
        ("pool", 16, 240),
        ("physical", 2, 256),
        ("array", 16, 240),
        ("mipmapped", 16, 240),
    ] {
        let mut client = host.client(&["fill", kind, &step.to_string()]).start();
        let line = client.line();
        let first = got(&line);
        assert!((least..=256).contains(&first), "{kind}, {step} MiB at a time: {line}");
        assert!(line.ends_with(" of 256 free"), "{line}");
        // Another process of the VM finds nothing.
        let mut other = host.client(&["fill", kind, &step.to_string()]).start();
        let line = other.line();
        assert!(first + got(&line) <= 256, "{kind}, {step} MiB at a time: {first} and then {line}");
        // What a killed process had is free.
        client.kill();
        other.kill();
        host.settle();
        host.client(&["memory-left", "200"]).start().expect("256 of 256");
        host.settle();
    }
}

#[test]
fn vms_have_limits_of_their_own_and_pinned_memory_has_one_too() {
    let (host, _second) = Host::options()
        .broker(&["--device-memory", "100", "--pinned-memory", "64"])
        .start_with_second_socket();
    // Windows are made ahead of what programs ask for.
    for (kind, least, most) in [("plain", 98, 100), ("pinned", 16, 64)] {
        let mut client = host.client(&["fill", kind, "2"]).start();
        let line = client.line();
        assert!((least..=most).contains(&got(&line)), "{kind}: {line}");
        client.kill();
    }
}
