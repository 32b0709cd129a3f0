//! Comparisons of `setp` and `set` (PTX sections 9.7.6 and 9.7.7).

use super::alu_float::flush;
use super::alu_half::to_single;
use super::lanes::{Compare, compare};
use super::soft::{BF16, F16};
use crate::ptx::types::Ty;

macro_rules! ordered {
    ($op:expr, $t:ty, $f:expr) => {
        match $op {
            "eq" => compare!($t, |a, b| $f(a) == $f(b)),
            "ne" => compare!($t, |a, b| $f(a) != $f(b)),
            "lt" => compare!($t, |a, b| $f(a) < $f(b)),
            "le" => compare!($t, |a, b| $f(a) <= $f(b)),
            "gt" => compare!($t, |a, b| $f(a) > $f(b)),
            "ge" => compare!($t, |a, b| $f(a) >= $f(b)),
            _ => return None,
        }
    };
}

/// Float comparisons: `ne` is false for NaN, the `…u` forms are true.
macro_rules! float {
    ($op:expr, $t:ty, $f:expr) => {
        match $op {
            "ne" => compare!($t, |a, b| $f(a) < $f(b) || $f(a) > $f(b)),
            "equ" => compare!($t, |a, b| !($f(a) < $f(b) || $f(a) > $f(b))),
            "neu" => compare!($t, |a, b| $f(a) != $f(b)),
            "ltu" => compare!($t, |a, b| $f(a) < $f(b) || $f(a).is_nan() || $f(b).is_nan()),
            "leu" => compare!($t, |a, b| $f(a) <= $f(b) || $f(a).is_nan() || $f(b).is_nan()),
            "gtu" => compare!($t, |a, b| $f(a) > $f(b) || $f(a).is_nan() || $f(b).is_nan()),
            "geu" => compare!($t, |a, b| $f(a) >= $f(b) || $f(a).is_nan() || $f(b).is_nan()),
            "num" => compare!($t, |a, b| !$f(a).is_nan() && !$f(b).is_nan()),
            "nan" => compare!($t, |a, b| $f(a).is_nan() || $f(b).is_nan()),
            _ => ordered!($op, $t, $f),
        }
    };
}

fn same<T>(value: T) -> T {
    value
}

fn low(value: u32) -> f32 {
    to_single(value as u16, F16)
}

fn high(value: u32) -> f32 {
    to_single((value >> 16) as u16, F16)
}

fn low_bf(value: u32) -> f32 {
    to_single(value as u16, BF16)
}

fn high_bf(value: u32) -> f32 {
    to_single((value >> 16) as u16, BF16)
}

/// The comparison `op` of two values of `ty`. `upper`: of the upper halves of packed types.
pub(crate) fn comparison(op: &str, ty: Ty, ftz: bool, upper: bool) -> Option<Compare> {
    // `lo`, `ls`, `hi`, `hs` are unsigned by themselves.
    let (op, ty) = match (op, ty) {
        ("lo" | "ls" | "hi" | "hs", Ty::U16 | Ty::U32 | Ty::U64) => {
            (["lt", "le", "gt", "ge"][["lo", "ls", "hi", "hs"].iter().position(|o| *o == op)?], ty)
        }
        ("eq" | "ne", Ty::B16) => (op, Ty::U16),
        ("eq" | "ne", Ty::B32) => (op, Ty::U32),
        ("eq" | "ne", Ty::B64) => (op, Ty::U64),
        _ => (op, ty),
    };
    Some(match ty {
        Ty::U16 => ordered!(op, u16, same),
        Ty::S16 => ordered!(op, i16, same),
        Ty::U32 => ordered!(op, u32, same),
        Ty::S32 => ordered!(op, i32, same),
        Ty::U64 => ordered!(op, u64, same),
        Ty::S64 => ordered!(op, i64, same),
        Ty::F32 if ftz => float!(op, f32, flush),
        Ty::F32 => float!(op, f32, same),
        Ty::F64 => float!(op, f64, same),
        Ty::F16x2 if upper => float!(op, u32, high),
        Ty::F16 | Ty::F16x2 => float!(op, u32, low),
        Ty::Bf16x2 if upper => float!(op, u32, high_bf),
        Ty::Bf16 | Ty::Bf16x2 => float!(op, u32, low_bf),
        _ => return None,
    })
}
