//! What `atom` and `red` compute, and how it is done atomically on global memory.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::alu_float::pick;
use super::alu_half::{format, to_single};
use super::inst::AtomOp;
use super::lanes::Lane;
use super::soft::{self, Round};
use crate::ptx::types::Ty;

/// Whether the instruction exists for this type.
pub(crate) fn supported(op: AtomOp, ty: Ty) -> bool {
    match op {
        AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, Ty::B32 | Ty::B64),
        AtomOp::Exch => matches!(ty, Ty::B32 | Ty::B64),
        AtomOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
        AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
        AtomOp::Add => {
            matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F32 | Ty::F64) || format(ty).is_some()
        }
        AtomOp::Min | AtomOp::Max => {
            matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) || format(ty).is_some()
        }
    }
}

/// The new value from the old one.
pub(crate) fn compute(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let (old32, b32) = (old as u32, b as u32);
    match op {
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            let mask = if ty.bits() == 64 { u64::MAX } else { (1 << ty.bits()) - 1 };
            if old & mask == b & mask { c } else { old }
        }
        AtomOp::Inc => u64::from(if old32 >= b32 { 0 } else { old32 + 1 }),
        AtomOp::Dec => u64::from(if old32 == 0 || old32 > b32 { b32 } else { old32 - 1 }),
        AtomOp::Add => add(ty, old, b),
        AtomOp::Min => extreme(false, ty, old, b),
        AtomOp::Max => extreme(true, ty, old, b),
    }
}

fn halves(ty: Ty, old: u64, b: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    let low = f(old & 0xffff, b & 0xffff) & 0xffff;
    if ty.size() == 4 { low | (f(old >> 16 & 0xffff, b >> 16 & 0xffff) & 0xffff) << 16 } else { low }
}

fn add(ty: Ty, old: u64, b: u64) -> u64 {
    if let Some(format) = format(ty) {
        return halves(ty, old, b, |old, b| soft::add(old, b, format, Round::Nearest));
    }
    match ty {
        Ty::F32 => (f32::get(old) + f32::get(b)).put(),
        Ty::F64 => (f64::get(old) + f64::get(b)).put(),
        _ => old.wrapping_add(b),
    }
}

fn extreme(max: bool, ty: Ty, old: u64, b: u64) -> u64 {
    if let Some(format) = format(ty) {
        return halves(ty, old, b, |old, b| {
            let (x, y) = (to_single(old as u16, format), to_single(b as u16, format));
            let result = pick(max, false, f64::from(x), f64::from(y));
            if result.is_nan() {
                0x7fff
            } else if result.to_bits() == f64::from(x).to_bits() {
                old
            } else {
                b
            }
        });
    }
    let b_wins = match ty {
        Ty::U32 => (b as u32) < (old as u32),
        Ty::S32 => i32::get(b) < i32::get(old),
        Ty::S64 => i64::get(b) < i64::get(old),
        _ => b < old,
    };
    if b_wins != max { b } else { old }
}

/// Applies `f` atomically to `size` bytes at `address` and returns what was there.
///
/// # Safety
/// `address` must be aligned to `size` and lie in memory that stays mapped and writable during the call.
pub(crate) unsafe fn update(address: u64, size: u32, f: impl Fn(u64) -> u64) -> u64 {
    let place = address as usize;
    match size {
        2 => {
            // SAFETY: the caller guarantees alignment and validity; concurrent accesses are atomic too.
            let cell = unsafe { AtomicU16::from_ptr(std::ptr::with_exposed_provenance_mut(place)) };
            let new = |old: u16| Some(f(u64::from(old)) as u16);
            let old = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, new);
            u64::from(old.unwrap_or_else(|old| old))
        }
        4 => {
            // SAFETY: as above.
            let cell = unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(place)) };
            let new = |old: u32| Some(f(u64::from(old)) as u32);
            let old = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, new);
            u64::from(old.unwrap_or_else(|old| old))
        }
        _ => {
            // SAFETY: as above.
            let cell = unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(place)) };
            let old = cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| Some(f(old)));
            old.unwrap_or_else(|old| old)
        }
    }
}
