//! Kernels: loading, finding, launching.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::{CString, c_char, c_void};
use std::mem::MaybeUninit;

use common::*;
use vgpu_softgpu::driver::launch::{self as launches, Attribute, Config};
use vgpu_softgpu::driver::{function as functions, kernel, library, module, occupancy};

const INVALID_VALUE: u32 = 1;
const INVALID_HANDLE: u32 = 400;
const NOT_FOUND: u32 = 500;
const NOT_SUPPORTED: u32 = 801;

fn c(name: &str) -> CString {
    CString::new(name).unwrap()
}

/// A library of the tests' kernels.
fn new_library() -> u64 {
    let source = c(KERNELS);
    let (none, values) = (std::ptr::null(), std::ptr::null_mut());
    let code = address(source.as_bytes_with_nul());
    // SAFETY: the source ends in NUL, and there are no options.
    get(|out| unsafe { library::cuLibraryLoadData(out, code, none, values, 0, none, std::ptr::null(), 0) })
        .unwrap()
}

#[test]
fn vectors_are_added() {
    start();
    let count = 10_000u32;
    let a: Vec<f32> = (0..count).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..count).map(|i| 2.0 * i as f32).collect();
    let (a, b, sum) = (upload(&a), upload(&b), alloc(4 * count as usize));
    let add = function(load(KERNELS), "add");
    assert_eq!(launch(add, count.div_ceil(256), 256, &[a, b, sum, u64::from(count)]), 0);
    let expected: Vec<f32> = (0..count).map(|i| 3.0 * i as f32).collect();
    assert_eq!(download::<f32>(sum, count as usize), expected);
}

#[test]
fn launches_in_one_stream_follow_each_other() {
    start();
    let module = load(KERNELS);
    let count = function(module, "count");
    for _ in 0..500 {
        assert_eq!(launch(count, 1, 1, &[]), 0);
    }
    let name = c("counter");
    let mut size = MaybeUninit::uninit();
    // SAFETY: the pointers are of live values.
    unsafe {
        let counter = get(|out| module::cuModuleGetGlobal_v2(out, Some(&mut size), module, name.as_ptr()));
        assert_eq!(size.assume_init(), 4);
        assert_eq!(download::<u32>(counter.unwrap(), 1), [507]);
    }
}

#[test]
fn each_module_has_variables_of_its_own() {
    start();
    let (first, second) = (load(KERNELS), load(KERNELS));
    assert_eq!(launch(function(first, "count"), 1, 1, &[]), 0);
    let name = c("counter");
    // SAFETY: the pointers are of live values.
    let counter =
        |m| unsafe { get(|out| module::cuModuleGetGlobal_v2(out, None, m, name.as_ptr())) }.unwrap();
    assert_eq!(download::<u32>(counter(first), 1), [8]);
    assert_eq!(download::<u32>(counter(second), 1), [7]);
}

#[test]
fn a_kernel_of_a_library_is_launched_without_a_function() {
    start();
    let library = new_library();
    let name = c("store");
    let place = upload(&[0u32]);
    // SAFETY: the pointers are of live values.
    unsafe {
        let store = get(|out| library::cuLibraryGetKernel(out, library, name.as_ptr())).unwrap();
        assert_eq!(launch(store, 1, 1, &[place, 5]), 0);
        assert_eq!(download::<u32>(place, 1), [5]);

        let as_function = get(|out| kernel::cuKernelGetFunction(out, store)).unwrap();
        assert_eq!(launch(as_function, 1, 1, &[place, 6]), 0);
        assert_eq!(download::<u32>(place, 1), [6]);

        let mut size = MaybeUninit::uninit();
        assert_eq!(get(|out| kernel::cuKernelGetParamInfo(store, 1, out, Some(&mut size))), Ok(8));
        assert_eq!(size.assume_init(), 4);
        assert_eq!(get(|out| kernel::cuKernelGetParamInfo(store, 2, out, None)), Err(INVALID_VALUE));
        assert_eq!(get(|out| functions::cuFuncGetParamInfo(as_function, 1, out, None)), Ok(8));
        assert_eq!(get(|out| functions::cuFuncGetParamInfo(store, 0, out, None)), Err(INVALID_HANDLE));
        assert_eq!(get(|out| functions::cuFuncGetAttribute(out, 0, store)), Err(INVALID_HANDLE));

        let missing = c("zz");
        assert_eq!(get(|out| library::cuLibraryGetKernel(out, library, missing.as_ptr())), Err(NOT_FOUND));
        assert_eq!(get(|out| library::cuLibraryGetKernelCount(out, library)), Ok(7));
        let in_library = get(|out| library::cuLibraryGetModule(out, library)).unwrap();
        assert_eq!(module::cuModuleUnload(in_library), 800);
        assert_eq!(library::cuLibraryUnload(library), 0);
        assert_eq!(launch(store, 1, 1, &[place, 7]), INVALID_HANDLE);
    }
}

#[test]
fn parameters_may_come_in_one_buffer() {
    start();
    let store = function(load(KERNELS), "store");
    let place = upload(&[0u32]);
    let mut buffer = place.to_le_bytes().to_vec();
    buffer.extend_from_slice(&99u32.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    let launch = |length: usize| {
        let extra: [*const c_void; 5] = [
            std::ptr::without_provenance(1),
            buffer.as_ptr().cast(),
            std::ptr::without_provenance(2),
            std::ptr::from_ref(&length).cast(),
            std::ptr::null(),
        ];
        // SAFETY: the list is as CUDA describes it.
        unsafe { launches::cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, 0, std::ptr::null(), extra.as_ptr()) }
    };
    assert_eq!(launch(12), 0);
    assert_eq!(download::<u32>(place, 1), [99]);
    assert_eq!(launch(16), 701);
}

#[test]
fn a_shape_that_the_device_or_the_kernel_cannot_run_is_refused() {
    start();
    let module = load(KERNELS);
    let nothing = function(module, "nothing");
    let shape = |function, grid: [u32; 3], block: [u32; 3], shared| {
        let none = std::ptr::null();
        // SAFETY: the kernels have no parameters.
        unsafe {
            let [gx, gy, gz] = grid;
            let [bx, by, bz] = block;
            launches::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, 0, none, none.cast())
        }
    };
    let one = [1, 1, 1];
    assert_eq!(shape(nothing, one, one, 48 << 10), 0);
    assert_eq!(shape(nothing, [0, 1, 1], one, 0), INVALID_VALUE);
    assert_eq!(shape(nothing, [1, 65_536, 1], one, 0), INVALID_VALUE);
    assert_eq!(shape(nothing, one, [0, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape(nothing, one, [1025, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape(nothing, one, [33, 32, 1], 0), INVALID_VALUE);
    assert_eq!(shape(nothing, one, [1, 1, 65], 0), INVALID_VALUE);
    assert_eq!(shape(nothing, one, one, (48 << 10) + 1), INVALID_VALUE);
    assert_eq!(shape(function(module, "at_most_64"), one, [65, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape(function(module, "just_32_by_2"), one, [64, 1, 1], 0), INVALID_VALUE);
    assert_eq!(shape(function(module, "just_32_by_2"), one, [32, 2, 1], 0), 0);
    assert_eq!(shape(function(module, "store"), one, one, 0), INVALID_VALUE);
    assert_eq!(shape(0, one, one, 0), INVALID_HANDLE);
    assert_eq!(synchronize(), 0);

    // SAFETY: there is no pointer.
    unsafe {
        assert_eq!(functions::cuFuncSetAttribute(nothing, 8, 228 << 10), INVALID_VALUE);
        assert_eq!(functions::cuFuncSetAttribute(nothing, 8, 227 << 10), 0);
    }
    assert_eq!(shape(nothing, one, one, 227 << 10), 0);
}

#[test]
fn hints_are_taken_and_what_cannot_be_kept_is_refused() {
    start();
    let nothing = function(load(KERNELS), "nothing");
    let launch_grid = |blocks, id, value: [u32; 3]| {
        let mut attribute = Attribute { id, pad: 0, value: [0; 16] };
        attribute.value[..3].copy_from_slice(&value);
        let config = Config {
            grid: [blocks, 1, 1],
            block: [1; 3],
            dynamic_shared: 0,
            stream: 0,
            attributes: &raw const attribute,
            attribute_count: 1,
        };
        // SAFETY: the configuration has one attribute, the kernel no parameters.
        unsafe { launches::cuLaunchKernelEx(Some(&config), nothing, std::ptr::null(), std::ptr::null()) }
    };
    let launch = |id, value| launch_grid(1, id, value);
    assert_eq!(launch(6, [1, 0, 0]), 0);
    assert_eq!(launch(4, [1, 1, 1]), 0);
    assert_eq!(launch(4, [2, 1, 1]), NOT_SUPPORTED);
    assert_eq!(launch(2, [1, 0, 0]), 0, "one block has nobody to wait for");
    assert_eq!(launch_grid(2, 2, [1, 0, 0]), NOT_SUPPORTED);
    assert_eq!(launch(99, [0; 3]), INVALID_VALUE);
}

#[test]
fn functions_are_listed_and_named() {
    start();
    let module = load(KERNELS);
    // SAFETY: there is room for all handles, and names live as long as the module.
    unsafe {
        let count = get(|out| module::cuModuleGetFunctionCount(out, module)).unwrap();
        let mut handles = vec![0u64; count as usize];
        assert_eq!(module::cuModuleEnumerateFunctions(handles.as_mut_ptr(), count, module), 0);
        let name_of = |handle| {
            let name: *const c_char = get(|out| functions::cuFuncGetName(out, handle)).unwrap();
            std::ffi::CStr::from_ptr(name).to_str().unwrap().to_owned()
        };
        let names: Vec<String> = handles.iter().copied().map(name_of).collect();
        assert_eq!(names, ["add", "store", "count", "nothing", "at_most_64", "just_32_by_2", "fail"]);
        assert_eq!(function(module, "store"), handles[1]);
    }
}

#[test]
fn an_unloaded_module_is_gone() {
    start();
    let module = load(KERNELS);
    let nothing = function(module, "nothing");
    // SAFETY: there is no pointer.
    unsafe {
        assert_eq!(module::cuModuleUnload(module), 0);
        assert_eq!(module::cuModuleUnload(module), INVALID_HANDLE);
    }
    assert_eq!(launch(nothing, 1, 1, &[]), INVALID_HANDLE);
}

#[test]
fn occupancy_is_that_of_a_multiprocessor() {
    start();
    let nothing = function(load(KERNELS), "nothing");
    let blocks = |threads, dynamic| {
        // SAFETY: the pointers are of live values.
        get(|out| unsafe {
            occupancy::cuOccupancyMaxActiveBlocksPerMultiprocessor(out, nothing, threads, dynamic)
        })
    };
    assert_eq!(blocks(32, 0), Ok(32));
    assert_eq!(blocks(128, 0), Ok(16));
    assert_eq!(blocks(1024, 0), Ok(2));
    assert_eq!(blocks(2048, 0), Ok(0));
    assert_eq!(blocks(0, 0), Err(INVALID_VALUE));
    assert_eq!(blocks(128, 40_000), Ok(5));
    assert_eq!(blocks(128, 60_000), Ok(0));
}

#[test]
fn what_a_kernel_prints_appears_at_the_next_synchronization() {
    let source = r#"
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.global .align 1 .b8 text[14] = {104, 101, 108, 108, 111, 32, 37, 100, 10, 0};
.visible .entry hello(.param .u32 n)
{
    .local .align 8 .b8 args[8];
    .reg .b64 %SP;
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    mov.u64 %SP, args;
    cvta.local.u64 %rd1, %SP;
    ld.param.u32 %r1, [n];
    st.local.u32 [args], %r1;
    mov.u64 %rd2, text;
    cvta.global.u64 %rd3, %rd2;
    { .param .b64 p0; st.param.b64 [p0], %rd3; .param .b64 p1; st.param.b64 [p1], %rd1; .param .b32 q;
      call.uni (q), vprintf, (p0, p1); ld.param.b32 %r2, [q]; }
    ret;
}
"#;
    let output = in_own_process("what_a_kernel_prints_appears_at_the_next_synchronization", &[], || {
        start();
        let hello = function(load(source), "hello");
        let print = |text: &str| {
            let text = c(text);
            // SAFETY: the format has no conversions.
            unsafe { libc::printf(text.as_ptr()) };
        };
        assert_eq!(launch(hello, 1, 1, &[41]), 0);
        print("before\n");
        assert_eq!(synchronize(), 0);
        print("after\n");
        // SAFETY: NULL means all streams.
        unsafe { libc::fflush(std::ptr::null_mut()) };
    });
    if let Some(output) = output {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("before\nhello 41\nafter\n"), "{text}");
    }
}
