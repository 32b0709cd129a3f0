//! CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

use vgpu_tests::host::Host;

/// softgpu's UUIDs: "vgpu-softgpu" and the ordinal.
const FIRST: &str = "766770752d736f667467707500000000";
const SECOND: &str = "766770752d736f667467707500000001";

#[test]
fn visible_devices_are_those_that_the_environment_names() {
    let host = Host::options().env("VGPU_SOFTGPU_DEVICES", "2").start();
    assert_eq!(host.client(&["devices"]).succeed(), [FIRST, SECOND], "not set");
    for (wish, expected) in [
        ("0", &[FIRST][..]),
        ("1", &[SECOND]),
        ("1,0", &[SECOND, FIRST]),
        ("0,1", &[FIRST, SECOND]),
        // What follows the first that is none is not seen.
        ("1,-1,0", &[SECOND]),
        ("0,2,1", &[FIRST]),
        ("GPU-76677075-2d73-6f66-7467-707500000001", &[SECOND]),
        (
            "GPU-76677075-2d73-6f66-7467-707500000001,GPU-76677075-2d73-6f66-7467-707500000000",
            &[SECOND, FIRST],
        ),
    ] {
        assert_eq!(
            host.client(&["devices"]).env("CUDA_VISIBLE_DEVICES", wish).succeed(),
            expected,
            "{wish:?}"
        );
    }
    for none in ["-1", "", "2", "none", "0,0", "GPU-7667", "GPU-ffff"] {
        let said = host.client(&["devices"]).env("CUDA_VISIBLE_DEVICES", none).succeed();
        assert_eq!(said, ["cuInit: 100"], "{none:?}");
    }
}

/// The PCI addresses of softgpu's devices are in the other order.
#[test]
fn order_by_address_renumbers_the_devices() {
    let host = Host::options().env("VGPU_SOFTGPU_DEVICES", "2").start();
    let by_address = |devices: Option<&str>| {
        let client = host.client(&["devices"]).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        devices.into_iter().fold(client, |client, value| client.env("CUDA_VISIBLE_DEVICES", value)).succeed()
    };
    assert_eq!(by_address(None), [SECOND, FIRST]);
    assert_eq!(by_address(Some("0")), [SECOND]);
    assert_eq!(by_address(Some("1,0")), [FIRST, SECOND]);
    assert_eq!(by_address(Some("GPU-76677075-2d73-6f66-7467-707500000000")), [FIRST]);
    let fastest = host.client(&["devices"]).env("CUDA_DEVICE_ORDER", "FASTEST_FIRST").succeed();
    assert_eq!(fastest, [FIRST, SECOND]);
}

#[test]
fn prefix_of_a_uuid_names_the_only_device_that_has_it() {
    let host = Host::start();
    for prefix in ["GPU-7", "GPU-76677075-2d73", "gpu-76677075"] {
        let said = host.client(&["devices"]).env("CUDA_VISIBLE_DEVICES", prefix).succeed();
        assert_eq!(said, [FIRST], "{prefix:?}");
    }
}
