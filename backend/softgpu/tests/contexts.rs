//! Devices, contexts, names and errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::{CStr, CString, c_char};

use common::*;
use vgpu_softgpu::driver::{context, device, error, init, memory, primary_context, proc_address};

const INVALID_VALUE: u32 = 1;
const INVALID_CONTEXT: u32 = 201;

#[test]
fn nothing_works_before_the_start() {
    in_own_process("nothing_works_before_the_start", &[], || {
        // SAFETY: the pointers are of live values.
        unsafe {
            assert_eq!(get(|out| device::cuDeviceGetCount(out)), Err(3));
            assert_eq!(get(|out| init::cuDriverGetVersion(out)), Ok(13_000));
            assert_eq!(init::cuInit(1), INVALID_VALUE);
            assert_eq!(init::cuInit(0), 0);
            assert_eq!(get(|out| device::cuDeviceGetCount(out)), Ok(1));
            assert_eq!(get(|out| memory::cuMemAlloc_v2(out, 1)), Err(INVALID_CONTEXT));
        }
    });
}

#[test]
fn the_environment_says_how_many_devices_there_are() {
    in_own_process(
        "the_environment_says_how_many_devices_there_are",
        &[("VGPU_SOFTGPU_DEVICES", "2")],
        || {
            start();
            // SAFETY: the pointers are of live values.
            unsafe {
                assert_eq!(get(|out| device::cuDeviceGetCount(out)), Ok(2));
                let uuid = |device| get(|out| device::cuDeviceGetUuid_v2(out, device)).unwrap();
                assert_ne!(uuid(0), uuid(1));
                let address = CString::new("0:0:1E.0").unwrap();
                assert_eq!(get(|out| device::cuDeviceGetByPCIBusId(out, address.as_ptr())), Ok(1));
                assert_eq!(get(|out| device::cuDeviceCanAccessPeer(out, 0, 1)), Ok(0));
                assert_eq!(get(|out| device::cuDeviceGet(out, 2)), Err(101));
            }
        },
    );
}

#[test]
fn a_process_numbers_the_devices_that_it_sees() {
    let environment = [("VGPU_SOFTGPU_DEVICES", "3"), ("CUDA_VISIBLE_DEVICES", "2,0")];
    in_own_process("a_process_numbers_the_devices_that_it_sees", &environment, || {
        start();
        // SAFETY: the pointers are of live values.
        unsafe {
            assert_eq!(get(|out| device::cuDeviceGetCount(out)), Ok(2));
            let number = |device| get(|out| device::cuDeviceGetUuid_v2(out, device)).unwrap()[15];
            assert_eq!((number(0), number(1)), (2, 0));
            let address = CString::new("0:0:1D.0").unwrap();
            assert_eq!(get(|out| device::cuDeviceGetByPCIBusId(out, address.as_ptr())), Ok(0));
            assert_eq!(get(|out| context::cuCtxGetDevice(out)), Ok(0));
            assert_eq!(get(|out| device::cuDeviceGet(out, 2)), Err(101));
        }
    });
}

#[test]
fn the_device_says_what_it_is() {
    start();
    let mut name = [0x7f as c_char; 64];
    // SAFETY: the buffer is as long as that.
    unsafe {
        assert_eq!(device::cuDeviceGetName(name.as_mut_ptr(), 64, 0), 0);
        assert_eq!(CStr::from_ptr(name.as_ptr()).to_str(), Ok("vgpu softgpu (CPU)"));
        assert_eq!(device::cuDeviceGetName(name.as_mut_ptr(), 5, 0), 0);
        assert_eq!(CStr::from_ptr(name.as_ptr()).to_str(), Ok("vgpu"));
        assert_eq!(get(|out| device::cuDeviceGetAttribute(out, 75, 0)), Ok(9));
        assert_eq!(get(|out| device::cuDeviceGetAttribute(out, 10, 0)), Ok(32));
        assert_eq!(get(|out| device::cuDeviceGetAttribute(out, 9999, 0)), Err(INVALID_VALUE));
    }
}

#[test]
fn contexts_are_stacked_per_thread() {
    let primary = start();
    // SAFETY: the pointers are of live values.
    unsafe {
        let current = || get(|out| context::cuCtxGetCurrent(out)).unwrap();
        let made = get(|out| context::cuCtxCreate_v4(out, None, 0, 0)).unwrap();
        assert_eq!(current(), made);
        assert_eq!(
            std::thread::spawn(move || get(|out| context::cuCtxGetCurrent(out))).join().unwrap(),
            Ok(0)
        );
        assert_eq!(context::cuCtxPushCurrent_v2(primary), 0);
        assert_eq!(current(), primary);
        assert_eq!(get(|out| context::cuCtxPopCurrent_v2(out)), Ok(primary));
        assert_eq!(context::cuCtxDestroy_v2(made), 0);
        assert_eq!(current(), primary);
        assert_eq!(context::cuCtxSetCurrent(made), INVALID_CONTEXT);
        assert_eq!(context::cuCtxDestroy_v2(primary), INVALID_CONTEXT);
        assert_eq!(context::cuCtxSetCurrent(0), 0);
        assert_eq!(context::cuCtxSynchronize(), INVALID_CONTEXT);
    }
}

#[test]
fn the_last_release_ends_the_primary_context_and_its_memory() {
    in_own_process("the_last_release_ends_the_primary_context_and_its_memory", &[], || {
        let handle = start();
        alloc(1 << 20);
        // SAFETY: the pointers are of live values.
        unsafe {
            assert_eq!(get(|out| primary_context::cuDevicePrimaryCtxRetain(out, 0)), Ok(handle));
            assert_eq!(primary_context::cuDevicePrimaryCtxRelease_v2(0), 0);
            assert_eq!(context::cuCtxSynchronize(), 0);
            assert_eq!(primary_context::cuDevicePrimaryCtxRelease_v2(0), 0);
            assert_eq!(context::cuCtxSynchronize(), 709);
            assert_eq!(primary_context::cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
            assert_eq!(get(|out| primary_context::cuDevicePrimaryCtxRetain(out, 0)), Ok(handle));
            let mut total = std::mem::MaybeUninit::uninit();
            let free = get(|out| memory::cuMemGetInfo_v2(out, Some(&mut total))).unwrap();
            assert_eq!(free, total.assume_init());
        }
    });
}

#[test]
fn every_error_has_its_name() {
    // SAFETY: the pointers are of live values.
    unsafe {
        let name = |code| get(|out| error::cuGetErrorName(code, out)).map(|name| CStr::from_ptr(name));
        let text = |code| get(|out| error::cuGetErrorString(code, out)).map(|text| CStr::from_ptr(text));
        assert_eq!(name(0), Ok(c"CUDA_SUCCESS"));
        assert_eq!(name(700), Ok(c"CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert_eq!(text(2), Ok(c"out of memory"));
        assert_eq!(name(12345), Err(INVALID_VALUE));
    }
}

#[test]
fn functions_are_found_by_name_version_and_kind_of_stream() {
    let find = |name: &str, version, flags| {
        let name = CString::new(name).unwrap();
        let mut status = std::mem::MaybeUninit::uninit();
        // SAFETY: the pointers are of live values.
        unsafe {
            let found = get(|out| {
                proc_address::cuGetProcAddress_v2(name.as_ptr(), out, version, flags, Some(&mut status))
            });
            (found.unwrap().addr(), status.assume_init())
        }
    };
    assert_eq!(find("cuMemAlloc", 13_000, 0), (memory::cuMemAlloc_v2 as *const () as usize, 0));
    assert_eq!(find("cuMemAlloc", 2000, 0), (0, 2));
    assert_eq!(find("cuMemAlloc_v2", 13_000, 0), (0, 1));
    assert_eq!(find("cuNoSuchThing", 13_000, 0), (0, 1));
    assert_eq!(find("cuMemAlloc", 13_010, 0), (0, 1));
    let launch = vgpu_softgpu::driver::launch::cuLaunchKernel as *const () as usize;
    let launch_per_thread = vgpu_softgpu::driver::launch::cuLaunchKernel_ptsz as *const () as usize;
    assert_eq!(find("cuLaunchKernel", 13_000, 0), (launch, 0));
    assert_eq!(find("cuLaunchKernel", 13_000, 2), (launch_per_thread, 0));
    let (v3, v4) =
        (context::cuCtxCreate_v3 as *const () as usize, context::cuCtxCreate_v4 as *const () as usize);
    assert_eq!(find("cuCtxCreate", 12_040, 0), (v3, 0));
    assert_eq!(find("cuCtxCreate", 13_000, 0), (v4, 0));
}
