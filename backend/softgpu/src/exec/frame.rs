//! Registers of a function that lanes of a warp have called together, and the simple instructions on them.

use super::inst::{BoolOp, Carry, CarryOp, NOWHERE, Op, PredSrc, Scalar, Src};
use super::lanes::{Lanes, WARP};
use super::memory::lanes;

/// No frame: the one below a kernel's.
pub(crate) const NO_FRAME: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub values: Vec<Lanes>,
    pub preds: Vec<u32>,
    pub parent: u32,
    pub function: u32,
    /// Where the caller goes on.
    pub return_pc: u32,
    pub depth: u32,
    /// First byte of the frame in local memory, and the first one beyond it.
    pub local_base: u32,
    pub local_top: u32,
    /// Lanes that have not returned.
    pub alive: u32,
}

impl Frame {
    #[inline(always)]
    pub fn source<'a>(&'a self, constants: &'a [Lanes], source: Src) -> &'a Lanes {
        if source.0 & Src::CONSTANT != 0 {
            &constants[(source.0 & !Src::CONSTANT) as usize]
        } else {
            &self.values[source.0 as usize]
        }
    }

    #[inline(always)]
    pub fn write(&mut self, d: u32, mask: u32, value: &Lanes) {
        let register = &mut self.values[d as usize];
        if mask == u32::MAX {
            *register = *value;
            return;
        }
        for (lane, (old, new)) in register.iter_mut().zip(value).enumerate() {
            *old = if mask >> lane & 1 == 1 { *new } else { *old };
        }
    }

    #[inline(always)]
    pub fn predicate(&self, source: PredSrc) -> u32 {
        match source {
            PredSrc::Const(true) => u32::MAX,
            PredSrc::Const(false) => 0,
            PredSrc::Reg { slot, negated } => self.preds[slot as usize] ^ if negated { u32::MAX } else { 0 },
        }
    }

    #[inline(always)]
    pub fn write_predicate(&mut self, p: u32, mask: u32, value: u32) {
        if let Some(old) = self.preds.get_mut(p as usize) {
            *old = *old & !mask | value & mask;
        }
    }

    /// Executes `op` if it is one that concerns registers only; false otherwise.
    #[inline(always)]
    pub fn execute(&mut self, op: &Op, mask: u32, constants: &[Lanes], carry: &mut u32) -> bool {
        let mut out = [0; WARP];
        match op {
            Op::Un { f, d, a } => {
                f(self.source(constants, *a), &mut out);
                self.write(*d, mask, &out);
            }
            Op::Bin { f, d, a, b } => {
                f(self.source(constants, *a), self.source(constants, *b), &mut out);
                self.write(*d, mask, &out);
            }
            Op::Tri { f, d, a, b, c } => {
                let [a, b, c] = [a, b, c].map(|s| self.source(constants, *s));
                f(a, b, c, &mut out);
                self.write(*d, mask, &out);
            }
            Op::Move { d, a } => {
                out = *self.source(constants, *a);
                self.write(*d, mask, &out);
            }
            Op::Setp { f, a, b, p, q, op, c } => {
                let compared = f(self.source(constants, *a), self.source(constants, *b));
                let third = self.predicate(*c);
                self.write_predicate(*p, mask, op.apply(compared, third));
                self.write_predicate(*q, mask, op.apply(!compared, third));
            }
            Op::Set { f, a, b, d, yes, op, c } => {
                let compared = f(self.source(constants, *a), self.source(constants, *b));
                let result = op.apply(compared, self.predicate(*c));
                for (lane, value) in out.iter_mut().enumerate() {
                    *value = if result >> lane & 1 == 1 { u64::from(*yes) } else { 0 };
                }
                self.write(*d, mask, &out);
            }
            Op::Select { d, a, b, p } => {
                let chosen = self.predicate(*p);
                let (a, b) = (self.source(constants, *a), self.source(constants, *b));
                for (lane, value) in out.iter_mut().enumerate() {
                    *value = if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] };
                }
                self.write(*d, mask, &out);
            }
            Op::Logic { op, p, a, b, negate } => {
                let (a, b) = (self.predicate(*a), self.predicate(*b));
                let result = BoolOp::apply(*op, a, b);
                self.write_predicate(*p, mask, if *negate { !result } else { result });
            }
            Op::Scalar(scalar) => self.scalar(scalar, mask, constants),
            Op::Carry(inst) => self.carry(inst, mask, constants, carry),
            Op::Pack { d, parts, bits } => {
                for (i, part) in (0u32..).zip(parts.iter()) {
                    let source = self.source(constants, *part);
                    for (value, part) in out.iter_mut().zip(source) {
                        *value |= (part & ((1u64 << bits) - 1)) << (i * bits);
                    }
                }
                self.write(*d, mask, &out);
            }
            Op::Unpack { d, a, bits } => {
                let whole = *self.source(constants, *a);
                for (i, d) in (0u32..).zip(d.iter()).filter(|(_, d)| **d != NOWHERE) {
                    for (value, whole) in out.iter_mut().zip(whole) {
                        *value = whole >> (i * bits) & ((1u64 << bits) - 1);
                    }
                    self.write(*d, mask, &out);
                }
            }
            _ => return false,
        }
        true
    }

    #[inline(never)]
    fn scalar(&mut self, inst: &Scalar, mask: u32, constants: &[Lanes]) {
        for lane in lanes(mask) {
            let sources = inst.sources.map(|s| self.source(constants, s)[lane as usize]);
            let value = (inst.f)(&inst.mods, sources);
            self.values[inst.d as usize][lane as usize] = value;
        }
    }

    #[inline(never)]
    fn carry(&mut self, inst: &Carry, mask: u32, constants: &[Lanes], flags: &mut u32) {
        for lane in lanes(mask) {
            let [a, b, c] = [inst.a, inst.b, inst.c].map(|s| self.source(constants, s)[lane as usize]);
            let carry = inst.carry_in && *flags >> lane & 1 == 1;
            let (value, out) = carried(inst.op, inst.ty.bits(), a, b, c, carry);
            self.values[inst.d as usize][lane as usize] = value;
            if inst.carry_out {
                *flags = *flags & !(1 << lane) | u32::from(out) << lane;
            }
        }
    }
}

/// Extended-precision arithmetic (PTX section 9.7.2). The carry flag of a subtraction is its borrow.
fn carried(op: CarryOp, bits: u32, a: u64, b: u64, c: u64, carry: bool) -> (u64, bool) {
    let cut = |x: u64| if bits == 64 { u128::from(x) } else { u128::from(x as u32) };
    let (a, b, c) = (cut(a), cut(b), cut(c));
    let carry = u128::from(carry);
    let low = |x: u128| if bits == 64 { u128::from(x as u64) } else { u128::from(x as u32) };
    let total = match op {
        CarryOp::Add => a + b + carry,
        CarryOp::Sub => a.wrapping_sub(b).wrapping_sub(carry),
        CarryOp::MadLo => low(a * b) + c + carry,
        CarryOp::MadHi => ((a * b) >> bits) + c + carry,
    };
    (low(total) as u64, total >> bits != 0)
}
