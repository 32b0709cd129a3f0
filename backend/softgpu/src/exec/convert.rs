//! `cvt` between all types (PTX section 9.7.9.21).

use super::alu_half;
use super::inst::{Mods, ScalarFn};
use super::lanes::{Fn1, Lane, un};
use super::soft::{self, F32, F64, Format, Parts, Round};
use crate::ptx::types::Ty;

pub(crate) fn format(ty: Ty) -> Option<Format> {
    match ty {
        Ty::F32 => Some(F32),
        Ty::F64 => Some(F64),
        _ => alu_half::format(ty),
    }
}

/// Warp-wide loops for the conversions that programs are full of.
pub(crate) fn fast(mods: &Mods) -> Option<Fn1> {
    if mods.sat || mods.ftz || mods.relu {
        return None;
    }
    let nearest = mods.round == Round::Nearest;
    Some(match (mods.ty, mods.from) {
        (to, from) if !to.is_float() && !from.is_float() && to.bits() < from.bits() => match to {
            Ty::U8 => un!(u8 => u64, |a| u64::from(a)),
            Ty::S8 => un!(i8 => i64, |a| i64::from(a)),
            Ty::U16 => un!(u16 => u64, |a| u64::from(a)),
            Ty::S16 => un!(i16 => i64, |a| i64::from(a)),
            Ty::U32 | Ty::S32 => un!(u64, |a| a),
            _ => return None,
        },
        (to, from) if !to.is_float() && !from.is_float() && to.bits() >= 32 => match from {
            Ty::U8 => un!(u8 => u64, |a| u64::from(a)),
            Ty::S8 => un!(i8 => i64, |a| i64::from(a)),
            Ty::U16 => un!(u16 => u64, |a| u64::from(a)),
            Ty::S16 => un!(i16 => i64, |a| i64::from(a)),
            Ty::U32 => un!(u32 => u64, |a| u64::from(a)),
            Ty::S32 => un!(i32 => i64, |a| i64::from(a)),
            Ty::U64 | Ty::S64 => un!(u64, |a| a),
            _ => return None,
        },
        (Ty::F32, Ty::S32) if nearest => un!(i32 => f32, |a| a as f32),
        (Ty::F32, Ty::U32) if nearest => un!(u32 => f32, |a| a as f32),
        (Ty::F32, Ty::S64) if nearest => un!(i64 => f32, |a| a as f32),
        (Ty::F32, Ty::U64) if nearest => un!(u64 => f32, |a| a as f32),
        (Ty::F64, Ty::S32) => un!(i32 => f64, |a| f64::from(a)),
        (Ty::F64, Ty::U32) => un!(u32 => f64, |a| f64::from(a)),
        (Ty::F64, Ty::S64) if nearest => un!(i64 => f64, |a| a as f64),
        (Ty::F64, Ty::U64) if nearest => un!(u64 => f64, |a| a as f64),
        (Ty::F64, Ty::F32) if !mods.integral => un!(f32 => f64, |a| f64::from(a)),
        // Rust's `as` truncates, saturates, and makes 0 of NaN, as the hardware does for 32 bits.
        (Ty::S32, Ty::F32) if mods.round == Round::Zero => un!(f32 => i32, |a| a as i32),
        (Ty::U32, Ty::F32) if mods.round == Round::Zero => un!(f32 => u32, |a| a as u32),
        _ => return None,
    })
}

pub(crate) const ANY: ScalarFn = convert;

/// One lane of any conversion.
pub(crate) fn convert(mods: &Mods, [a, ..]: [u64; 4]) -> u64 {
    match (format(mods.from), format(mods.ty)) {
        (Some(from), Some(to)) => float_to_float(mods, a, from, to),
        (Some(from), None) => float_to_int(mods, a, from),
        (None, Some(to)) => int_to_float(mods, a, to),
        (None, None) => int_to_int(mods, a),
    }
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` to the upper half.
pub(crate) fn convert_pair(mods: &Mods, [a, b, ..]: [u64; 4]) -> u64 {
    let high = convert(mods, [a, 0, 0, 0]) & 0xffff;
    let low = convert(mods, [b, 0, 0, 0]) & 0xffff;
    high << 16 | low
}

/// The integer value of a register of type `ty`.
fn integer(bits: u64, ty: Ty) -> i128 {
    match ty {
        Ty::S8 => i128::from(i8::get(bits)),
        Ty::S16 => i128::from(i16::get(bits)),
        Ty::S32 => i128::from(i32::get(bits)),
        Ty::S64 => i128::from(i64::get(bits)),
        _ if ty.bits() >= 64 => i128::from(bits),
        _ => i128::from(bits & ((1 << ty.bits()) - 1)),
    }
}

/// The least and the greatest value of an integer type.
fn limits(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn low_bits(value: i128) -> u64 {
    value.cast_unsigned() as u64
}

fn int_to_int(mods: &Mods, a: u64) -> u64 {
    let value = integer(a, mods.from);
    let (least, most) = limits(mods.ty);
    narrow(if mods.sat { value.clamp(least, most) } else { value }, mods.ty)
}

/// The low bits of `value`, extended to the width of the register as the type says.
fn narrow(value: i128, ty: Ty) -> u64 {
    low_bits(integer(low_bits(value), ty))
}

fn int_to_float(mods: &Mods, a: u64, to: Format) -> u64 {
    let value = integer(a, mods.from);
    let magnitude = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
    let bits = soft::from_integer(value < 0, magnitude, to, mods.round);
    finish(mods, bits, to)
}

fn float_to_int(mods: &Mods, a: u64, from: Format) -> u64 {
    let bits = mods.ty.bits();
    let (least, most) = limits(mods.ty);
    match soft::unpack(flushed(mods, a, from), from) {
        // The "integer indefinite" of the wide conversions; the others make 0.
        Parts::Nan if bits == 64 => 1 << 63,
        Parts::Nan if bits == 32 && from == F64 => 1 << 31,
        Parts::Nan | Parts::Zero(_) => 0,
        Parts::Infinity(negative) => low_bits(if negative { least } else { most }),
        Parts::Finite(number) => low_bits(soft::to_integer(number, mods.round).clamp(least, most)),
    }
}

/// `.ftz` concerns single precision alone.
fn flushed(mods: &Mods, bits: u64, format: Format) -> u64 {
    if mods.ftz && format == F32 && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

fn float_to_float(mods: &Mods, a: u64, from: Format, to: Format) -> u64 {
    let a = flushed(mods, a, from);
    if mods.integral {
        return finish(mods, integral(mods, a, from, to), to);
    }
    if from == to && !mods.sat && !mods.relu && !mods.ftz {
        return a;
    }
    finish(mods, soft::convert(a, from, to, mods.round), to)
}

/// Rounds to an integral value of the same format.
fn integral(mods: &Mods, a: u64, from: Format, to: Format) -> u64 {
    match soft::unpack(a, from) {
        Parts::Finite(number) if number.exponent < 0 => {
            let value = soft::to_integer(number, mods.round);
            let magnitude = u64::try_from(value.unsigned_abs()).unwrap_or(u64::MAX);
            let bits = soft::from_integer(number.negative, magnitude, to, Round::Nearest);
            if bits != 0 { bits } else { soft::convert(sign_only(a, from), from, to, Round::Nearest) }
        }
        _ => soft::convert(a, from, to, Round::Nearest),
    }
}

fn sign_only(bits: u64, format: Format) -> u64 {
    bits & 1 << (format.exponent_bits + format.fraction_bits)
}

fn finish(mods: &Mods, bits: u64, to: Format) -> u64 {
    let sign = 1u64 << (to.exponent_bits + to.fraction_bits);
    let is_nan = bits & (sign - 1) > to.infinity(false);
    let mut bits = flushed(mods, bits, to);
    if (mods.relu || mods.sat) && !is_nan && bits & sign != 0 {
        bits = 0;
    }
    if mods.sat {
        let one = soft::from_integer(false, 1, to, Round::Nearest);
        return if is_nan { 0 } else { bits.min(one) };
    }
    bits
}

/// `cvt.pack.sat.ty.s32`: `a` above `b`, above the lower part of `c` for 8 bits and less.
pub(crate) fn pack(mods: &Mods, [a, b, c, _]: [u64; 4]) -> u64 {
    let (least, most) = limits(mods.ty);
    let bits = mods.ty.bits();
    let part = |x: u64| low_bits(i128::from(i32::get(x)).clamp(least, most)) & ((1 << bits) - 1);
    let both = part(a) << bits | part(b);
    let above = if bits < 16 { (c << (2 * bits)) & 0xffff_ffff } else { 0 };
    above | both
}
