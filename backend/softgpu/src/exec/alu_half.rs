//! Half precision: `f16`, `bf16` and their packed pairs (PTX section 9.7.4).

use super::alu_float::{pick, saturate};
use super::inst::{Mods, ScalarFn};
use super::soft::{self, BF16, F16, F32, Format, Round};
use crate::ptx::types::Ty;

/// The format of a half type, packed or not.
pub(crate) fn format(ty: Ty) -> Option<Format> {
    match ty {
        Ty::F16 | Ty::F16x2 => Some(F16),
        Ty::Bf16 | Ty::Bf16x2 => Some(BF16),
        _ => None,
    }
}

pub(crate) fn to_single(half: u16, format: Format) -> f32 {
    if format == BF16 {
        return f32::from_bits(u32::from(half) << 16);
    }
    f32::from_bits(soft::convert(u64::from(half), format, F32, Round::Nearest) as u32)
}

fn from_single(value: f32, format: Format) -> u16 {
    soft::convert(u64::from(value.to_bits()), F32, format, Round::Nearest) as u16
}

/// The nearest `f16`.
pub(crate) fn narrow(value: f32) -> u16 {
    from_single(value, F16)
}

/// Functions of a lane on half types: name without modifiers, number of sources.
pub(crate) fn scalar(name: &str, ty: Ty) -> Option<(ScalarFn, usize)> {
    format(ty)?;
    Some(match name {
        "add" => (|m, s| apply(m, s, |f, a, b, _| wide(f, a, b, |a, b| a + b)), 2),
        "sub" => (|m, s| apply(m, s, |f, a, b, _| wide(f, a, b, |a, b| a - b)), 2),
        "mul" => (|m, s| apply(m, s, |f, a, b, _| wide(f, a, b, |a, b| a * b)), 2),
        "fma" => (|m, s| apply(m, s, fused), 3),
        "neg" => (|m, s| bits(m, s, |a| a ^ 0x8000), 1),
        "abs" => (|m, s| bits(m, s, |a| a & 0x7fff), 1),
        "min" => (|m, s| extreme(false, m, s), 2),
        "max" => (|m, s| extreme(true, m, s), 2),
        "ex2" => (|m, s| apply(m, s, |f, a, _, _| wide(f, a, a, |a, _| f64::from(a).exp2() as f32)), 1),
        "tanh" => (|m, s| apply(m, s, |f, a, _, _| wide(f, a, a, |a, _| f64::from(a).tanh() as f32)), 1),
        _ => return None,
    })
}

fn fused(format: Format, a: u16, b: u16, c: u16) -> u16 {
    soft::fma(u64::from(a), u64::from(b), u64::from(c), format, Round::Nearest) as u16
}

/// Computed in single precision, which has enough bits that the second rounding does no harm.
fn wide(format: Format, a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    from_single(f(to_single(a, format), to_single(b, format)), format)
}

fn flush(mods: &Mods, half: u16) -> u16 {
    if mods.ftz && half & 0x7c00 == 0 && mods.ty != Ty::Bf16 && mods.ty != Ty::Bf16x2 {
        half & 0x8000
    } else {
        half
    }
}

fn each(mods: &Mods, s: [u64; 4], f: impl Fn([u16; 3]) -> u16) -> u64 {
    let part = |shift: u32| [0, 1, 2].map(|i: usize| (s[i] >> shift) as u16);
    let low = u64::from(f(part(0)));
    if matches!(mods.ty, Ty::F16x2 | Ty::Bf16x2) { low | u64::from(f(part(16))) << 16 } else { low }
}

fn bits(mods: &Mods, s: [u64; 4], f: impl Fn(u16) -> u16) -> u64 {
    each(mods, s, |[a, _, _]| f(flush(mods, a)))
}

fn finish(mods: &Mods, format: Format, half: u16) -> u16 {
    let value = to_single(half, format);
    if value.is_nan() && !mods.sat {
        return 0x7fff;
    }
    if mods.sat {
        return from_single(saturate(f64::from(value)) as f32, format);
    }
    if mods.relu && (value < 0.0 || half == 0x8000) {
        return 0;
    }
    flush(mods, half)
}

fn apply(mods: &Mods, s: [u64; 4], f: impl Fn(Format, u16, u16, u16) -> u16) -> u64 {
    let format = format(mods.ty).unwrap_or(F16);
    each(mods, s, |parts| {
        let [a, b, c] = parts.map(|half| flush(mods, half));
        finish(mods, format, f(format, a, b, c))
    })
}

fn extreme(max: bool, mods: &Mods, s: [u64; 4]) -> u64 {
    apply(mods, s, |format, a, b, _| {
        let (mut x, mut y) = (f64::from(to_single(a, format)), f64::from(to_single(b, format)));
        let xor_sign = mods.extra == 1;
        if xor_sign {
            (x, y) = (x.abs(), y.abs());
        }
        let result = from_single(pick(max, mods.nan, x, y) as f32, format);
        if xor_sign { result & 0x7fff | (a ^ b) & 0x8000 } else { result }
    })
}
