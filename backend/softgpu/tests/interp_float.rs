//! Floating point: rounding modes, special values, conversions, half precision.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, Random, kernel, launch, load, params};

const COUNT: usize = 1024;

/// Runs `code`, which makes `%rd9` from the bits in `%rd1` to `%rd3` (also in `%f1` to `%f3` and `%fd1` to `%fd3`).
fn results(code: &str, inputs: &[[u64; 3]]) -> Vec<u64> {
    let source = kernel(
        2,
        &format!(
            "ld.param.u64 %rd20, [p0]; ld.param.u64 %rd21, [p1]; mov.u32 %r20, %tid.x;
             mul.wide.u32 %rd22, %r20, 24; add.s64 %rd20, %rd20, %rd22; mul.wide.u32 %rd22, %r20, 8;
             add.s64 %rd21, %rd21, %rd22; mov.u64 %rd9, 0;
             ld.global.b64 %rd1, [%rd20]; ld.global.b64 %rd2, [%rd20+8]; ld.global.b64 %rd3, [%rd20+16];
             ld.global.f32 %f1, [%rd20]; ld.global.f32 %f2, [%rd20+8]; ld.global.f32 %f3, [%rd20+16];
             ld.global.f64 %fd1, [%rd20]; ld.global.f64 %fd2, [%rd20+8]; ld.global.f64 %fd3, [%rd20+16];
             ld.global.b16 %h1, [%rd20]; ld.global.b16 %h2, [%rd20+8]; ld.global.b16 %h3, [%rd20+16];
             {code}
             st.global.u64 [%rd21], %rd9;"
        ),
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    let (from, to) = (device.buffer(&bytes), device.buffer(&vec![0; 8 * inputs.len()]));
    launch(&device, &program, "k", 1, u32::try_from(inputs.len()).unwrap(), &params(&[from, to])).unwrap();
    device.read_u64(to, inputs.len())
}

/// Single-precision values of moderate and of extreme size.
fn singles(seed: u64) -> Vec<[u64; 3]> {
    let mut random = Random::new(seed);
    let mut one = || {
        let bits = random.next();
        let exponent = if bits & 3 == 0 { bits >> 8 & 0xff } else { 120 + (bits >> 8 & 15) };
        u64::from((bits >> 40) as u32 & 0x7f_ffff | (exponent as u32) << 23 | (bits as u32 & 4) << 29)
    };
    (0..COUNT).map(|_| [one(), one(), one()]).collect()
}

fn doubles(seed: u64) -> Vec<[u64; 3]> {
    let mut random = Random::new(seed);
    let mut one = || {
        let bits = random.next();
        let exponent = 1023 - 30 + random.next() % 60;
        bits & 0x800f_ffff_ffff_ffff | exponent << 52
    };
    (0..COUNT).map(|_| [one(), one(), one()]).collect()
}

fn single(bits: u64) -> f64 {
    f64::from(f32::from_bits(bits as u32))
}

/// The single that `exact` rounds to in the direction of `mode`, found from its neighbours.
fn round_to_single(exact: f64, mode: &str) -> f32 {
    let near = exact as f32;
    let below = if f64::from(near) > exact { near.next_down() } else { near };
    let above = if f64::from(near) < exact { near.next_up() } else { near };
    match mode {
        "rm" => below,
        "rp" => above,
        "rz" if exact > 0.0 => below,
        "rz" => above,
        _ => near,
    }
}

const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

fn same_single(result: u64, wanted: f32) -> bool {
    let result = f32::from_bits(result as u32);
    result.to_bits() == wanted.to_bits() || result.is_nan() && wanted.is_nan()
}

#[test]
fn single_products_round_in_all_directions() {
    let inputs = singles(1);
    for mode in MODES {
        let got = results(
            &format!("mul.{mode}.f32 %f9, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;"),
            &inputs,
        );
        for ([a, b, _], result) in inputs.iter().zip(got) {
            let exact = single(*a) * single(*b);
            let wanted = round_to_single(exact, mode);
            // Products beyond the range end at the largest number or at infinity, as the direction says.
            let overflow = exact.is_finite() && exact.abs() > f64::from(f32::MAX) && !exact.is_nan();
            assert!(
                overflow || same_single(result, wanted),
                "{mode} {a:x} {b:x}: {result:x}, not {:x}",
                wanted.to_bits()
            );
        }
    }
}

#[test]
fn single_sums_round_in_all_directions() {
    let inputs = singles(2);
    for mode in MODES {
        let got = results(
            &format!("add.{mode}.f32 %f9, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;"),
            &inputs,
        );
        let mut compared = 0;
        for ([a, b, _], result) in inputs.iter().zip(got) {
            let (a, b) = (single(*a), single(*b));
            let exact = a + b;
            if exact - a != b || exact - b != a || exact == 0.0 {
                // Not exact in double precision, so of no use as a reference.
                continue;
            }
            compared += 1;
            let wanted = round_to_single(exact, mode);
            assert!(
                same_single(result, wanted),
                "{mode} {a:e} + {b:e}: {result:x}, not {:x}",
                wanted.to_bits()
            );
        }
        assert!(compared > COUNT / 2);
    }
}

#[test]
fn double_quotients_and_roots_bracket_the_exact_value() {
    let inputs = doubles(3);
    let run = |code: &str| -> Vec<f64> { results(code, &inputs).into_iter().map(f64::from_bits).collect() };
    let down = run("div.rm.f64 %fd9, %fd1, %fd2; mov.b64 %rd9, %fd9;");
    let up = run("div.rp.f64 %fd9, %fd1, %fd2; mov.b64 %rd9, %fd9;");
    for (([a, b, _], down), up) in inputs.iter().zip(down).zip(up) {
        let (a, b) = (f64::from_bits(*a), f64::from_bits(*b));
        // The remainder of a rounded quotient is exact with a fused multiplication.
        let sign = if b < 0.0 { -1.0 } else { 1.0 };
        assert!((-down).mul_add(b, a) * sign >= 0.0, "{a:e} / {b:e} rounded down to {down:e}");
        assert!((-up).mul_add(b, a) * sign <= 0.0, "{a:e} / {b:e} rounded up to {up:e}");
        assert!(up == down || up == down.next_up());
    }
    let down = run("abs.f64 %fd8, %fd1; sqrt.rm.f64 %fd9, %fd8; mov.b64 %rd9, %fd9;");
    let up = run("abs.f64 %fd8, %fd1; sqrt.rp.f64 %fd9, %fd8; mov.b64 %rd9, %fd9;");
    for (([a, ..], down), up) in inputs.iter().zip(down).zip(up) {
        let a = f64::from_bits(*a).abs();
        assert!(
            (-down).mul_add(down, a) >= 0.0 && (-up).mul_add(up, a) <= 0.0,
            "root of {a:e}: {down:e}, {up:e}"
        );
        assert!(up == down || up == down.next_up());
    }
}

#[test]
fn fused_multiplication_rounds_once() {
    let inputs = doubles(4);
    let got = results("fma.rn.f64 %fd9, %fd1, %fd2, %fd3; mov.b64 %rd9, %fd9;", &inputs);
    let directed: Vec<Vec<u64>> = ["rm", "rp"]
        .iter()
        .map(|mode| results(&format!("fma.{mode}.f64 %fd9, %fd1, %fd2, %fd3; mov.b64 %rd9, %fd9;"), &inputs))
        .collect();
    for (i, ([a, b, c], result)) in inputs.iter().zip(got).enumerate() {
        let [a, b, c] = [*a, *b, *c].map(f64::from_bits);
        let wanted = a.mul_add(b, c);
        assert_eq!(result, wanted.to_bits());
        let (down, up) = (f64::from_bits(directed[0][i]), f64::from_bits(directed[1][i]));
        assert!(down <= wanted && wanted <= up && (up == down || up == down.next_up()), "{a:e} {b:e} {c:e}");
    }
}

#[test]
fn subnormals_are_flushed_only_where_asked() {
    let tiny = u64::from(f32::from_bits(3).to_bits());
    let inputs = [[tiny, u64::from(1f32.to_bits()), 0]];
    let code = |op: &str| format!("{op} %f9, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;");
    assert_eq!(results(&code("mul.f32"), &inputs), [3]);
    assert_eq!(results(&code("mul.ftz.f32"), &inputs), [0]);
    let negative = [[tiny | 1 << 31, u64::from(1f32.to_bits()), 0]];
    assert_eq!(results(&code("mul.ftz.f32"), &negative), [1 << 31]);
}

#[test]
fn minimum_ignores_nan_and_orders_zeros() {
    let bits = |x: f32| u64::from(x.to_bits());
    let inputs = [
        [bits(f32::NAN), bits(2.0), 0],
        [bits(-0.0), bits(0.0), 0],
        [bits(0.0), bits(-0.0), 0],
        [bits(f32::NAN), bits(f32::NAN), 0],
        [bits(3.0), bits(-7.0), 0],
    ];
    let code = |op: &str| format!("{op} %f9, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;");
    assert_eq!(
        results(&code("min.f32"), &inputs),
        [bits(2.0), bits(-0.0), bits(-0.0), 0x7fff_ffff, bits(-7.0)]
    );
    assert_eq!(results(&code("max.f32"), &inputs), [bits(2.0), 0, 0, 0x7fff_ffff, bits(3.0)]);
    assert_eq!(results(&code("max.NaN.f32"), &inputs)[0], 0x7fff_ffff);
}

#[test]
fn saturation_clamps_to_the_unit_interval() {
    let bits = |x: f32| u64::from(x.to_bits());
    let inputs = [
        [bits(0.75), bits(0.5), 0],
        [bits(-1.0), bits(0.5), 0],
        [bits(f32::NAN), bits(1.0), 0],
        [bits(0.25), bits(0.5), 0],
    ];
    let code = "add.sat.f32 %f9, %f1, %f2; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;";
    assert_eq!(results(code, &inputs), [bits(1.0), 0, 0, bits(0.75)]);
}

#[test]
fn floats_become_integers_with_rounding_and_saturation() {
    let values =
        [0.5f32, 1.5, 2.5, -0.5, -1.5, -2.5, 1e20, -1e20, f32::NAN, f32::INFINITY, 2_147_483_520.0, 1e-40];
    let inputs: Vec<[u64; 3]> = values.iter().map(|x| [u64::from(x.to_bits()), 0, 0]).collect();
    let run = |op: &str| results(&format!("{op} %r9, %f1; cvt.s64.s32 %rd9, %r9;"), &inputs);
    let signed = |f: &dyn Fn(f32) -> f32| -> Vec<u64> {
        values.iter().map(|x| i64::from(f(*x) as i32).cast_unsigned()).collect()
    };
    assert_eq!(run("cvt.rni.s32.f32"), signed(&f32::round_ties_even));
    assert_eq!(run("cvt.rzi.s32.f32"), signed(&f32::trunc));
    assert_eq!(run("cvt.rmi.s32.f32"), signed(&f32::floor));
    assert_eq!(run("cvt.rpi.s32.f32"), signed(&f32::ceil));
    let wide = results("cvt.rzi.u64.f32 %rd9, %f1;", &inputs);
    for (x, result) in values.iter().zip(wide) {
        assert_eq!(result, if x.is_nan() { 1 << 63 } else { *x as u64 }, "{x}");
    }
}

#[test]
fn floats_round_to_integral_values() {
    let inputs = singles(5);
    for (mode, f) in [
        ("rni", f32::round_ties_even as fn(f32) -> f32),
        ("rzi", f32::trunc),
        ("rmi", f32::floor),
        ("rpi", f32::ceil),
    ] {
        let code = format!("cvt.{mode}.f32.f32 %f9, %f1; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;");
        for ([a, ..], result) in inputs.iter().zip(results(&code, &inputs)) {
            assert!(same_single(result, f(f32::from_bits(*a as u32))), "{mode} of {a:x}: {result:x}");
        }
    }
}

#[test]
fn integers_become_floats_in_all_directions() {
    let mut random = Random::new(6);
    let inputs: Vec<[u64; 3]> = (0..COUNT).map(|_| [u64::from(random.word()), 0, 0]).collect();
    for mode in MODES {
        let code = format!(
            "cvt.u32.u64 %r1, %rd1; cvt.{mode}.f32.s32 %f9, %r1; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;"
        );
        for ([a, ..], result) in inputs.iter().zip(results(&code, &inputs)) {
            let wanted = round_to_single(f64::from((*a as u32).cast_signed()), mode);
            assert!(same_single(result, wanted), "{mode} of {a:x}: {result:x}");
        }
    }
}

/// The value of an `f16`, from its definition.
fn half_value(bits: u64) -> f64 {
    let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
    let fraction = (bits & 0x3ff) as f64;
    match bits >> 10 & 31 {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent as i32 - 15),
    }
}

#[test]
fn every_half_converts_to_single_and_back() {
    for start in (0..0x1_0000u64).step_by(COUNT) {
        let inputs: Vec<[u64; 3]> = (start..start + COUNT as u64).map(|bits| [bits, 0, 0]).collect();
        let code = "cvt.f32.f16 %f9, %h1; mov.b32 %r9, %f9; cvt.rn.f16.f32 %h9, %f9; cvt.u32.u16 %r10, %h9;
                    mov.b64 %rd9, {%r9, %r10};";
        for ([bits, ..], result) in inputs.iter().zip(results(code, &inputs)) {
            let value = half_value(*bits);
            assert!(same_single(result, value as f32), "{bits:x}: {result:x}");
            assert!(value.is_nan() || result >> 32 == *bits, "{bits:x} came back as {:x}", result >> 32);
        }
    }
}

#[test]
fn singles_round_to_the_nearest_half() {
    let mut random = Random::new(7);
    let inputs: Vec<[u64; 3]> = (0..COUNT)
        .map(|_| {
            [
                u64::from(
                    ((random.next() as f32 / u64::MAX as f32 - 0.5)
                        * 2f32.powi((random.next() % 40) as i32 - 24))
                    .to_bits(),
                ),
                0,
                0,
            ]
        })
        .collect();
    let code = "cvt.rn.f16.f32 %h9, %f1; cvt.u64.u16 %rd9, %h9;";
    for ([a, ..], result) in inputs.iter().zip(results(code, &inputs)) {
        let (exact, got) = (single(*a), half_value(result));
        if got.is_infinite() {
            assert!(exact.abs() >= 65520.0);
            continue;
        }
        // No neighbour is nearer.
        for neighbour in [result.wrapping_sub(1), result + 1] {
            let other = half_value(neighbour & 0xffff);
            assert!(!other.is_finite() || (got - exact).abs() <= (other - exact).abs() || other * got < 0.0);
        }
    }
}

#[test]
fn half_arithmetic_is_rounded_from_the_exact_result() {
    let mut random = Random::new(8);
    let mut one = || random.next() & 0x83ff | (10 + random.next() % 10) << 10;
    let inputs: Vec<[u64; 3]> = (0..COUNT).map(|_| [one(), one(), one()]).collect();
    for (op, f) in [
        ("add.f16 %h9, %h1, %h2", (|a, b, _| a + b) as fn(f64, f64, f64) -> f64),
        ("mul.f16 %h9, %h1, %h2", |a, b, _| a * b),
        ("fma.rn.f16 %h9, %h1, %h2, %h3", |a, b, c| a * b + c),
    ] {
        for ([a, b, c], result) in
            inputs.iter().zip(results(&format!("{op}; cvt.u64.u16 %rd9, %h9;"), &inputs))
        {
            let exact = f(half_value(*a), half_value(*b), half_value(*c));
            let got = half_value(result);
            for neighbour in [result.wrapping_sub(1), result + 1] {
                let other = half_value(neighbour & 0xffff);
                assert!(
                    (got - exact).abs() <= (other - exact).abs() || other * got < 0.0,
                    "{op}: {a:x} {b:x} {c:x}"
                );
            }
        }
    }
}

#[test]
fn packed_halves_are_computed_apart() {
    // 1.5 and -2.0 in f16, 1.5 and -2.0 in bf16.
    let inputs = [[0xc000_3e00, 0, 0]];
    let code = "cvt.u32.u64 %r1, %rd1; mul.f16x2 %r9, %r1, %r1; cvt.u64.u32 %rd9, %r9;";
    assert_eq!(results(code, &inputs), [0x4400_4080]);
    let code = "cvt.u32.u64 %r1, %rd1; neg.f16x2 %r9, %r1; cvt.u64.u32 %rd9, %r9;";
    assert_eq!(results(code, &inputs), [0x4000_be00]);
    let code = "cvt.rn.bf16x2.f32 %r9, %f1, %f2; cvt.u64.u32 %rd9, %r9;";
    let inputs = [[u64::from(1.5f32.to_bits()), u64::from((-2.0f32).to_bits()), 0]];
    assert_eq!(results(code, &inputs), [0x3fc0_c000]);
}

#[test]
fn approximate_functions_are_near_the_exact_ones() {
    let inputs: Vec<[u64; 3]> =
        (1..500u16).map(|i| [u64::from((f32::from(i) * 0.037).to_bits()), 0, 0]).collect();
    for (op, f) in [
        ("sin.approx.f32", f64::sin as fn(f64) -> f64),
        ("cos.approx.f32", f64::cos),
        ("lg2.approx.f32", f64::log2),
        ("ex2.approx.ftz.f32", f64::exp2),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("rcp.approx.ftz.f32", |x| 1.0 / x),
        ("sqrt.approx.f32", f64::sqrt),
        ("tanh.approx.f32", f64::tanh),
    ] {
        let code = format!("{op} %f9, %f1; mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;");
        for ([a, ..], result) in inputs.iter().zip(results(&code, &inputs)) {
            let (exact, got) = (f(single(*a)), single(result));
            assert!(
                (got - exact).abs() <= 1e-6 * exact.abs().max(1.0),
                "{op} of {}: {got}, not {exact}",
                single(*a)
            );
        }
    }
}

#[test]
fn unordered_comparisons_are_true_for_nan() {
    let bits = |x: f32| u64::from(x.to_bits());
    let inputs = [[bits(f32::NAN), bits(1.0), 0], [bits(1.0), bits(1.0), 0], [bits(1.0), bits(2.0), 0]];
    let run = |op: &str| results(&format!("setp.{op}.f32 %p1, %f1, %f2; selp.u64 %rd9, 1, 0, %p1;"), &inputs);
    assert_eq!(run("lt"), [0, 0, 1]);
    assert_eq!(run("ltu"), [1, 0, 1]);
    assert_eq!(run("ne"), [0, 0, 1]);
    assert_eq!(run("neu"), [1, 0, 1]);
    assert_eq!(run("equ"), [1, 1, 0]);
    assert_eq!(run("num"), [0, 1, 1]);
    assert_eq!(run("nan"), [1, 0, 0]);
}
