//! Calls: recursion, pointers, structures, and the functions of the runtime.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, launch, load, params};
use vgpu_softgpu::exec::Fault;

const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

const FIBONACCI: &str = "
.func (.param .b32 result) fib(.param .b32 n)
{
    .reg .pred %p<2>; .reg .b32 %r<9>;
    ld.param.u32 %r1, [n];
    setp.lt.s32 %p1, %r1, 2;
    @%p1 bra DONE;
    add.s32 %r2, %r1, -1;
    { .param .b32 a; st.param.b32 [a+0], %r2; .param .b32 b; call.uni (b), fib, (a); ld.param.b32 %r3, [b+0]; }
    add.s32 %r2, %r1, -2;
    { .param .b32 a; st.param.b32 [a+0], %r2; .param .b32 b; call.uni (b), fib, (a); ld.param.b32 %r4, [b+0]; }
    add.s32 %r1, %r3, %r4;
DONE:
    st.param.b32 [result+0], %r1;
    ret;
}
.func (.param .b32 result) triple(.param .b32 n)
{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [n]; mul.lo.u32 %r1, %r1, 3; st.param.b32 [result], %r1; ret;
}
";

fn fib(n: u32) -> u32 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

#[test]
fn recursion_keeps_registers_of_each_level_and_lane() {
    let source = format!(
        "{HEAD}{FIBONACCI}.visible .entry k(.param .u64 out)
        {{
            .reg .b32 %r<9>; .reg .b64 %rd<9>;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; rem.u32 %r2, %r1, 11;
            {{ .param .b32 a; st.param.b32 [a], %r2; .param .b32 b; call (b), fib, (a); ld.param.b32 %r3, [b]; }}
            mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r3; ret;
        }}"
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 64]);
    launch(&device, &program, "k", 1, 64, &params(&[out])).unwrap();
    let wanted: Vec<u32> = (0..64).map(|t| fib(t % 11)).collect();
    assert_eq!(device.read_u32(out, 64), wanted);
}

/// A kernel that calls through the table `functions` with the lane's number modulo `modulus`.
fn table_kernel(modulus: u32) -> String {
    format!(
        "{HEAD}{FIBONACCI}.global .align 8 .u64 functions[3] = {{fib, triple, 0}};
        .visible .entry k(.param .u64 out)
        {{
            .reg .b32 %r<9>; .reg .b64 %rd<9>;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; rem.u32 %r2, %r1, {modulus};
            mov.u64 %rd3, functions; mul.wide.u32 %rd4, %r2, 8; add.u64 %rd3, %rd3, %rd4; ld.global.u64 %rd5, [%rd3];
            {{ .param .b32 a; st.param.b32 [a], 7; .param .b32 b;
            proto : .callprototype (.param .b32 _) _ (.param .b32 _);
            call (b), %rd5, (a), proto; ld.param.b32 %r3, [b]; }}
            mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r3; ret;
        }}"
    )
}

#[test]
fn lanes_may_call_different_functions_through_a_pointer() {
    let mut device = Device::default();
    let program = load(&mut device, &table_kernel(2));
    let out = device.words(&[0; 32]);
    launch(&device, &program, "k", 1, 32, &params(&[out])).unwrap();
    let wanted: Vec<u32> = (0..32).map(|t| if t % 2 == 0 { 13 } else { 21 }).collect();
    assert_eq!(device.read_u32(out, 32), wanted);
}

#[test]
fn calling_what_is_no_function_is_a_fault() {
    let mut device = Device::default();
    let program = load(&mut device, &table_kernel(3));
    let out = device.words(&[0; 32]);
    let fault = launch(&device, &program, "k", 1, 32, &params(&[out])).unwrap_err();
    assert!(matches!(fault, Fault::IllegalInstruction { .. }), "{fault}");
}

#[test]
fn endless_recursion_is_a_fault_and_not_a_crash() {
    let source = format!(
        "{HEAD}.func f() {{ .local .b8 x[64]; call.uni f, (); ret; }}
        .visible .entry k() {{ call.uni f, (); ret; }}"
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let fault = launch(&device, &program, "k", 1, 1, &[]).unwrap_err();
    assert!(matches!(fault, Fault::IllegalAddress { .. }), "{fault}");
}

/// Prints with a format, from a buffer of 64-bit arguments.
fn printed(format: &str, arguments: &[u64], string: &str) -> String {
    let list = |text: &str| text.bytes().chain([0]).map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    let stores: String = arguments
        .iter()
        .enumerate()
        .map(|(i, value)| format!("mov.u64 %rd9, {value}; st.local.u64 [%rd1+{}], %rd9;", 8 * i))
        .collect();
    let source = format!(
        "{HEAD}.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
        .global .align 1 .b8 format[{}] = {{{}}};
        .global .align 1 .b8 string[{}] = {{{}}};
        .visible .entry k()
        {{
            .local .align 8 .b8 list[128];
            .reg .b32 %r<4>; .reg .b64 %rd<10>;
            mov.u64 %rd1, list; {stores}
            mov.u64 %rd8, string; cvta.global.u64 %rd8, %rd8; st.local.u64 [%rd1+{}], %rd8;
            cvta.local.u64 %rd2, %rd1; mov.u64 %rd3, format; cvta.global.u64 %rd3, %rd3;
            {{ .param .b64 a; st.param.b64 [a], %rd3; .param .b64 b; st.param.b64 [b], %rd2; .param .b32 c;
            call.uni (c), vprintf, (a, b); ld.param.b32 %r1, [c]; }}
            ret;
        }}",
        format.len() + 1,
        list(format),
        string.len() + 1,
        list(string),
        8 * arguments.len()
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    launch(&device, &program, "k", 1, 1, &[]).unwrap()
}

#[test]
fn printf_formats_as_c_does() {
    let minus = (-42i64).cast_unsigned();
    assert_eq!(
        printed("%lld|%6lld|%-6lld|%06lld|%+lld|", &[minus, 42, 42, 42, 42], ""),
        "-42|    42|42    |000042|+42|"
    );
    assert_eq!(
        printed("%llx %#llX %llo %llu%%", &[255, 255, 8, u64::MAX], ""),
        "ff 0XFF 10 18446744073709551615%"
    );
    let pi = std::f64::consts::PI.to_bits();
    assert_eq!(
        printed("%f %.2f %10.3f %e %g", &[pi; 5], ""),
        "3.141593 3.14      3.142 3.141593e+00 3.14159"
    );
    let tiny = 1.5e-7f64.to_bits();
    assert_eq!(
        printed("%g %G %g %g", &[tiny, tiny, 1e20f64.to_bits(), 100000f64.to_bits()], ""),
        "1.5e-07 1.5E-07 1e+20 100000"
    );
    assert_eq!(printed("%f %5.1f", &[f64::INFINITY.to_bits(), f64::NAN.to_bits()], ""), "inf   nan");
    assert_eq!(
        printed("%p|%8s|%-5s|", &[0x1234], "abc").split('|').take(2).collect::<Vec<_>>(),
        ["0x1234", "     abc"]
    );
    assert_eq!(printed("%.2s!", &[], "abc"), "ab!");
    assert_eq!(printed("%a", &[1.5f64.to_bits()], ""), "0x1.8p+0");
    assert_eq!(printed("100%! %y", &[], ""), "100%! %y");
}

#[test]
fn printf_packs_narrow_arguments_by_their_own_alignment() {
    // An int, a char and a double: at 0, 4 and 8.
    let first = u64::from((-7i32).cast_unsigned()) | u64::from(b'Z') << 32;
    assert_eq!(printed("%d %c %.1f", &[first, 2.5f64.to_bits()], ""), "-7 Z 2.5");
    assert_eq!(printed("%hhd %hu", &[0x1ff | 0x1_ffff << 32], ""), "-1 65535");
}

#[test]
fn a_failed_assertion_carries_its_message() {
    let text = |text: &str| text.bytes().chain([0]).map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    let source = format!(
        "{HEAD}.extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);
        .global .b8 what[6] = {{{}}}; .global .b8 file[5] = {{{}}}; .global .b8 name[7] = {{{}}};
        .visible .entry k()
        {{
            .reg .b64 %rd<9>; .reg .b32 %r<3>; .reg .pred %p1;
            mov.u32 %r1, %tid.x; setp.ne.u32 %p1, %r1, 3; @%p1 ret;
            mov.u64 %rd1, what; mov.u64 %rd2, file; mov.u64 %rd3, name;
            {{ .param .b64 a; st.param.b64 [a], %rd1; .param .b64 b; st.param.b64 [b], %rd2; .param .b32 c;
            st.param.b32 [c], 14; .param .b64 d; st.param.b64 [d], %rd3; .param .b64 e; st.param.b64 [e], 1;
            call.uni __assertfail, (a, b, c, d, e); }}
            ret;
        }}",
        text("n < 9"),
        text("a.cu"),
        text("void k")
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let fault = launch(&device, &program, "k", 1, 32, &[]).unwrap_err();
    let Fault::Assert { message, .. } = fault else { panic!("{fault}") };
    assert_eq!(message, "a.cu:14: void k: block: [0,0,0], thread: [3,0,0] Assertion `n < 9` failed.");
}

#[test]
fn device_heap_gives_memory_that_can_be_used_and_freed() {
    let source = format!(
        "{HEAD}.extern .func (.param .b64 r) malloc(.param .b64 n); .extern .func free(.param .b64 p);
        .visible .entry k(.param .u64 out, .param .u64 size)
        {{
            .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p1;
            ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [size]; mov.u32 %r1, %tid.x;
            {{ .param .b64 a; st.param.b64 [a], %rd2; .param .b64 b; call.uni (b), malloc, (a); ld.param.b64 %rd3, [b]; }}
            mov.u32 %r2, 0; setp.eq.u64 %p1, %rd3, 0; @%p1 bra NONE;
            add.u32 %r3, %r1, 100; st.u32 [%rd3+4], %r3; bar.warp.sync -1; ld.u32 %r2, [%rd3+4];
            {{ .param .b64 a; st.param.b64 [a], %rd3; call.uni free, (a); }}
            NONE: mul.wide.u32 %rd4, %r1, 4; add.u64 %rd1, %rd1, %rd4; st.global.u32 [%rd1], %r2; ret;
        }}"
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0; 32]);
    launch(&device, &program, "k", 1, 32, &params(&[out, 8])).unwrap();
    assert_eq!(device.read_u32(out, 32), (100..132).collect::<Vec<_>>());
    launch(&device, &program, "k", 1, 32, &params(&[out, 1 << 40])).unwrap();
    assert_eq!(device.read_u32(out, 32), [0; 32]);
}
