//! Copies and fills.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use vgpu_softgpu::driver::copy_strided::{self, Memcpy2D, Memcpy3D};
use vgpu_softgpu::driver::{copy, host_memory, memset};

const INVALID_VALUE: u32 = 1;

#[test]
fn what_is_copied_to_the_device_comes_back() {
    start();
    let values: Vec<u32> = (0..100_000).collect();
    let first = upload(&values);
    let second = alloc(size_of_val(values.as_slice()));
    // SAFETY: the driver checks device addresses.
    assert_eq!(unsafe { copy::cuMemcpyDtoD_v2(second, first, size_of_val(values.as_slice())) }, 0);
    assert_eq!(download::<u32>(second, values.len()), values);
}

#[test]
fn a_device_address_that_is_not_allocated_is_refused() {
    start();
    let mut local = [1u8; 64];
    let place = local.as_mut_ptr().expose_provenance() as u64;
    let device = alloc(64);
    // SAFETY: host addresses are of live values; the driver checks the others.
    unsafe {
        assert_eq!(copy::cuMemcpyHtoD_v2(0x1000, place, 16), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyDtoH_v2(place, 0x1000, 16), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyDtoD_v2(device, 0x1000, 16), INVALID_VALUE);
        assert_eq!(copy::cuMemcpy(device, 0x1000, 16), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyHtoD_v2(device, place, 65), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyHtoD_v2(device + 60, place, 5), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyHtoD_v2(device, place, usize::MAX), INVALID_VALUE);
        assert_eq!(copy::cuMemcpyHtoD_v2(0x1000, place, 0), 0);
        assert_eq!(memset::cuMemsetD8_v2(place, 0, 16), INVALID_VALUE);
        assert_eq!(memset::cuMemsetD8_v2(device, 0, 65), INVALID_VALUE);
        assert_eq!(memset::cuMemsetD32_v2(device + 1, 0, 4), INVALID_VALUE);
    }
    assert_eq!(local, [1u8; 64]);
}

#[test]
fn the_direction_follows_from_the_addresses() {
    start();
    let from = [5u32; 8];
    let mut to = [0u32; 8];
    let (device, size) = (alloc(32), 32);
    let place = to.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: host addresses are of live values; the driver checks the others.
    unsafe {
        assert_eq!(copy::cuMemcpy(device, address(&from), size), 0);
        assert_eq!(copy::cuMemcpy(place, device, size), 0);
    }
    assert_eq!(to, from);
}

#[test]
fn an_unpinned_source_may_change_once_the_call_has_returned() {
    start();
    let stream = new_stream(1);
    let mut values = vec![1u32; 1024];
    let device = alloc(4096);
    let release = block(stream);
    // SAFETY: the vector is as long as that.
    assert_eq!(unsafe { copy::cuMemcpyHtoDAsync_v2(device, address(&values), 4096, stream) }, 0);
    values.fill(2);
    release.send(()).unwrap();
    assert_eq!(synchronize(), 0);
    assert_eq!(download::<u32>(device, 1024), vec![1u32; 1024]);
}

#[test]
fn an_unpinned_destination_is_written_when_the_call_returns() {
    start();
    let stream = new_stream(1);
    let device = upload(&[9u32; 16]);
    let mut values = [0u32; 16];
    let place = values.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the array is as long as that.
    assert_eq!(unsafe { copy::cuMemcpyDtoHAsync_v2(place, device, 64, stream) }, 0);
    assert_eq!(values, [9u32; 16]);
}

#[test]
fn a_pinned_source_is_read_in_stream_order() {
    start();
    let stream = new_stream(1);
    let device = alloc(4);
    // SAFETY: the pinned memory lives until the process ends.
    unsafe {
        let pinned = get(|out| host_memory::cuMemHostAlloc(out, 4, 0)).unwrap();
        let value = std::ptr::with_exposed_provenance_mut::<u32>(pinned as usize);
        let release = block(stream);
        assert_eq!(copy::cuMemcpyHtoDAsync_v2(device, pinned, 4, stream), 0);
        value.write_volatile(77);
        release.send(()).unwrap();
        assert_eq!(synchronize(), 0);
    }
    assert_eq!(download::<u32>(device, 1), [77]);
}

#[test]
fn rows_and_planes_land_where_they_belong() {
    start();
    // A 2 by 2 by 2 cube of bytes out of the middle of a 4 by 4 by 4 one.
    let cube: Vec<u8> = (0..64).collect();
    let device = upload(&cube);
    let mut small = [0u8; 8];
    let copy = Memcpy3D {
        src_x: 1,
        src_y: 1,
        src_z: 1,
        src_type: 2,
        src_device: device,
        src_pitch: 4,
        src_height: 4,
        dst_type: 1,
        dst_host: small.as_mut_ptr().expose_provenance() as u64,
        dst_pitch: 2,
        dst_height: 2,
        width: 2,
        height: 2,
        depth: 2,
        ..Memcpy3D::default()
    };
    // SAFETY: the array is as large as that.
    assert_eq!(unsafe { copy_strided::cuMemcpy3D_v2(Some(&copy)) }, 0);
    assert_eq!(small, [21, 22, 25, 26, 37, 38, 41, 42]);
}

#[test]
fn a_copy_of_rows_that_leaves_its_allocation_is_refused() {
    start();
    let device = alloc(64);
    let local = [0u8; 64];
    let mut copy = Memcpy2D {
        src_type: 1,
        src_host: address(&local),
        src_pitch: 8,
        dst_type: 2,
        dst_device: device,
        dst_pitch: 16,
        width: 8,
        height: 4,
        ..Memcpy2D::default()
    };
    // SAFETY: the array is as large as that.
    unsafe {
        assert_eq!(copy_strided::cuMemcpy2D_v2(Some(&copy)), 0);
        copy.height = 5;
        assert_eq!(copy_strided::cuMemcpy2D_v2(Some(&copy)), INVALID_VALUE);
        copy.height = 4;
        copy.dst_pitch = 4;
        assert_eq!(copy_strided::cuMemcpy2D_v2(Some(&copy)), INVALID_VALUE);
        copy.dst_pitch = usize::MAX;
        assert_eq!(copy_strided::cuMemcpy2D_v2(Some(&copy)), INVALID_VALUE);
        copy.dst_type = 9;
        assert_eq!(copy_strided::cuMemcpy2D_v2(Some(&copy)), INVALID_VALUE);
        assert_eq!(copy_strided::cuMemcpy2D_v2(None), INVALID_VALUE);
    }
}

#[test]
fn fills_repeat_their_value_and_stop_at_the_end() {
    start();
    let device = upload(&[0u8; 16]);
    // SAFETY: the driver checks the addresses.
    unsafe {
        assert_eq!(memset::cuMemsetD8_v2(device, 1, 3), 0);
        assert_eq!(memset::cuMemsetD16_v2(device + 4, 0x0302, 1), 0);
        assert_eq!(memset::cuMemsetD32_v2(device + 8, 0x0706_0504, 1), 0);
        assert_eq!(memset::cuMemsetD2D8_v2(device + 12, 2, 9, 1, 2), 0);
    }
    assert_eq!(download::<u8>(device, 16), [1, 1, 1, 0, 2, 3, 0, 0, 4, 5, 6, 7, 9, 0, 9, 0]);
}
