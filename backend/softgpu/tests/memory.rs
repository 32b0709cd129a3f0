//! Device, pinned and registered memory.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use vgpu_softgpu::driver::{host_memory, memory, pointer};

const OUT_OF_MEMORY: u32 = 2;
const INVALID_VALUE: u32 = 1;

fn free(address: u64) -> u32 {
    // SAFETY: the driver checks the address.
    unsafe { memory::cuMemFree_v2(address) }
}

fn attribute(attribute: u32, address: u64) -> Result<u64, u32> {
    let mut value = 0u64;
    let to = std::ptr::from_mut(&mut value).cast();
    // SAFETY: there is room for every attribute that the tests ask for.
    match unsafe { pointer::cuPointerGetAttribute(to, attribute, address) } {
        0 => Ok(value),
        code => Err(code),
    }
}

#[test]
fn memory_is_enforced() {
    in_own_process("memory_is_enforced", &[("VGPU_SOFTGPU_MEMORY", "1M")], || {
        start();
        let half = alloc(512 << 10);
        // SAFETY: the pointers are of live values.
        unsafe {
            assert_eq!(get(|out| memory::cuMemAlloc_v2(out, (512 << 10) + 1)), Err(OUT_OF_MEMORY));
            assert_eq!(get(|out| memory::cuMemAlloc_v2(out, usize::MAX)), Err(OUT_OF_MEMORY));
            assert_eq!(get(|out| memory::cuMemAlloc_v2(out, 512 << 10)).map(drop), Ok(()));
            assert_eq!(get(|out| memory::cuMemAlloc_v2(out, 1)), Err(OUT_OF_MEMORY));
            assert_eq!(free(half), 0);
            let mut total = std::mem::MaybeUninit::uninit();
            let free = get(|out| memory::cuMemGetInfo_v2(out, Some(&mut total))).unwrap();
            assert_eq!((free, total.assume_init()), (512 << 10, 1 << 20));
        }
    });
}

#[test]
fn only_whole_allocations_can_be_freed() {
    start();
    let address = alloc(4096);
    assert_eq!(free(address + 256), INVALID_VALUE);
    assert_eq!(free(0x1234), INVALID_VALUE);
    assert_eq!(free(address), 0);
    assert_eq!(free(0), 0);
}

#[test]
fn an_address_inside_an_allocation_is_described() {
    let context = start();
    let base = alloc(1000);
    // SAFETY: the pointers are of live values.
    unsafe {
        let mut size = std::mem::MaybeUninit::uninit();
        let start = get(|out| memory::cuMemGetAddressRange_v2(out, Some(&mut size), base + 999)).unwrap();
        assert_eq!((start, size.assume_init()), (base, 1000));
        assert_eq!(get(|out| memory::cuMemGetAddressRange_v2(out, None, 0x1000)), Err(500));
    }
    assert_eq!(attribute(1, base + 10), Ok(context));
    assert_eq!(attribute(2, base + 10), Ok(2));
    assert_eq!(attribute(3, base + 10), Ok(base + 10));
    assert_eq!(attribute(4, base + 10), Err(INVALID_VALUE));
    assert_eq!(attribute(11, base + 10), Ok(base));
    assert_eq!(attribute(12, base + 10), Ok(1000));
    assert_eq!(attribute(99, base + 10), Err(INVALID_VALUE));
    let local = [0u8; 16];
    assert_eq!(attribute(2, address(&local)), Err(INVALID_VALUE));
}

#[test]
fn several_attributes_of_unknown_memory_are_no_error() {
    start();
    let local = [0u8; 16];
    let (mut kind, mut ordinal) = (7u32, 7i32);
    let data = [std::ptr::from_mut(&mut kind).cast(), std::ptr::from_mut(&mut ordinal).cast()];
    // SAFETY: the arrays have two elements, and there is room for each attribute.
    let code = unsafe { pointer::cuPointerGetAttributes(2, [2, 9].as_ptr(), data.as_ptr(), address(&local)) };
    assert_eq!((code, kind, ordinal), (0, 0, -2));
}

#[test]
fn pinned_memory_has_one_address_for_all() {
    start();
    // SAFETY: the pointers are of live values.
    unsafe {
        let pinned = get(|out| host_memory::cuMemHostAlloc(out, 4096, 0)).unwrap();
        assert_eq!(get(|out| host_memory::cuMemHostGetDevicePointer_v2(out, pinned + 8, 0)), Ok(pinned + 8));
        assert_eq!(get(|out| host_memory::cuMemHostGetFlags(out, pinned)), Ok(2));
        assert_eq!(attribute(2, pinned), Ok(1));
        assert_eq!(free(pinned), INVALID_VALUE);
        assert_eq!(host_memory::cuMemHostUnregister(pinned), INVALID_VALUE);
        assert_eq!(host_memory::cuMemFreeHost(pinned), 0);
    }
}

#[test]
fn a_kernel_reaches_registered_memory_until_it_is_taken_back() {
    start();
    let values = vec![0u32; 1024];
    let place = address(&values);
    // SAFETY: the vector lives until it is taken back.
    unsafe {
        assert_eq!(host_memory::cuMemHostRegister_v2(place, 4096, 0), 0);
        assert_eq!(host_memory::cuMemHostRegister_v2(place + 100, 4, 0), 712);
        let store = function(load(KERNELS), "store");
        assert_eq!(launch(store, 1, 1, &[place + 8, 42]), 0);
        assert_eq!(synchronize(), 0);
        assert_eq!(std::ptr::read_volatile(values.as_ptr().add(2)), 42);
        assert_eq!(host_memory::cuMemHostUnregister(place + 4), INVALID_VALUE);
        assert_eq!(host_memory::cuMemHostUnregister(place), 0);
        assert_eq!(host_memory::cuMemHostUnregister(place), 713);
        assert_eq!(host_memory::cuMemHostRegister_v2(0x10000, 4096, 0), INVALID_VALUE);
    }
}

#[test]
fn rows_are_512_bytes_apart() {
    start();
    // SAFETY: the pointers are of live values.
    unsafe {
        let mut pitch = std::mem::MaybeUninit::uninit();
        get(|out| memory::cuMemAllocPitch_v2(out, Some(&mut pitch), 600, 10, 4)).unwrap();
        assert_eq!(pitch.assume_init(), 1024);
        assert_eq!(
            get(|out| memory::cuMemAllocPitch_v2(out, Some(&mut pitch), 600, 10, 3)),
            Err(INVALID_VALUE)
        );
    }
}
