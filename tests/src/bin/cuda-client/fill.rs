//! Allocates until the driver refuses, in every way in which a program gets device memory.

use super::driver::{Code, Driver, check};

const OUT_OF_MEMORY: Code = 2;
const MIB: usize = 1 << 20;

/// CUmemAllocationProp for pinned memory of device 0.
fn properties() -> [u32; 8] {
    [1, 0, 1, 0, 0, 0, 0, 0]
}

/// CUDA_ARRAY3D_DESCRIPTOR of a plane of so many MiB: rows of 1024 elements of 4 bytes.
fn description(mib: usize) -> [u64; 5] {
    const UNSIGNED_INT32: u64 = 3;
    [1024, 256 * mib as u64, 0, UNSIGNED_INT32 | 1 << 32, 0]
}

/// Allocates `mib` MiB.
fn allocate(d: &Driver, kind: &str, mib: usize) -> Result<(), Code> {
    let (mut place, mut pitch, len) = (0_u64, 0_usize, mib * MIB);
    // SAFETY: places and descriptions that outlive the calls.
    check(unsafe {
        match kind {
            "plain" => (d.api.allocate)(&raw mut place, len),
            "pitch" => (d.api.allocate_pitch)(&raw mut place, &raw mut pitch, 4096, len / 4096, 4),
            "pool" => (d.api.allocate_async)(&raw mut place, len, 0),
            "physical" => (d.api.create_memory)(&raw mut place, len, properties().as_ptr().cast(), 0),
            "array" => (d.api.array)(&raw mut place, description(mib).as_ptr().cast()),
            "mipmapped" => (d.api.mipmapped)(&raw mut place, description(mib).as_ptr().cast(), 1),
            "pinned" => (d.api.host_allocate)((&raw mut place).cast(), len, 0),
            other => panic!("unknown kind of memory {other:?}"),
        }
    })
}

/// Says how many MiB it got in steps of `step`, and what the driver says is free then.
pub fn fill(kind: &str, step: u32) {
    let d = Driver::start();
    let mut got = 0;
    let error = loop {
        match allocate(&d, kind, step as usize) {
            Ok(()) => got += step,
            Err(error) => break error,
        }
    };
    assert_eq!(error, OUT_OF_MEMORY);
    let (free, total) = d.memory().unwrap();
    super::pause(&format!("{got} MiB, {} of {} free", free >> 20, total >> 20));
}
