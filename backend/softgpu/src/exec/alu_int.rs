//! Integer arithmetic, logic and bit fields (PTX sections 9.7.1, 9.7.2, 9.7.8).

use super::inst::{Mods, ScalarFn};
use super::lanes::{Fn1, Fn2, Fn3, Lane, bin, tri, un};
use crate::ptx::types::Ty;

/// Makes `$body` for the integer type that `$ty` names, `None` for others. `$t` is the type in `$body`.
macro_rules! for_int {
    ($ty:expr, $t:ident => $body:expr) => {
        match $ty {
            Ty::U16 | Ty::B16 => {
                type $t = u16;
                Some($body)
            }
            Ty::S16 => {
                type $t = i16;
                Some($body)
            }
            Ty::U32 | Ty::B32 => {
                type $t = u32;
                Some($body)
            }
            Ty::S32 => {
                type $t = i32;
                Some($body)
            }
            Ty::U64 | Ty::B64 => {
                type $t = u64;
                Some($body)
            }
            Ty::S64 => {
                type $t = i64;
                Some($body)
            }
            _ => None,
        }
    };
}

/// Applies `f` to the 16-bit halves.
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(low) | u32::from(high) << 16
}

fn signed_halves(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    halves(a, b, |a, b| f(a.cast_signed(), b.cast_signed()).cast_unsigned())
}

pub(crate) fn unary(name: &str, ty: Ty) -> Option<Fn1> {
    match name {
        "neg" => for_int!(ty, T => un!(T, |a| a.wrapping_neg())),
        "abs" => match ty {
            Ty::S16 => Some(un!(i16, |a| a.wrapping_abs())),
            Ty::S32 => Some(un!(i32, |a| a.wrapping_abs())),
            Ty::S64 => Some(un!(i64, |a| a.wrapping_abs())),
            _ => None,
        },
        "not" => Some(un!(u64, |a| !a)),
        "cnot" => for_int!(ty, T => un!(T, |a| T::from(a == 0))),
        "popc" => match ty {
            Ty::B32 => Some(un!(u32, |a| a.count_ones())),
            Ty::B64 => Some(un!(u64 => u32, |a| a.count_ones())),
            _ => None,
        },
        "clz" => match ty {
            Ty::B32 => Some(un!(u32, |a| a.leading_zeros())),
            Ty::B64 => Some(un!(u64 => u32, |a| a.leading_zeros())),
            _ => None,
        },
        "brev" => match ty {
            Ty::B32 => Some(un!(u32, |a| a.reverse_bits())),
            Ty::B64 => Some(un!(u64, |a| a.reverse_bits())),
            _ => None,
        },
        "bfind" => bfind(ty),
        "bfind.shiftamt" => bfind_shift(ty),
        _ => None,
    }
}

/// The place of the highest bit that differs from the sign, all ones if there is none.
fn bfind(ty: Ty) -> Option<Fn1> {
    Some(match ty {
        Ty::U32 => un!(u32, |a| 31u32.wrapping_sub(a.leading_zeros())),
        Ty::S32 => un!(i32 => u32, |a| 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros())),
        Ty::U64 => un!(u64 => u32, |a| 63u32.wrapping_sub(a.leading_zeros())),
        Ty::S64 => un!(i64 => u32, |a| 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros())),
        _ => return None,
    })
}

/// How far to shift left to bring that bit to the top.
fn bfind_shift(ty: Ty) -> Option<Fn1> {
    Some(match ty {
        Ty::U32 => un!(u32, |a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        Ty::S32 => un!(i32 => u32, |a| match (a ^ (a >> 31)).leading_zeros() { 32 => u32::MAX, n => n }),
        Ty::U64 => un!(u64 => u32, |a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        Ty::S64 => un!(i64 => u32, |a| match (a ^ (a >> 63)).leading_zeros() { 64 => u32::MAX, n => n }),
        _ => return None,
    })
}

pub(crate) fn binary(name: &str, ty: Ty) -> Option<Fn2> {
    match name {
        "add" => match ty {
            Ty::U16x2 | Ty::S16x2 => Some(bin!(u32, |a, b| halves(a, b, u16::wrapping_add))),
            _ => for_int!(ty, T => bin!(T, |a, b| a.wrapping_add(b))),
        },
        "add.sat" if ty == Ty::S32 => Some(bin!(i32, |a, b| a.saturating_add(b))),
        "sub" => match ty {
            Ty::U16x2 | Ty::S16x2 => Some(bin!(u32, |a, b| halves(a, b, u16::wrapping_sub))),
            _ => for_int!(ty, T => bin!(T, |a, b| a.wrapping_sub(b))),
        },
        "sub.sat" if ty == Ty::S32 => Some(bin!(i32, |a, b| a.saturating_sub(b))),
        "mul.lo" => for_int!(ty, T => bin!(T, |a, b| a.wrapping_mul(b))),
        "mul.hi" => mul_hi(ty),
        "mul.wide" => mul_wide(ty),
        "mul24.lo" => match ty {
            Ty::U32 => Some(bin!(u32, |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))),
            Ty::S32 => Some(bin!(i32, |a, b| (a << 8 >> 8).wrapping_mul(b << 8 >> 8))),
            _ => None,
        },
        "mul24.hi" => match ty {
            Ty::U32 => Some(bin!(u32, |a, b| mul24_hi_unsigned(a, b))),
            Ty::S32 => Some(bin!(i32, |a, b| mul24_hi_signed(a, b))),
            _ => None,
        },
        "div" => divide(ty),
        "rem" => remainder(ty),
        "min" | "max" => min_max(name == "max", ty),
        "min.relu" | "max.relu" => min_max_relu(name == "max.relu", ty),
        "and" => Some(bin!(u64, |a, b| a & b)),
        "or" => Some(bin!(u64, |a, b| a | b)),
        "xor" => Some(bin!(u64, |a, b| a ^ b)),
        "shl" => Some(match ty {
            Ty::B16 => bin!(u32, |a, b| if b > 15 { 0 } else { a << b }),
            Ty::B32 => bin!(u32, |a, b| if b > 31 { 0 } else { a << b }),
            Ty::B64 => bin!(u64, |a, b| shift_left(a, b)),
            _ => return None,
        }),
        "shr" => shift_right(ty),
        _ => None,
    }
}

fn shift_left(a: u64, b: u64) -> u64 {
    let b = b as u32;
    if b > 63 { 0 } else { a << b }
}

fn shift_right(ty: Ty) -> Option<Fn2> {
    Some(match ty {
        Ty::B16 | Ty::U16 => bin!(u32, |a, b| if b > 15 { 0 } else { (a & 0xffff) >> b }),
        Ty::S16 => bin!(u32 => i16, |a, b| (a as u16).cast_signed() >> b.min(15)),
        Ty::B32 | Ty::U32 => bin!(u32, |a, b| if b > 31 { 0 } else { a >> b }),
        Ty::S32 => bin!(u32 => i32, |a, b| a.cast_signed() >> b.min(31)),
        Ty::B64 | Ty::U64 => bin!(u64, |a, b| if b as u32 > 63 { 0 } else { a >> (b as u32) }),
        Ty::S64 => bin!(u64 => i64, |a, b| a.cast_signed() >> (b as u32).min(63)),
        _ => return None,
    })
}

fn mul24_hi_unsigned(a: u32, b: u32) -> u32 {
    ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32
}

fn mul24_hi_signed(a: i32, b: i32) -> i32 {
    ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> 16) as i32
}

fn mul_hi(ty: Ty) -> Option<Fn2> {
    Some(match ty {
        Ty::U16 => bin!(u16, |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        Ty::S16 => bin!(i16, |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        Ty::U32 => bin!(u32, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Ty::S32 => bin!(i32, |a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        Ty::U64 => bin!(u64, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Ty::S64 => bin!(i64, |a, b| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        _ => return None,
    })
}

fn mul_wide(ty: Ty) -> Option<Fn2> {
    Some(match ty {
        Ty::U16 => bin!(u16 => u32, |a, b| u32::from(a) * u32::from(b)),
        Ty::S16 => bin!(i16 => i32, |a, b| i32::from(a) * i32::from(b)),
        Ty::U32 => bin!(u32 => u64, |a, b| u64::from(a) * u64::from(b)),
        Ty::S32 => bin!(i32 => i64, |a, b| i64::from(a) * i64::from(b)),
        _ => return None,
    })
}

/// A quotient by zero is all ones, as on the hardware.
fn divide(ty: Ty) -> Option<Fn2> {
    Some(match ty {
        Ty::U16 => bin!(u16, |a, b| a.checked_div(b).unwrap_or(u16::MAX)),
        Ty::S16 => bin!(i16, |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        Ty::U32 => bin!(u32, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Ty::S32 => bin!(i32, |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        Ty::U64 => bin!(u64, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Ty::S64 => bin!(i64, |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        _ => return None,
    })
}

/// A remainder by zero is the dividend.
fn remainder(ty: Ty) -> Option<Fn2> {
    for_int!(ty, T => bin!(T, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }))
}

fn min_max(max: bool, ty: Ty) -> Option<Fn2> {
    match (ty, max) {
        (Ty::U16x2, false) => Some(bin!(u32, |a, b| halves(a, b, u16::min))),
        (Ty::U16x2, true) => Some(bin!(u32, |a, b| halves(a, b, u16::max))),
        (Ty::S16x2, false) => Some(bin!(u32, |a, b| signed_halves(a, b, i16::min))),
        (Ty::S16x2, true) => Some(bin!(u32, |a, b| signed_halves(a, b, i16::max))),
        (_, false) => for_int!(ty, T => bin!(T, |a, b| a.min(b))),
        (_, true) => for_int!(ty, T => bin!(T, |a, b| a.max(b))),
    }
}

fn min_max_relu(max: bool, ty: Ty) -> Option<Fn2> {
    Some(match (ty, max) {
        (Ty::S32, false) => bin!(i32, |a, b| a.min(b).max(0)),
        (Ty::S32, true) => bin!(i32, |a, b| a.max(b).max(0)),
        (Ty::S16x2, false) => bin!(u32, |a, b| signed_halves(a, b, |a, b| a.min(b).max(0))),
        (Ty::S16x2, true) => bin!(u32, |a, b| signed_halves(a, b, |a, b| a.max(b).max(0))),
        _ => return None,
    })
}

pub(crate) fn ternary(name: &str, ty: Ty) -> Option<Fn3> {
    match name {
        "mad.lo" => for_int!(ty, T => tri!(T, |a, b, c| a.wrapping_mul(b).wrapping_add(c))),
        "mad.hi" => Some(match ty {
            Ty::U16 => tri!(u16, |a, b, c| (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c)),
            Ty::S16 => tri!(i16, |a, b, c| (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c)),
            Ty::U32 => tri!(u32, |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
            Ty::S32 => tri!(i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)),
            Ty::U64 => tri!(u64, |a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
            Ty::S64 => tri!(i64, |a, b, c| (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)),
            _ => return None,
        }),
        "mad.hi.sat" if ty == Ty::S32 => {
            Some(tri!(i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)))
        }
        "mad.wide" => Some(match ty {
            Ty::U16 => tri!(u16, u32 => u32, |a, b, c| (u32::from(a) * u32::from(b)).wrapping_add(c)),
            Ty::S16 => tri!(i16, i32 => i32, |a, b, c| (i32::from(a) * i32::from(b)).wrapping_add(c)),
            Ty::U32 => tri!(u32, u64 => u64, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            Ty::S32 => tri!(i32, i64 => i64, |a, b, c| (i64::from(a) * i64::from(b)).wrapping_add(c)),
            _ => return None,
        }),
        "mad24.lo" => Some(match ty {
            Ty::U32 => tri!(u32, |a, b, c| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff).wrapping_add(c)),
            Ty::S32 => tri!(i32, |a, b, c| (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c)),
            _ => return None,
        }),
        "mad24.hi" => Some(match ty {
            Ty::U32 => tri!(u32, |a, b, c| mul24_hi_unsigned(a, b).wrapping_add(c)),
            Ty::S32 => tri!(i32, |a, b, c| mul24_hi_signed(a, b).wrapping_add(c)),
            _ => return None,
        }),
        "mad24.hi.sat" if ty == Ty::S32 => Some(tri!(i32, |a, b, c| mul24_hi_signed(a, b).saturating_add(c))),
        "sad" => Some(match ty {
            Ty::U16 => tri!(u16, |a, b, c| c.wrapping_add(a.abs_diff(b))),
            Ty::S16 => tri!(i16, i16 => u16, |a, b, c| c.cast_unsigned().wrapping_add(a.abs_diff(b))),
            Ty::U32 => tri!(u32, |a, b, c| c.wrapping_add(a.abs_diff(b))),
            Ty::S32 => tri!(i32, i32 => u32, |a, b, c| c.cast_unsigned().wrapping_add(a.abs_diff(b))),
            Ty::U64 => tri!(u64, |a, b, c| c.wrapping_add(a.abs_diff(b))),
            Ty::S64 => tri!(i64, i64 => u64, |a, b, c| c.cast_unsigned().wrapping_add(a.abs_diff(b))),
            _ => return None,
        }),
        "shf.l.wrap" => Some(tri!(u32, |a, b, c| funnel_left(a, b, c & 31))),
        "shf.l.clamp" => Some(tri!(u32, |a, b, c| funnel_left(a, b, c.min(32)))),
        "shf.r.wrap" => Some(tri!(u32, |a, b, c| funnel_right(a, b, c & 31))),
        "shf.r.clamp" => Some(tri!(u32, |a, b, c| funnel_right(a, b, c.min(32)))),
        "bfe" => Some(match ty {
            Ty::U32 => tri!(u32, |a, b, c| extract(u64::from(a), b, c, 32, false) as u32),
            Ty::S32 => tri!(u32, |a, b, c| extract(u64::from(a), b, c, 32, true) as u32),
            Ty::U64 => tri!(u64, |a, b, c| extract(a, b as u32, c as u32, 64, false)),
            Ty::S64 => tri!(u64, |a, b, c| extract(a, b as u32, c as u32, 64, true)),
            _ => return None,
        }),
        _ => None,
    }
}

fn funnel_left(low: u32, high: u32, by: u32) -> u32 {
    let both = u64::from(high) << 32 | u64::from(low);
    ((both << by) >> 32) as u32
}

fn funnel_right(low: u32, high: u32, by: u32) -> u32 {
    let both = u64::from(high) << 32 | u64::from(low);
    (both >> by) as u32
}

/// `bfe`: the sign of the field is that of its highest bit inside the register.
fn extract(a: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
    let position = position & 0xff;
    let length = length & 0xff;
    let top = width - 1;
    let sign_at = (position + length).wrapping_sub(1).min(top);
    let sign = signed && length != 0 && (a >> sign_at) & 1 == 1;
    let mut field = if position >= width { 0 } else { a >> position };
    let present = length.min(width.saturating_sub(position));
    if present < 64 {
        let keep = (1u64 << present) - 1;
        field &= keep;
        if sign {
            field |= !keep;
        }
    }
    field
}

/// Functions of a lane: `bfi`, `prmt`, `lop3`, and what is rare.
pub(crate) fn scalar(name: &str, ty: Ty) -> Option<(ScalarFn, usize)> {
    Some(match (name, ty) {
        ("bfi", Ty::B32) => (|_, [a, b, c, d]| insert(a, b, c, d, 32), 4),
        ("bfi", Ty::B64) => (|_, [a, b, c, d]| insert(a, b, c, d, 64), 4),
        ("lop3", Ty::B32) => (|m, [a, b, c, _]| lop3(m, a, b, c), 3),
        ("prmt", Ty::B32) => (permute, 3),
        ("fns", Ty::B32) => (|_, [a, b, c, _]| find_nth_set(a as u32, b as u32, i32::get(c)), 3),
        ("bmsk", Ty::B32) => (bit_mask, 2),
        ("szext", Ty::U32 | Ty::S32) => (extend, 2),
        ("vabsdiff4", Ty::U32) => (absolute_differences, 3),
        _ => return None,
    })
}

fn insert(a: u64, b: u64, position: u64, length: u64, width: u32) -> u64 {
    let position = (position & 0xff) as u32;
    let length = (length & 0xff) as u32;
    if position >= width || length == 0 {
        return b;
    }
    let length = length.min(width - position);
    let mask = if length >= 64 { u64::MAX } else { ((1u64 << length) - 1) << position };
    b & !mask | a << position & mask
}

fn lop3(mods: &Mods, a: u64, b: u64, c: u64) -> u64 {
    (0..8u32)
        .filter(|row| mods.extra >> row & 1 == 1)
        .map(|row| {
            let a = if row & 4 != 0 { a } else { !a };
            let b = if row & 2 != 0 { b } else { !b };
            let c = if row & 1 != 0 { c } else { !c };
            a & b & c
        })
        .fold(0, |all, row| all | row)
}

/// Modes of `prmt`, in `Mods::extra`.
pub(crate) const PERMUTE_MODES: [&str; 7] = ["", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];

fn permute(mods: &Mods, [a, b, c, _]: [u64; 4]) -> u64 {
    let bytes = u64::from(a as u32) | b << 32;
    let selector = c as u32;
    let low = selector & 3;
    (0..4u32).fold(0, |result, i| {
        let index = match mods.extra {
            0 => (selector >> (4 * i)) & 0xf,
            1 => low + i,
            2 => (low + 8 - i) & 7,
            3 => low,
            4 => low.max(i),
            5 => low.min(i),
            _ => (low & 1) * 2 + (i & 1),
        };
        let mut byte = (bytes >> (8 * (index & 7))) & 0xff;
        if index & 8 != 0 {
            byte = if byte & 0x80 != 0 { 0xff } else { 0 };
        }
        result | byte << (8 * i)
    })
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u64 {
    let base = base & 31;
    let mut left = offset.unsigned_abs();
    if offset == 0 {
        return if mask >> base & 1 == 1 { u64::from(base) } else { u64::from(u32::MAX) };
    }
    let mut at = i64::from(base);
    let step = if offset > 0 { 1 } else { -1 };
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at.cast_unsigned();
            }
        }
        at += step;
    }
    u64::from(u32::MAX)
}

fn bit_mask(mods: &Mods, [a, b, _, _]: [u64; 4]) -> u64 {
    let (a, b) = (a as u32, b as u32);
    let wrap = mods.extra == 1;
    let (position, length) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
    let mask = ((1u64 << length) - 1) << position;
    u64::from(mask as u32)
}

fn extend(mods: &Mods, [a, b, _, _]: [u64; 4]) -> u64 {
    let (value, mut length) = (a as u32, b as u32);
    if mods.extra == 1 {
        length &= 31;
    }
    if length >= 32 {
        return u64::from(value);
    }
    if length == 0 {
        return 0;
    }
    let shift = 32 - length;
    if mods.ty.is_signed() {
        ((value << shift).cast_signed() >> shift).put()
    } else {
        u64::from(value << shift >> shift)
    }
}

fn absolute_differences(mods: &Mods, [a, b, c, _]: [u64; 4]) -> u64 {
    let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
    let differences = [0, 1, 2, 3].map(|i: usize| a[i].abs_diff(b[i]));
    if mods.extra == 1 {
        let sum: u32 = differences.iter().map(|d| u32::from(*d)).sum();
        return u64::from(sum.wrapping_add(c as u32));
    }
    u64::from(u32::from_le_bytes(differences))
}

/// `dp4a`: the signedness of `a` and `b` in bits 0 and 1 of `extra`.
pub(crate) fn dot4(mods: &Mods, [a, b, c, _]: [u64; 4]) -> u64 {
    let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
    let sum = (0..4).fold(i64::from(c as u32), |sum, i| {
        sum + signed_byte(a[i], mods.extra & 1 != 0) * signed_byte(b[i], mods.extra & 2 != 0)
    });
    u64::from(sum as u32)
}

/// `dp2a`: as `dp4a`, with bit 2 of `extra` for `.hi`.
pub(crate) fn dot2(mods: &Mods, [a, b, c, _]: [u64; 4]) -> u64 {
    let b = (b as u32).to_le_bytes();
    let first = if mods.extra & 4 != 0 { 2 } else { 0 };
    let sum = (0..2usize).fold(i64::from(c as u32), |sum, i| {
        let half = (a >> (16 * i)) as u16;
        let half = if mods.extra & 1 != 0 { i64::from(half.cast_signed()) } else { i64::from(half) };
        sum + half * signed_byte(b[first + i], mods.extra & 2 != 0)
    });
    u64::from(sum as u32)
}

fn signed_byte(byte: u8, signed: bool) -> i64 {
    if signed { i64::from(byte.cast_signed()) } else { i64::from(byte) }
}
