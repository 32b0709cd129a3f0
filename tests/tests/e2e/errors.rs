//! Error codes as a program gets them.

use vgpu_tests::host::Host;

#[test]
fn wrong_arguments_get_the_documented_codes() {
    let host = Host::start();
    assert_eq!(host.client(&["refusals"]).succeed(), ["refused"]);
}

#[test]
fn error_of_an_asynchronous_call_is_reported_by_the_next_that_waits() {
    let host = Host::start();
    assert_eq!(host.client(&["deferred"]).succeed(), ["reported"]);
}

#[test]
fn with_launch_blocking_a_call_reports_its_own_error() {
    let host = Host::start();
    assert_eq!(host.client(&["deferred"]).env("CUDA_LAUNCH_BLOCKING", "1").succeed(), ["reported"]);
}

#[test]
fn with_launch_blocking_a_launch_reports_what_its_kernel_did() {
    let host = Host::start();
    assert_eq!(host.client(&["blocking-fault"]).env("CUDA_LAUNCH_BLOCKING", "1").succeed(), ["blamed"]);
}

#[test]
fn failed_kernel_spoils_its_process_and_no_other() {
    let host = Host::start();
    let mut other = host.client(&["compute"]).start();
    other.expect("computing");
    assert_eq!(host.client(&["trap"]).succeed(), ["trapped"]);
    host.client(&["compute-once"]).succeed();
    other.finish().assert_success();
}

#[test]
fn one_process_cannot_use_the_handles_of_another() {
    let host = Host::start();
    let mut owner = host.client(&["handle"]).start();
    let handles = owner.line();
    owner.expect("made");
    let scenario: Vec<&str> = std::iter::once("use-handle").chain(handles.split(' ')).collect();
    assert_eq!(host.client(&scenario).succeed(), ["refused"]);
    // The owner still has them.
    owner.finish().assert_success();
}
