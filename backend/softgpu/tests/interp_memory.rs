//! State spaces, generic addresses, vectors, atomics, and what is illegal.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, kernel, launch, load, params};
use vgpu_softgpu::exec::Fault;

#[test]
fn initialised_variables_are_found_with_their_references() {
    let source = "
        .version 8.0 .target sm_90 .address_size 64
        .const .align 4 .b8 table[8] = {1, 0, 0, 0, 2, 1, 0, 0};
        .global .align 4 .u32 grid[2][3] = {{1, 2}, {4, 5, 6}};
        .global .align 8 .u64 pointer = generic(grid)+8;
        .global .f32 number = 0f40490FDB;
        .visible .entry k(.param .u64 out)
        {
            .reg .b32 %r<9>; .reg .b64 %rd<9>;
            ld.param.u64 %rd1, [out];
            ld.const.u32 %r1, [table+4];
            ld.global.u64 %rd2, [pointer];
            ld.u32 %r2, [%rd2+4];
            ld.global.u32 %r3, [number];
            ld.global.u32 %r4, [grid+8];
            st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};
            ret;
        }";
    let mut device = Device::default();
    let program = load(&mut device, source);
    let out = device.words(&[9; 4]);
    launch(&device, &program, "k", 1, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 4), [0x102, 4, 0x4049_0fdb, 0]);
}

#[test]
fn loads_extend_and_stores_cut() {
    let source = kernel(
        2,
        "ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1];
         ld.global.s8 %r1, [%rd1]; ld.global.u8 %r2, [%rd1]; ld.global.s16 %r3, [%rd1]; ld.global.s32 %rd3, [%rd1];
         st.global.u32 [%rd2], %r1; st.global.u32 [%rd2+4], %r2; st.global.u32 [%rd2+8], %r3;
         st.global.u64 [%rd2+16], %rd3; st.global.u8 [%rd2+24], %rd3; st.global.u16 [%rd2+26], %rd3;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let (from, to) = (device.words(&[0xffff_8081]), device.words(&[0; 8]));
    launch(&device, &program, "k", 1, 1, &params(&[from, to])).unwrap();
    let wanted = [0xffff_ff81, 0x81, 0xffff_8081, 0, 0xffff_8081, 0xffff_ffff, 0x8081_0081, 0];
    assert_eq!(device.read_u32(to, 8), wanted);
}

#[test]
fn every_space_can_be_reached_by_generic_address() {
    let source = kernel(
        1,
        ".shared .align 8 .b32 s[4]; .local .align 8 .b32 l[4];
         ld.param.u64 %rd1, [p0];
         mov.u64 %rd2, s; cvta.shared.u64 %rd3, %rd2; mov.u64 %rd4, l; cvta.local.u64 %rd5, %rd4;
         st.u32 [%rd3+4], 11; st.u32 [%rd5+4], 22;
         ld.shared.u32 %r1, [s+4]; ld.local.u32 %r2, [l+4];
         isspacep.shared %p1, %rd3; selp.u32 %r3, 1, 0, %p1;
         isspacep.local %p1, %rd3; @%p1 add.u32 %r3, %r3, 10;
         isspacep.local %p1, %rd5; @%p1 add.u32 %r3, %r3, 100;
         isspacep.global %p1, %rd1; @%p1 add.u32 %r3, %r3, 1000;
         cvta.to.shared.u64 %rd6, %rd3; sub.u64 %rd6, %rd6, %rd2; cvt.u32.u64 %r4, %rd6;
         st.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[9; 4]);
    launch(&device, &program, "k", 1, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 4), [11, 22, 1101, 0]);
}

#[test]
fn dynamic_shared_memory_follows_the_static() {
    let source = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 dynamic[];\n{}",
        kernel(
            1,
            ".shared .b32 fixed[3]; ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2;
             setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [fixed+8], 77;
             mov.u32 %r3, dynamic; add.u32 %r3, %r3, %r2; st.shared.u32 [%r3], %r1; bar.sync 0;
             ld.shared.u32 %r4, [fixed+8]; xor.b32 %r2, %r2, 4; mov.u32 %r3, dynamic; add.u32 %r3, %r3, %r2;
             ld.shared.u32 %r5, [%r3]; mad.lo.u32 %r5, %r4, 1000, %r5; mul.wide.u32 %rd2, %r1, 4;
             add.s64 %rd2, %rd1, %rd2; st.global.u32 [%rd2], %r5; mov.u32 %r6, %dynamic_smem_size;
             @%p1 st.global.u32 [%rd1+256], %r6;"
        )
        .lines()
        .skip(3)
        .collect::<Vec<_>>()
        .join("\n")
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 65]);
    launch(&device, &program, "k", 1, 64, &params(&[out])).unwrap();
    let wanted: Vec<u32> = (0..64).map(|t| 77_000 + (t ^ 1)).chain([4096]).collect();
    assert_eq!(device.read_u32(out, 65), wanted);
}

#[test]
fn atomics_of_many_blocks_lose_nothing() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r3, %r1, 128, %r2;
         atom.global.add.u32 %r4, [%rd1], %r3; red.global.max.u32 [%rd1+4], %r3; neg.s32 %r5, %r3;
         atom.global.min.s32 %r6, [%rd1+8], %r5; atom.global.inc.u32 %r6, [%rd1+12], 99;
         atom.global.xor.b32 %r6, [%rd1+16], %r3; mov.f32 %f1, 0f3F000000; red.global.add.f32 [%rd1+20], %f1;
         cvt.u64.u32 %rd2, %r3; shl.b64 %rd2, %rd2, 20; atom.add.u64 %rd3, [%rd1+24], %rd2;
         mov.f64 %fd1, 0d3FD0000000000000; atom.add.f64 %fd2, [%rd1+32], %fd1;
         LOOP: ld.global.u32 %r7, [%rd1+40]; add.u32 %r8, %r7, 2; atom.global.cas.b32 %r9, [%rd1+40], %r7, %r8;
         setp.ne.u32 %p1, %r9, %r7; @%p1 bra LOOP;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 16]);
    launch(&device, &program, "k", 100, 128, &params(&[out])).unwrap();
    let n = 12_800u32;
    let words = device.read_u32(out, 11);
    assert_eq!(
        words[..5],
        [n * (n - 1) / 2, n - 1, (n - 1).wrapping_neg(), n % 100, (0..n).fold(0, |x, t| x ^ t)]
    );
    assert_eq!(f32::from_bits(words[5]), 6400.0);
    assert_eq!(device.read_u64(out + 24, 1), [u64::from(n * (n - 1) / 2) << 20]);
    assert_eq!(f64::from_bits(device.read_u64(out + 32, 1)[0]), 3200.0);
    assert_eq!(words[10], 2 * n);
}

#[test]
fn atomics_return_the_old_value() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; atom.global.exch.b32 %r1, [%rd1], 8; atom.global.dec.u32 %r2, [%rd1], 100;
         atom.global.cas.b32 %r3, [%rd1], 7, 50; atom.global.or.b32 %r4, [%rd1], 1; st.global.v4.u32 [%rd1+16], {%r1, %r2, %r3, %r4};",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[5, 0, 0, 0, 0, 0, 0, 0]);
    launch(&device, &program, "k", 1, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 8), [51, 0, 0, 0, 5, 8, 7, 50]);
}

#[test]
fn asynchronous_copies_fill_with_zeros_beyond_their_source() {
    let source = kernel(
        2,
        ".shared .align 16 .b32 s[8]; ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1]; mov.u32 %r1, s;
         cp.async.cg.shared.global [%r1], [%rd1], 16; add.u32 %r2, %r1, 16;
         cp.async.ca.shared.global [%r2], [%rd1+16], 8, 4; cp.async.commit_group; cp.async.wait_group 0;
         ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [s]; ld.shared.v2.u32 {%r7, %r8}, [s+16];
         st.global.v4.u32 [%rd2], {%r3, %r4, %r5, %r6}; st.global.v2.u32 [%rd2+16], {%r7, %r8};",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let (from, to) = (device.words(&[1, 2, 3, 4, 5, 6]), device.words(&[9; 6]));
    launch(&device, &program, "k", 1, 1, &params(&[from, to])).unwrap();
    assert_eq!(device.read_u32(to, 6), [1, 2, 3, 4, 5, 0]);
}

#[test]
fn large_kernel_parameters_can_be_indexed() {
    let source = "
        .version 8.5 .target sm_90 .address_size 64
        .visible .entry k(.param .u64 out, .param .align 4 .b8 big[20000])
        {
            .reg .b32 %r<9>; .reg .b64 %rd<9>;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 400;
            mov.b64 %rd3, big; add.u64 %rd3, %rd3, %rd2; ld.param.u32 %r2, [%rd3];
            cvta.param.u64 %rd4, %rd3; ld.u32 %r3, [%rd4+4]; ld.param.u32 %r4, [big+19996];
            add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2;
            st.global.u32 [%rd1], %r2; ret;
        }";
    let mut device = Device::default();
    let program = load(&mut device, source);
    let out = device.words(&[0; 32]);
    let mut arguments = params(&[out]);
    arguments.extend((0..5000u32).flat_map(|i| (i * 3).to_le_bytes()));
    launch(&device, &program, "k", 1, 32, &arguments).unwrap();
    let wanted: Vec<u32> = (0..32).map(|t| t * 300 + t * 300 + 3 + 4999 * 3).collect();
    assert_eq!(device.read_u32(out, 32), wanted);
}

fn fault_of(body: &str, threads: u32) -> Fault {
    let mut device = Device::default();
    let program = load(&mut device, &kernel(1, body));
    let out = device.words(&[0; 64]);
    launch(&device, &program, "k", 1, threads, &params(&[out])).unwrap_err()
}

#[test]
fn an_illegal_access_names_address_and_thread() {
    let fault = fault_of(
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 5;\n@%p1 st.global.u32 [%rd1+8388608], 1;",
        32,
    );
    let Fault::IllegalAddress { place, length, .. } = fault else { panic!("{fault}") };
    assert_eq!((place.thread, place.line, length), ([5, 0, 0], 13, 4));
    assert!(matches!(
        fault_of("mov.u64 %rd1, 0; ld.global.u32 %r1, [%rd1];", 1),
        Fault::IllegalAddress { address: 0, .. }
    ));
    let beyond_shared = ".shared .b32 s[2]; mov.u32 %r1, s; ld.shared.u32 %r2, [%r1+65536];";
    assert!(matches!(fault_of(beyond_shared, 1), Fault::IllegalAddress { .. }));
}

#[test]
fn a_misaligned_access_is_refused() {
    let fault = fault_of("ld.param.u64 %rd1, [p0]; ld.global.v2.u32 {%r1, %r2}, [%rd1+4];", 1);
    assert!(matches!(fault, Fault::MisalignedAddress { length: 8, .. }), "{fault}");
}

#[test]
fn a_trap_ends_the_launch() {
    let fault = fault_of("mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 9; @%p1 trap;", 32);
    let Fault::Trap { place } = fault else { panic!("{fault}") };
    assert_eq!((place.kernel.as_str(), place.thread), ("k", [9, 0, 0]));
}

#[test]
fn a_32_bit_address_wraps_with_its_offset() {
    // Compilers fold constants so: a negative register and an offset beyond it.
    let source = kernel(
        1,
        ".shared .align 4 .b32 s[4];
         ld.param.u64 %rd1, [p0];
         mov.u32 %r1, s; st.shared.u32 [%r1+8], 77;
         sub.s32 %r2, %r1, 16; ld.shared.u32 %r3, [%r2+24]; st.global.u32 [%rd1], %r3;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let to = device.words(&[0]);
    launch(&device, &program, "k", 1, 1, &params(&[to])).unwrap();
    assert_eq!(device.read_u32(to, 1), [77]);
}
