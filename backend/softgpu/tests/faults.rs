//! What a failed kernel does to its context. Each in a process of its own: a fault is for good.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use vgpu_softgpu::driver::{context, event, memory, module, primary_context, stream};

const OPERATIONS: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry trap_it() { trap; ret; }
.visible .entry misaligned(.param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1+1], %r1;
    ret;
}
.visible .entry unknown() {
    .reg .b32 %r<9>;
    wgmma.fence.sync.aligned;
    ret;
}
";

/// Runs a kernel that fails and expects `code` for good.
fn expect_fault(code: u32, run: impl FnOnce()) {
    let primary = start();
    let memory = alloc(16);
    // SAFETY: the pointers are of live values.
    unsafe {
        let made_before = get(|out| event::cuEventCreate(out, 0)).unwrap();
        run();
        assert_eq!(synchronize(), code);
        assert_eq!(synchronize(), code);
        assert_eq!(get(|out| memory::cuMemAlloc_v2(out, 16)), Err(code));
        assert_eq!(memory::cuMemFree_v2(memory), code);
        assert_eq!(stream::cuStreamQuery(0), code);
        assert_eq!(event::cuEventQuery(made_before), code);
        assert_eq!(get(|out| event::cuEventCreate(out, 0)), Err(code));
        assert_eq!(get(|out| stream::cuStreamCreate(out, 0)), Err(code));
        assert_eq!(get(|out| module::cuModuleLoadData(out, address(c"x".to_bytes_with_nul()))), Err(code));
        assert_eq!(get(|out| context::cuCtxGetDevice(out)), Ok(0));
        assert_eq!(primary_context::cuDevicePrimaryCtxReset_v2(0), 0);
        assert_eq!(get(|out| memory::cuMemAlloc_v2(out, 16)), Err(709));
        assert_eq!(get(|out| primary_context::cuDevicePrimaryCtxRetain(out, 0)), Err(code));
        assert_eq!(get(|out| context::cuCtxGetCurrent(out)), Ok(primary));
    }
}

#[test]
fn an_illegal_address() {
    in_own_process("an_illegal_address", &[], || {
        expect_fault(700, || {
            let store = function(load(KERNELS), "store");
            assert_eq!(launch(store, 1, 1, &[0x10, 1]), 0);
        });
    });
}

#[test]
fn freed_memory_is_an_illegal_address() {
    in_own_process("freed_memory_is_an_illegal_address", &[], || {
        expect_fault(700, || {
            let store = function(load(KERNELS), "store");
            let place = alloc(4096);
            assert_eq!(launch(store, 1, 1, &[place, 1]), 0);
            // SAFETY: the driver checks the address.
            assert_eq!(unsafe { memory::cuMemFree_v2(place) }, 0);
            assert_eq!(launch(store, 1, 1, &[place, 1]), 0);
        });
    });
}

#[test]
fn a_trap() {
    in_own_process("a_trap", &[], || {
        expect_fault(719, || assert_eq!(launch(function(load(OPERATIONS), "trap_it"), 1, 1, &[]), 0));
    });
}

#[test]
fn a_misaligned_address() {
    in_own_process("a_misaligned_address", &[], || {
        expect_fault(716, || {
            let place = alloc(16);
            assert_eq!(launch(function(load(OPERATIONS), "misaligned"), 1, 1, &[place]), 0);
        });
    });
}

#[test]
fn an_instruction_that_is_not_supported_is_named() {
    let output = in_own_process("an_instruction_that_is_not_supported_is_named", &[], || {
        expect_fault(801, || assert_eq!(launch(function(load(OPERATIONS), "unknown"), 1, 1, &[]), 0));
    });
    if let Some(output) = output {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains("softgpu: kernel unknown: line 17: `wgmma.fence.sync.aligned;`: not supported"),
            "{text}"
        );
    }
}

#[test]
fn what_was_queued_behind_a_fault_is_not_run() {
    in_own_process("what_was_queued_behind_a_fault_is_not_run", &[], || {
        start();
        let place = upload(&[0u32]);
        let module = load(KERNELS);
        let release = block(0);
        assert_eq!(launch(function(module, "fail"), 1, 1, &[]), 0);
        assert_eq!(launch(function(module, "store"), 1, 1, &[place, 1]), 0);
        host_function(0, || panic!("a host function behind a fault was called"));
        release.send(()).unwrap();
        assert_eq!(synchronize(), 719);
        // SAFETY: softgpu's device memory is at the same address, and still there.
        let value = unsafe { std::ptr::with_exposed_provenance::<u32>(place as usize).read_volatile() };
        assert_eq!(value, 0);
    });
}
