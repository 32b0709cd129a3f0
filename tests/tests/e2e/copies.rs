//! Copies, and where memory is.

use vgpu_tests::host::Host;

#[test]
fn copies_of_all_sizes_and_offsets_arrive_byte_by_byte() {
    let host = Host::start();
    assert_eq!(host.client(&["copies", "1"]).succeed(), ["copied"]);
}

#[test]
fn copies_of_several_threads_do_not_mix() {
    let host = Host::start();
    assert_eq!(host.client(&["copies-in-threads", "1"]).succeed(), ["copied"]);
}

#[test]
fn copies_of_threads_that_share_a_lane_do_not_mix() {
    let host = Host::options().agent(&["--lanes", "1"]).start();
    assert_eq!(host.client(&["copies-in-threads", "2"]).succeed(), ["copied"]);
}

#[test]
fn device_pointers_are_no_host_memory() {
    let host = Host::start();
    assert_eq!(host.client(&["places"]).succeed(), ["apart"]);
}
