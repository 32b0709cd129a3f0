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
fn large_copies_keep_the_order_of_their_stream_and_end_with_errors() {
    for threads in ["1", "2", "4"] {
        let host = Host::start();
        let client = host.client(&["large-copies", threads]).env("VGPU_COPY_THREADS", threads);
        assert_eq!(client.succeed(), ["copied"]);
    }
}

#[test]
fn large_copies_of_threads_that_share_a_lane_do_not_mix() {
    let host = Host::options().agent(&["--lanes", "1"]).start();
    assert_eq!(host.client(&["large-copies", "5"]).succeed(), ["copied"]);
}

#[test]
fn large_copies_wait_for_each_message_if_told_so() {
    let host = Host::start();
    let client = host.client(&["large-copies", "6"]).env("CUDA_LAUNCH_BLOCKING", "1");
    assert_eq!(client.succeed(), ["copied"]);
}

#[test]
fn memory_that_is_not_there_ends_the_process_as_natively() {
    let host = Host::start();
    let outcome = host.client(&["copy-unmapped"]).env("VGPU_COPY_THREADS", "4").run();
    assert_eq!(outcome.signal(), Some(libc::SIGSEGV), "{outcome:?}");
    assert_eq!(outcome.lines, ["copied the first half"]);
}

#[test]
fn device_pointers_are_no_host_memory() {
    let host = Host::start();
    assert_eq!(host.client(&["places"]).succeed(), ["apart"]);
}
