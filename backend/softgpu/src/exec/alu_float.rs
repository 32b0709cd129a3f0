//! Single and double precision arithmetic (PTX section 9.7.3).
//!
//! The common forms are warp-wide loops; everything with another rounding mode or saturation goes lane by lane
//! through `soft`.

use super::inst::{Mods, ScalarFn};
use super::lanes::{Fn1, Fn2, Fn3, bin, tri, un};
use super::soft::{self, F32, F64, Round};
use crate::ptx::types::Ty;

/// The NaN that single-precision instructions return.
#[inline(always)]
fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value }
}

/// Subnormals become zeros of the same sign.
#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    let bits = value.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { value }
}

/// Clamps to [0, 1]; NaN becomes 0.
pub(crate) fn saturate(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

pub(crate) fn unary(name: &str, ty: Ty, ftz: bool) -> Option<Fn1> {
    Some(match (name, ty, ftz) {
        ("neg", Ty::F32, false) => un!(u32, |a| a ^ 0x8000_0000),
        ("neg", Ty::F32, true) => un!(f32, |a| -flush(a)),
        ("neg", Ty::F64, _) => un!(u64, |a| a ^ (1 << 63)),
        ("abs", Ty::F32, false) => un!(u32, |a| a & 0x7fff_ffff),
        ("abs", Ty::F32, true) => un!(f32, |a| flush(a).abs()),
        ("abs", Ty::F64, _) => un!(u64, |a| a & !(1 << 63)),
        ("sqrt.rn", Ty::F32, false) => un!(f32, |a| canonical(a.sqrt())),
        ("sqrt.rn", Ty::F64, _) => un!(f64, |a| a.sqrt()),
        ("rcp.rn", Ty::F32, false) => un!(f32, |a| canonical(1.0 / a)),
        ("rcp.rn", Ty::F64, _) => un!(f64, |a| 1.0 / a),
        _ => return None,
    })
}

pub(crate) fn binary(name: &str, ty: Ty, ftz: bool) -> Option<Fn2> {
    Some(match (name, ty, ftz) {
        ("add.rn", Ty::F32, false) => bin!(f32, |a, b| canonical(a + b)),
        ("add.rn", Ty::F32, true) => bin!(f32, |a, b| flush(canonical(flush(a) + flush(b)))),
        ("sub.rn", Ty::F32, false) => bin!(f32, |a, b| canonical(a - b)),
        ("sub.rn", Ty::F32, true) => bin!(f32, |a, b| flush(canonical(flush(a) - flush(b)))),
        ("mul.rn", Ty::F32, false) => bin!(f32, |a, b| canonical(a * b)),
        ("mul.rn", Ty::F32, true) => bin!(f32, |a, b| flush(canonical(flush(a) * flush(b)))),
        ("div.rn", Ty::F32, false) => bin!(f32, |a, b| canonical(a / b)),
        ("div.rn", Ty::F32, true) => bin!(f32, |a, b| flush(canonical(flush(a) / flush(b)))),
        ("add.rn", Ty::F64, _) => bin!(f64, |a, b| a + b),
        ("sub.rn", Ty::F64, _) => bin!(f64, |a, b| a - b),
        ("mul.rn", Ty::F64, _) => bin!(f64, |a, b| a * b),
        ("div.rn", Ty::F64, _) => bin!(f64, |a, b| a / b),
        ("copysign", Ty::F32, _) => bin!(u32, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        ("copysign", Ty::F64, _) => bin!(u64, |a, b| a & (1 << 63) | b & !(1 << 63)),
        _ => return None,
    })
}

pub(crate) fn ternary(name: &str, ty: Ty, ftz: bool) -> Option<Fn3> {
    Some(match (name, ty, ftz) {
        ("fma.rn", Ty::F32, false) => tri!(f32, |a, b, c| canonical(a.mul_add(b, c))),
        ("fma.rn", Ty::F32, true) => {
            tri!(f32, |a, b, c| flush(canonical(flush(a).mul_add(flush(b), flush(c)))))
        }
        ("fma.rn", Ty::F64, _) => tri!(f64, |a, b, c| a.mul_add(b, c)),
        _ => return None,
    })
}

/// What the lane-by-lane functions do, in `Mods::extra`, low byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounded {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
}

fn rounded(op: Rounded, mods: &Mods, s: [u64; 4]) -> u64 {
    let format = if mods.ty == Ty::F64 { F64 } else { F32 };
    let input = |bits: u64| if format == F32 { single_input(mods, bits) } else { bits };
    let [a, b, c] = [input(s[0]), input(s[1]), input(s[2])];
    let sign = if format == F32 { 1 << 31 } else { 1 << 63 };
    let round = mods.round;
    let result = match op {
        Rounded::Add => soft::add(a, b, format, round),
        Rounded::Sub => soft::add(a, b ^ sign, format, round),
        Rounded::Mul => soft::mul(a, b, format, round),
        Rounded::Fma => soft::fma(a, b, c, format, round),
        Rounded::Div => soft::div(a, b, format, round),
        Rounded::Rcp => soft::div(if format == F32 { 0x3f80_0000 } else { 0x3ff0 << 48 }, a, format, round),
        Rounded::Sqrt => soft::sqrt(a, format, round),
    };
    if format == F32 { single_output(mods, f32::from_bits(result as u32)) } else { result }
}

fn single_input(mods: &Mods, bits: u64) -> u64 {
    let bits = bits as u32;
    u64::from(if mods.ftz { flush(f32::from_bits(bits)).to_bits() } else { bits })
}

/// The end of every single-precision instruction: saturation, flushing, canonical NaN.
fn single_output(mods: &Mods, value: f32) -> u64 {
    let mut value = value;
    if mods.relu {
        value = if value.is_nan() { value } else { value.max(0.0) };
    }
    if mods.sat {
        value = saturate(f64::from(value)) as f32;
    }
    if mods.ftz {
        value = flush(value);
    }
    u64::from(canonical(value).to_bits())
}

/// Functions of a lane: name without rounding and saturation, number of sources.
pub(crate) fn scalar(name: &str, ty: Ty) -> Option<(ScalarFn, usize)> {
    if !matches!(ty, Ty::F32 | Ty::F64) {
        return None;
    }
    Some(match name {
        "add" => (|m, s| rounded(Rounded::Add, m, s), 2),
        "sub" => (|m, s| rounded(Rounded::Sub, m, s), 2),
        "mul" => (|m, s| rounded(Rounded::Mul, m, s), 2),
        "fma" | "mad" => (|m, s| rounded(Rounded::Fma, m, s), 3),
        "div" => (|m, s| rounded(Rounded::Div, m, s), 2),
        "rcp" => (|m, s| rounded(Rounded::Rcp, m, s), 1),
        "sqrt" => (|m, s| rounded(Rounded::Sqrt, m, s), 1),
        "min" => (|m, s| min_max(false, m, s), 2),
        "max" => (|m, s| min_max(true, m, s), 2),
        _ => return None,
    })
}

fn min_max(max: bool, mods: &Mods, s: [u64; 4]) -> u64 {
    if mods.ty == Ty::F64 {
        return pick(max, false, f64::from_bits(s[0]), f64::from_bits(s[1])).to_bits();
    }
    let mut a = f64::from(f32::from_bits(single_input(mods, s[0]) as u32));
    let mut b = f64::from(f32::from_bits(single_input(mods, s[1]) as u32));
    let xor_sign = mods.extra == 1;
    let negative = a.is_sign_negative() != b.is_sign_negative();
    if xor_sign {
        (a, b) = (a.abs(), b.abs());
    }
    let mut result = pick(max, mods.nan, a, b) as f32;
    if xor_sign && !result.is_nan() {
        result = if negative { -result.abs() } else { result.abs() };
    }
    single_output(mods, result)
}

/// Minimum or maximum as PTX defines it: NaN loses unless `nan`, and −0 is less than +0.
pub(crate) fn pick(max: bool, nan: bool, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        if nan || (a.is_nan() && b.is_nan()) {
            return f64::NAN;
        }
        return if a.is_nan() { b } else { a };
    }
    let a_first = if a == b { a.is_sign_negative() } else { a < b };
    if a_first != max { a } else { b }
}

/// The `.approx` and `.full` functions, at least as exact as the hardware's.
pub(crate) fn approximate(name: &str, ty: Ty) -> Option<(ScalarFn, usize)> {
    Some(match (name, ty) {
        ("div", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, b| a / b), 2),
        ("rcp", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| 1.0 / a), 1),
        ("sqrt", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.sqrt()), 1),
        ("rsqrt", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| 1.0 / a.sqrt()), 1),
        ("sin", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.sin()), 1),
        ("cos", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.cos()), 1),
        ("lg2", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.log2()), 1),
        ("ex2", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.exp2()), 1),
        ("tanh", Ty::F32) => (|m, [a, b, _, _]| single(m, [a, b], |a, _| a.tanh()), 1),
        ("rcp", Ty::F64) => (|m, [a, ..]| coarse(m, a, |a| 1.0 / a), 1),
        ("rsqrt", Ty::F64) => (|m, [a, ..]| coarse(m, a, |a| 1.0 / a.sqrt()), 1),
        _ => return None,
    })
}

fn single(mods: &Mods, s: [u64; 2], f: impl Fn(f64, f64) -> f64) -> u64 {
    let [a, b] = s.map(|bits| f64::from(f32::from_bits(single_input(mods, bits) as u32)));
    single_output(mods, f(a, b) as f32)
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.f64` return the upper half of a double; the lower half is zero.
fn coarse(mods: &Mods, bits: u64, f: impl Fn(f64) -> f64) -> u64 {
    let flush = |value: f64| {
        if mods.ftz && value.is_subnormal() { f64::from_bits(value.to_bits() & 1 << 63) } else { value }
    };
    let value = flush(f(flush(f64::from_bits(bits))));
    if value.is_nan() {
        return F64.nan();
    }
    if value.is_infinite() {
        return value.to_bits();
    }
    value.to_bits().saturating_add(1 << 31) & !0xffff_ffff
}

/// `testp`.
pub(crate) fn test(name: &str, ty: Ty) -> Option<super::lanes::Compare> {
    use super::lanes::compare;
    use std::num::FpCategory;
    Some(match (name, ty) {
        ("finite", Ty::F32) => compare!(f32, |a, _b| a.is_finite()),
        ("infinite", Ty::F32) => compare!(f32, |a, _b| a.is_infinite()),
        ("number", Ty::F32) => compare!(f32, |a, _b| !a.is_nan()),
        ("notanumber", Ty::F32) => compare!(f32, |a, _b| a.is_nan()),
        ("normal", Ty::F32) => compare!(f32, |a, _b| a.classify() == FpCategory::Normal),
        ("subnormal", Ty::F32) => compare!(f32, |a, _b| a.classify() == FpCategory::Subnormal),
        ("finite", Ty::F64) => compare!(f64, |a, _b| a.is_finite()),
        ("infinite", Ty::F64) => compare!(f64, |a, _b| a.is_infinite()),
        ("number", Ty::F64) => compare!(f64, |a, _b| !a.is_nan()),
        ("notanumber", Ty::F64) => compare!(f64, |a, _b| a.is_nan()),
        ("normal", Ty::F64) => compare!(f64, |a, _b| a.classify() == FpCategory::Normal),
        ("subnormal", Ty::F64) => compare!(f64, |a, _b| a.classify() == FpCategory::Subnormal),
        _ => return None,
    })
}

/// The rounding that `.rn`, `.rz`, `.rm`, `.rp` name.
pub(crate) fn rounding(name: &str) -> Option<Round> {
    Some(match name {
        "rn" | "rni" => Round::Nearest,
        "rz" | "rzi" => Round::Zero,
        "rm" | "rmi" => Round::Down,
        "rp" | "rpi" => Round::Up,
        "rna" => Round::Away,
        _ => return None,
    })
}
