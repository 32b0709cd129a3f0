//! Memory that was freed. One test: another's could get the same memory meanwhile.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use vgpu_softgpu::driver::{copy, host_memory, memory};

const INVALID_VALUE: u32 = 1;

#[test]
fn what_was_freed_is_refused() {
    start();
    let local = [1u8; 16];
    let (place, device) = (address(&local), alloc(64));
    // SAFETY: the host address is of live values; the driver checks the others.
    unsafe {
        assert_eq!(copy::cuMemcpyHtoD_v2(device, place, 16), 0);
        assert_eq!(memory::cuMemFree_v2(device), 0);
        assert_eq!(copy::cuMemcpyHtoD_v2(device, place, 16), INVALID_VALUE);
        assert_eq!(copy::cuMemcpy(place, device, 16), INVALID_VALUE);
        assert_eq!(memory::cuMemFree_v2(device), INVALID_VALUE);
    }
    // SAFETY: the places outlive the calls.
    unsafe {
        let pinned = get(|out| host_memory::cuMemHostAlloc(out, 4096, 0)).unwrap();
        assert_eq!(host_memory::cuMemFreeHost(pinned), 0);
        assert_eq!(host_memory::cuMemFreeHost(pinned), INVALID_VALUE);
    }
    assert_eq!(local, [1; 16]);
}
