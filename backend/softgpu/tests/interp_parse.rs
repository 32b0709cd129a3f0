//! Parsing: what is understood, and how errors say where they are.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, kernel, launch, load, params};
use vgpu_softgpu::exec::Fault;
use vgpu_softgpu::ptx::Module;

#[test]
fn kernels_describe_their_launch() {
    let source = "
        .version 9.0 .target sm_75, debug .address_size 64
        .visible .entry first(.param .u32 a, .param .u64 .ptr .global .align 4 b, .param .align 16 .b8 c[24])
        .maxntid 64, 2, 1 .minnctapersm 2
        { .shared .align 8 .b8 s[24]; .local .align 4 .b8 l[12]; ret; }
        .entry second() .reqntid 32, 4 { .shared .b32 s[2]; ret; }\0\0";
    let module = Module::parse(source).unwrap();
    assert_eq!(module.compute_target(), 75);
    let [first, second] = module.kernels() else { panic!() };
    let places: Vec<_> = first.params.iter().map(|p| (p.offset, p.size, p.align)).collect();
    assert_eq!(places, [(0, 4, 4), (8, 8, 8), (16, 24, 16)]);
    assert_eq!((first.static_shared, first.local_bytes, first.max_threads), (24, 12, Some(128)));
    assert_eq!((second.static_shared, second.required_block), (8, Some([32, 4, 1])));
}

#[test]
fn an_unknown_instruction_is_refused_at_launch_with_its_line() {
    let source =
        kernel(0, "mov.u32 %r1, 1;\nwgmma.frobnicate.sync.aligned %r1, %r1, [%r1];\nmov.u32 %r1, 2;");
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let fault = launch(&device, &program, "k", 1, 1, &[]).unwrap_err();
    let Fault::Unsupported { line, text, .. } = fault else { panic!("{fault}") };
    assert_eq!((line, text.as_str()), (13, "wgmma.frobnicate.sync.aligned %r1, %r1, [%r1];"));
}

#[test]
fn an_unknown_modifier_or_syntax_is_never_ignored() {
    for bad in [
        "add.bogus.u32 %r1, %r1, %r1;",
        "ld.global.fancy.u32 %r1, [%rd1];",
        "mov.u32 %r1, %no_such_register;",
        "cvt.rn.e4m3x2.f32 %h1, %f1, %f1;",
        "shfl.down.b32 %r1, %r1, 1, 31;",
        "tex.2d.v4.f32.s32 {%f1, %f2, %f3, %f4}, [%rd1, %rd2, {%r1, %r2}];",
        "add.u32 %r1, %r2;",
        "setp.lt.s32 %r1, %r2, %r3;",
    ] {
        let mut device = Device::default();
        let program = load(&mut device, &kernel(0, bad));
        let result = launch(&device, &program, "k", 1, 1, &[]);
        assert!(matches!(result, Err(Fault::Unsupported { .. })), "{bad}: {result:?}");
    }
}

#[test]
fn only_kernels_that_reach_an_unknown_instruction_are_refused() {
    let source = "
        .version 8.0 .target sm_90 .address_size 64
        .func bad() { .reg .b32 %r1; mma.unknown %r1; ret; }
        .entry uses() { call.uni bad, (); ret; }
        .entry free_of_it() { ret; }";
    let mut device = Device::default();
    let program = load(&mut device, source);
    assert!(matches!(launch(&device, &program, "uses", 1, 1, &[]), Err(Fault::Unsupported { .. })));
    assert_eq!(launch(&device, &program, "free_of_it", 1, 1, &[]), Ok(String::new()));
}

#[test]
fn errors_name_line_and_text() {
    let error =
        Module::parse(".version 8.0\n.target sm_90\n.address_size 64\n.visible .bogus x;\n").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (4, ".visible .bogus x;"));
    let error =
        Module::parse(".version 8.0\n.target sm_90\n.entry k()\n{\n bra NOWHERE;\n ret;\n}\n").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (5, "bra NOWHERE;"));
}

#[test]
fn broken_text_is_an_error_and_not_a_panic() {
    let whole =
        kernel(1, "ld.param.u64 %rd1, [p0]; { .reg .b32 %r1; L: @%p1 bra L; } mov.b64 {%r1, %r2}, %rd1;");
    for end in 0..whole.len() {
        // Every prefix either parses or says why not.
        let _ = Module::parse(&whole[..end]);
    }
    for text in [
        "{{{{",
        ".global .b8 x[99999999999999999999];",
        ".global .b8 x[4000000000][4000000000];",
        "\"",
        "/*",
        ".entry",
        "0f",
        "\u{fffd}%",
    ] {
        assert!(Module::parse(text).is_err(), "{text}");
    }
    let nested = format!(".entry k() {{ .reg .b32 a; mov.b32 a, {}", "[".repeat(100_000));
    assert!(Module::parse(&nested).is_err());
}

#[test]
fn names_in_an_inner_scope_hide_the_outer_ones() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 5;
         { .reg .b32 %r1, temp; mov.u32 %r1, 7; mov.u32 temp, %r1; bra L; mov.u32 temp, 1; L: st.global.u32 [%rd1], temp; }
         { .reg .b32 temp; mov.u32 temp, 9; bra L; mov.u32 temp, 2; L: st.global.u32 [%rd1+4], temp; }
         st.global.u32 [%rd1+8], %r1;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 3]);
    launch(&device, &program, "k", 1, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 3), [7, 9, 5]);
}

#[test]
fn debug_sections_and_line_marks_are_skipped() {
    let source = "
        .version 8.0 .target sm_90, debug .address_size 64
        .file 1 \"a.cu\"
        .visible .entry k(.param .u64 out)
        {
            .reg .b64 %rd1; .loc 1 3 0
            $L__func_begin0:
            .loc 1 4 5, function_name $L__info_string0, inlined_at 1 8 0
            ld.param.u64 %rd1, [out]; .pragma \"nounroll\";
            st.global.u32 [%rd1], 3; // comment
            /* another
               one */
            ret;
        }
        .section .debug_info { .b32 6847 .b8 2,0 .b64 $L__func_begin0 }
        .section .debug_macinfo { .b8 0 }";
    let mut device = Device::default();
    let program = load(&mut device, source);
    let out = device.words(&[0]);
    launch(&device, &program, "k", 1, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 1), [3]);
}

#[test]
fn indexed_branches_go_to_their_target() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; rem.u32 %r2, %r1, 3;
         targets: .branchtargets A, B, C; brx.idx %r2, targets;
         A: mov.u32 %r3, 10; bra END; B: mov.u32 %r3, 20; bra END; C: mov.u32 %r3, 30;
         END: mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r3;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 32]);
    launch(&device, &program, "k", 1, 32, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 32), (0..32).map(|t| t % 3 * 10 + 10).collect::<Vec<_>>());
}

#[test]
fn a_launch_that_cannot_be_is_refused() {
    let mut device = Device::default();
    let program = load(&mut device, &kernel(1, ""));
    for (kernel, grid, block, bytes) in
        [("none", 1, 1, 8), ("k", 0, 1, 8), ("k", 1, 0, 8), ("k", 1, 1025, 8), ("k", 1, 1, 7)]
    {
        let result = launch(&device, &program, kernel, grid, block, &vec![0; bytes]);
        assert!(
            matches!(result, Err(Fault::BadLaunch { .. })),
            "{kernel} {grid} {block} {bytes}: {result:?}"
        );
    }
}
