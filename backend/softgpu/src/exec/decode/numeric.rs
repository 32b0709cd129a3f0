//! Moves, arithmetic, comparisons and conversions.

use super::opcode::Opcode;
use super::{Decoder, Refusal, exactly};
use crate::exec::inst::{BoolOp, Carry, CarryOp, Mods, NOWHERE, Op, PredSrc, Scalar, ScalarFn, Src};
use crate::exec::soft::Round;
use crate::exec::{alu_float, alu_half, alu_int, compare, convert};
use crate::ptx::ast::Operand;
use crate::ptx::types::Ty;

fn bool_op(name: &str) -> Option<BoolOp> {
    Some(match name {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// True where the opcode is one of these.
    pub(super) fn numeric(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<bool, Refusal> {
        match opcode.name {
            "mov" => self.mov(opcode, operands)?,
            "setp" => self.setp(opcode, operands)?,
            "set" => self.set(opcode, operands)?,
            "selp" => self.selp(opcode, operands)?,
            "slct" => self.slct(opcode, operands)?,
            "testp" => self.testp(opcode, operands)?,
            "cvt" => self.cvt(opcode, operands)?,
            "addc" | "subc" | "madc" => self.carry(opcode, operands)?,
            "add" | "sub" | "mad" if opcode.mods.contains(&"cc") => self.carry(opcode, operands)?,
            "lop3" => self.lop3(opcode, operands)?,
            "dp4a" | "dp2a" => self.dot(opcode, operands)?,
            "prmt" => self.prmt(opcode, operands)?,
            "shl" | "shr" | "bfe" | "bfi" | "shf" | "fns" | "bmsk" | "szext" => {
                self.shifts(opcode, operands)?
            }
            "vabsdiff4" => self.differences(opcode, operands)?,
            "and" | "or" | "xor" | "not" if opcode.mods == ["pred"] => self.logic(opcode, operands)?,
            _ => return self.arithmetic(opcode, operands),
        }
        Ok(true)
    }

    fn mov(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let [d, a] = exactly(operands)?;
        match (d, a) {
            _ if ty == Ty::Pred => {
                let (p, a) = (self.pred_destination(d)?, self.predicate(a)?);
                self.emit(Op::Logic { op: BoolOp::Copy, p, a, b: PredSrc::Const(true), negate: false });
            }
            (Operand::Vector(_), Operand::Vector(_)) => return Err("`mov` of vector to vector".to_string()),
            (d, Operand::Vector(items)) => {
                let bits = part_bits(ty, items.len())?;
                let parts: Result<Vec<Src>, Refusal> =
                    items.iter().map(|item| self.value(item, Ty::B64)).collect();
                let d = self.destination(d)?;
                self.emit(Op::Pack { d, parts: parts?.into_boxed_slice(), bits });
            }
            (Operand::Vector(items), a) => {
                let bits = part_bits(ty, items.len())?;
                let a = self.value(a, ty)?;
                let d: Result<Vec<u32>, Refusal> = items
                    .iter()
                    .map(|item| if *item == Operand::Sink { Ok(NOWHERE) } else { self.destination(item) })
                    .collect();
                self.emit(Op::Unpack { d: d?.into_boxed_slice(), a, bits });
            }
            (d, a) => {
                if ty == Ty::B128 {
                    return Err("128-bit registers are not supported".to_string());
                }
                let (d, a) = (self.destination(d)?, self.value(a, ty)?);
                self.emit(Op::Move { d, a });
            }
        }
        Ok(())
    }

    fn setp(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let ftz = opcode.take("ftz");
        let op = opcode.take_map(bool_op).unwrap_or(BoolOp::Copy);
        let name = opcode.mods.pop().ok_or("`setp` has no comparison")?;
        let [d, a, b, rest @ ..] = operands else { return Err("operands missing".to_string()) };
        let c = self.third(rest, op)?;
        let (p, q) = match d {
            Operand::Pair(p, q) => (self.pred_destination(p)?, self.pred_destination(q)?),
            _ => (self.pred_destination(d)?, NOWHERE),
        };
        let (a, b) = (self.value(a, ty)?, self.value(b, ty)?);
        let compare = |upper| {
            compare::comparison(name, ty, ftz, upper)
                .ok_or_else(|| format!("comparison `.{name}` is not supported"))
        };
        if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            self.emit(Op::Setp { f: compare(false)?, a, b, p, q: NOWHERE, op, c });
            self.emit(Op::Setp { f: compare(true)?, a, b, p: q, q: NOWHERE, op, c });
        } else {
            self.emit(Op::Setp { f: compare(false)?, a, b, p, q, op, c });
        }
        Ok(())
    }

    fn third(&mut self, rest: &[Operand], op: BoolOp) -> Result<PredSrc, Refusal> {
        match rest {
            [] if op == BoolOp::Copy => Ok(PredSrc::Const(true)),
            [c] if op != BoolOp::Copy => self.predicate(c),
            _ => Err("wrong number of operands".to_string()),
        }
    }

    fn set(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let from = opcode.ty()?;
        let to = opcode.ty()?;
        let ftz = opcode.take("ftz");
        let op = opcode.take_map(bool_op).unwrap_or(BoolOp::Copy);
        let name = opcode.mods.pop().ok_or("`set` has no comparison")?;
        let [d, a, b, rest @ ..] = operands else { return Err("operands missing".to_string()) };
        let c = self.third(rest, op)?;
        let d = self.destination(d)?;
        let (a, b) = (self.value(a, from)?, self.value(b, from)?);
        let yes = match to {
            Ty::U32 | Ty::S32 => u32::MAX,
            Ty::U16 | Ty::S16 => 0xffff,
            Ty::F32 => 0x3f80_0000,
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            _ => return Err(format!("result type of `{}` is not supported", opcode.full)),
        };
        let compare = |upper| {
            compare::comparison(name, from, ftz, upper)
                .ok_or_else(|| format!("comparison `.{name}` is not supported"))
        };
        if !matches!(from, Ty::F16x2 | Ty::Bf16x2) {
            self.emit(Op::Set { f: compare(false)?, a, b, d, yes, op, c });
            return Ok(());
        }
        let yes = if matches!(to, Ty::F16x2 | Ty::Bf16x2) { yes } else { 0xffff };
        let (low, high) = (self.temp(), self.temp());
        self.emit(Op::Set { f: compare(false)?, a, b, d: low, yes, op, c });
        self.emit(Op::Set { f: compare(true)?, a, b, d: high, yes, op, c });
        self.emit(Op::Pack { d, parts: Box::new([Src(low), Src(high)]), bits: 16 });
        Ok(())
    }

    fn selp(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let [d, a, b, p] = exactly(operands)?;
        let (a, b) = (self.value(a, ty)?, self.value(b, ty)?);
        let (d, p) = (self.destination(d)?, self.predicate(p)?);
        self.emit(Op::Select { d, a, b, p });
        Ok(())
    }

    fn slct(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let by = opcode.ty()?;
        let ty = opcode.ty()?;
        let ftz = opcode.take("ftz");
        let [d, a, b, c] = exactly(operands)?;
        let (a, b, c) = (self.value(a, ty)?, self.value(b, ty)?, self.value(c, by)?);
        let d = self.destination(d)?;
        let zero = self.constant(0);
        let f = compare::comparison("ge", by, ftz, false).filter(|_| matches!(by, Ty::S32 | Ty::F32));
        let f = f.ok_or_else(|| format!("`{}` is not supported", opcode.full))?;
        let slot = self.pred_temp();
        self.emit(Op::Setp {
            f,
            a: c,
            b: zero,
            p: slot,
            q: NOWHERE,
            op: BoolOp::Copy,
            c: PredSrc::Const(true),
        });
        self.emit(Op::Select { d, a, b, p: PredSrc::Reg { slot, negated: false } });
        Ok(())
    }

    fn testp(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let f = opcode.take_map(|m| alu_float::test(m, ty));
        let f = f.ok_or_else(|| format!("`{}` is not supported", opcode.full))?;
        let [p, a] = exactly(operands)?;
        let (p, a) = (self.pred_destination(p)?, self.value(a, ty)?);
        self.emit(Op::Setp { f, a, b: a, p, q: NOWHERE, op: BoolOp::Copy, c: PredSrc::Const(true) });
        Ok(())
    }

    fn logic(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.take("pred");
        let Some(op) = bool_op(opcode.name) else {
            let [p, a] = exactly(operands)?;
            let (p, a) = (self.pred_destination(p)?, self.predicate(a)?);
            self.emit(Op::Logic { op: BoolOp::Copy, p, a, b: PredSrc::Const(true), negate: true });
            return Ok(());
        };
        let [p, a, b] = exactly(operands)?;
        let (p, a, b) = (self.pred_destination(p)?, self.predicate(a)?, self.predicate(b)?);
        self.emit(Op::Logic { op, p, a, b, negate: false });
        Ok(())
    }

    fn cvt(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        if opcode.take("pack") {
            return self.cvt_pack(opcode, operands);
        }
        let from = opcode.ty()?;
        let to = opcode.ty()?;
        let mut mods = Mods { from, ..Mods::new(to) };
        (mods.ftz, mods.sat, mods.relu) = (opcode.take("ftz"), opcode.take("sat"), opcode.take("relu"));
        let round = opcode.take_map(|m| Some((alu_float::rounding(m)?, m.ends_with('i'))));
        if let Some((round, integral)) = round {
            mods.round = round;
            mods.integral = integral && from.is_float() && to.is_float();
        }
        if let [d, a, b] = operands {
            if !matches!(to, Ty::F16x2 | Ty::Bf16x2) || from != Ty::F32 {
                return Err(format!("`{}` is not supported", opcode.full));
            }
            mods.ty = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            return self.scalar(convert::convert_pair, mods, d, &[(a, from), (b, from)]);
        }
        let known =
            |ty: Ty| !matches!(ty, Ty::Pred | Ty::B128 | Ty::F16x2 | Ty::Bf16x2 | Ty::U16x2 | Ty::S16x2);
        if !known(from) || !known(to) {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let [d, a] = exactly(operands)?;
        match convert::fast(&mods) {
            Some(f) => {
                let (d, a) = (self.destination(d)?, self.value(a, from)?);
                self.emit(Op::Un { f, d, a });
                Ok(())
            }
            None => self.scalar(convert::ANY, mods, d, &[(a, from)]),
        }
    }

    fn cvt_pack(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.take("b32");
        let from = opcode.ty()?;
        let ty = opcode.ty()?;
        if from != Ty::S32 || !opcode.take("sat") || !matches!(ty, Ty::U8 | Ty::S8 | Ty::U16 | Ty::S16) {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let mods = Mods::new(ty);
        match operands {
            [d, a, b] => self.scalar(convert::pack, mods, d, &[(a, from), (b, from)]),
            [d, a, b, c] => self.scalar(convert::pack, mods, d, &[(a, from), (b, from), (c, Ty::B32)]),
            _ => Err("wrong number of operands".to_string()),
        }
    }

    /// Emits a lane-by-lane instruction.
    fn scalar(
        &mut self,
        f: ScalarFn,
        mods: Mods,
        d: &Operand,
        operands: &[(&Operand, Ty)],
    ) -> Result<(), Refusal> {
        let zero = self.constant(0);
        let mut sources = [zero; 4];
        for (source, (operand, ty)) in sources.iter_mut().zip(operands) {
            *source = self.value(operand, *ty)?;
        }
        let d = self.destination(d)?;
        self.emit(Op::Scalar(Box::new(Scalar { f, mods, d, sources })));
        Ok(())
    }

    fn carry(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        if ty.is_float() || !matches!(ty.size(), 4 | 8) {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let carry_out = opcode.take("cc");
        let carry_in = opcode.name.ends_with('c');
        let (high, low) = (opcode.take("hi"), opcode.take("lo"));
        let op = match opcode.name {
            "add" | "addc" => CarryOp::Add,
            "sub" | "subc" => CarryOp::Sub,
            _ if high => CarryOp::MadHi,
            _ if low => CarryOp::MadLo,
            _ => return Err(format!("`{}` is not supported", opcode.full)),
        };
        let zero = self.constant(0);
        let (d, a, b, c) = match operands {
            [d, a, b] if matches!(op, CarryOp::Add | CarryOp::Sub) => {
                (d, self.value(a, ty)?, self.value(b, ty)?, zero)
            }
            [d, a, b, c] => (d, self.value(a, ty)?, self.value(b, ty)?, self.value(c, ty)?),
            _ => return Err("wrong number of operands".to_string()),
        };
        let d = self.destination(d)?;
        self.emit(Op::Carry(Box::new(Carry { op, ty, d, a, b, c, carry_in, carry_out })));
        Ok(())
    }

    fn lop3(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let [d, a, b, c, Operand::Int(table)] = exactly(operands)? else {
            return Err("`lop3` needs a constant table".to_string());
        };
        let (f, _) = alu_int::scalar("lop3", ty).ok_or("`lop3` works on `.b32`")?;
        let mods = Mods { extra: (*table & 0xff) as u32, ..Mods::new(ty) };
        self.scalar(f, mods, d, &[(a, ty), (b, ty), (c, ty)])
    }

    fn dot(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let b_ty = opcode.ty()?;
        let a_ty = opcode.ty()?;
        let high = opcode.take("hi");
        opcode.take("lo");
        let extra = u32::from(a_ty.is_signed()) | u32::from(b_ty.is_signed()) << 1 | u32::from(high) << 2;
        let f = if opcode.name == "dp4a" { alu_int::dot4 } else { alu_int::dot2 };
        let [d, a, b, c] = exactly(operands)?;
        let mods = Mods { extra, ..Mods::new(Ty::B32) };
        self.scalar(f, mods, d, &[(a, Ty::B32), (b, Ty::B32), (c, Ty::B32)])
    }

    fn prmt(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.take("b32");
        let mode =
            opcode.take_map(|m| alu_int::PERMUTE_MODES.iter().position(|mode| *mode == m)).unwrap_or(0);
        let (f, _) = alu_int::scalar("prmt", Ty::B32).ok_or("`prmt` works on `.b32`")?;
        let [d, a, b, c] = exactly(operands)?;
        let mods = Mods { extra: u32::try_from(mode).unwrap_or(0), ..Mods::new(Ty::B32) };
        self.scalar(f, mods, d, &[(a, Ty::B32), (b, Ty::B32), (c, Ty::B32)])
    }

    /// Instructions whose later operands are 32 bits wide whatever the type.
    fn shifts(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = opcode.ty()?;
        let refusal = || format!("`{}` is not supported", opcode.full);
        let name = opcode.full.rsplit_once('.').map_or(opcode.full, |(name, _)| name);
        match opcode.name {
            "shl" | "shr" => {
                let f = alu_int::binary(name, ty).ok_or_else(refusal)?;
                let [d, a, b] = exactly(operands)?;
                let (a, b) = (self.value(a, ty)?, self.value(b, Ty::U32)?);
                let d = self.destination(d)?;
                self.emit(Op::Bin { f, d, a, b });
            }
            "bfe" | "shf" => {
                let f = alu_int::ternary(name, ty).or_else(|| alu_int::ternary(name, Ty::U32));
                let f = f.filter(|_| opcode.name == "bfe" || ty == Ty::B32).ok_or_else(refusal)?;
                let [d, a, b, c] = exactly(operands)?;
                let second = if opcode.name == "bfe" { Ty::U32 } else { ty };
                let (a, b, c) = (self.value(a, ty)?, self.value(b, second)?, self.value(c, Ty::U32)?);
                let d = self.destination(d)?;
                opcode.mods.clear();
                self.emit(Op::Tri { f, d, a, b, c });
            }
            _ => {
                let wrap = opcode.take("wrap");
                opcode.take("clamp");
                let (f, count) = alu_int::scalar(opcode.name, ty)
                    .ok_or_else(|| format!("`{}` is not supported", opcode.full))?;
                let mods = Mods { extra: u32::from(wrap), ..Mods::new(ty) };
                let [d, sources @ ..] = operands else { return Err("operands missing".to_string()) };
                if sources.len() != count {
                    return Err("wrong number of operands".to_string());
                }
                let sources: Vec<_> = sources.iter().map(|operand| (operand, ty)).collect();
                self.scalar(f, mods, d, &sources)?;
            }
        }
        Ok(())
    }

    fn differences(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let sum = opcode.take("add");
        if opcode.mods != ["u32", "u32", "u32"] {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        opcode.mods.clear();
        let (f, _) = alu_int::scalar("vabsdiff4", Ty::U32).ok_or("not supported")?;
        let mods = Mods { extra: u32::from(sum), ..Mods::new(Ty::U32) };
        let [d, a, b, c] = exactly(operands)?;
        self.scalar(f, mods, d, &[(a, Ty::U32), (b, Ty::U32), (c, Ty::U32)])
    }

    fn arithmetic(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<bool, Refusal> {
        let known = [
            "add", "sub", "mul", "mad", "fma", "mul24", "mad24", "sad", "div", "rem", "abs", "neg", "min",
            "max", "popc", "clz", "bfind", "brev", "and", "or", "xor", "not", "cnot", "rcp", "sqrt", "rsqrt",
            "sin", "cos", "lg2", "ex2", "tanh", "copysign",
        ];
        if !known.contains(&opcode.name) {
            return Ok(false);
        }
        let full = opcode.full;
        let ty = opcode.ty()?;
        if ty == Ty::Pred {
            return Err(format!("`{full}` is not supported"));
        }
        if ty.is_float() {
            self.float(opcode, ty, operands)?;
            return Ok(true);
        }
        let name = full.rsplit_once('.').map_or(full, |(name, _)| name);
        opcode.mods.clear();
        let Some((d, sources)) = operands.split_first() else { return Err("operands missing".to_string()) };
        let wide = name.ends_with(".wide") && sources.len() == 3;
        let mut s = [Src(0); 3];
        for (i, (slot, operand)) in s.iter_mut().zip(sources).enumerate() {
            let ty = if wide && i == 2 { Ty::B64 } else { ty };
            *slot = self.value(operand, ty)?;
        }
        let d = self.destination(d)?;
        let refusal = || format!("`{full}` is not supported");
        match sources.len() {
            1 => {
                let f = alu_int::unary(name, ty).ok_or_else(refusal)?;
                self.emit(Op::Un { f, d, a: s[0] });
            }
            2 => {
                let f = alu_int::binary(name, ty).ok_or_else(refusal)?;
                self.emit(Op::Bin { f, d, a: s[0], b: s[1] });
            }
            3 => {
                let f = alu_int::ternary(name, ty).ok_or_else(refusal)?;
                self.emit(Op::Tri { f, d, a: s[0], b: s[1], c: s[2] });
            }
            count => return Err(format!("{count} sources")),
        }
        Ok(true)
    }

    fn float(&mut self, opcode: &mut Opcode<'_>, ty: Ty, operands: &[Operand]) -> Result<(), Refusal> {
        let mut mods = Mods::new(ty);
        (mods.ftz, mods.sat) = (opcode.take("ftz"), opcode.take("sat"));
        (mods.relu, mods.nan) = (opcode.take("relu"), opcode.take("NaN"));
        if opcode.take("xorsign") {
            opcode.take("abs");
            mods.extra = 1;
        }
        let approximate = opcode.take("approx") | opcode.take("full");
        mods.round = opcode.take_map(alu_float::rounding).unwrap_or(Round::Nearest);
        let name = if opcode.name == "mad" { "fma" } else { opcode.name };
        let Some((d, sources)) = operands.split_first() else { return Err("operands missing".to_string()) };
        let plain = !mods.sat && !mods.relu && !mods.nan && mods.extra == 0 && mods.round == Round::Nearest;
        if plain && !approximate && self.fast_float(name, ty, mods.ftz, d, sources)? {
            return Ok(());
        }
        let half = alu_half::scalar(name, ty);
        let found = if half.is_some() {
            half
        } else if approximate {
            alu_float::approximate(name, ty)
        } else {
            alu_float::scalar(name, ty)
        };
        let (f, count) = found.ok_or_else(|| format!("`{}` is not supported", opcode.full))?;
        if count != sources.len() {
            return Err("wrong number of operands".to_string());
        }
        let sources: Vec<_> = sources.iter().map(|operand| (operand, ty)).collect();
        self.scalar(f, mods, d, &sources)
    }

    fn fast_float(
        &mut self,
        name: &str,
        ty: Ty,
        ftz: bool,
        d: &Operand,
        sources: &[Operand],
    ) -> Result<bool, Refusal> {
        let rounded = format!("{name}.rn");
        match sources {
            [a] => {
                let f = alu_float::unary(name, ty, ftz).or_else(|| alu_float::unary(&rounded, ty, ftz));
                let Some(f) = f else { return Ok(false) };
                let (d, a) = (self.destination(d)?, self.value(a, ty)?);
                self.emit(Op::Un { f, d, a });
            }
            [a, b] => {
                let f = alu_float::binary(name, ty, ftz).or_else(|| alu_float::binary(&rounded, ty, ftz));
                let Some(f) = f else { return Ok(false) };
                let (a, b) = (self.value(a, ty)?, self.value(b, ty)?);
                let d = self.destination(d)?;
                self.emit(Op::Bin { f, d, a, b });
            }
            [a, b, c] => {
                let Some(f) = alu_float::ternary(&rounded, ty, ftz) else { return Ok(false) };
                let (a, b, c) = (self.value(a, ty)?, self.value(b, ty)?, self.value(c, ty)?);
                let d = self.destination(d)?;
                self.emit(Op::Tri { f, d, a, b, c });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Bits of each part when a value of `ty` is put together from `count` parts.
fn part_bits(ty: Ty, count: usize) -> Result<u32, Refusal> {
    let count = u32::try_from(count).unwrap_or(0);
    match (ty.size() <= 8, count) {
        (true, 2 | 4 | 8) => Ok(ty.bits() / count),
        _ => Err(format!("`mov` with {count} parts of {} bits is not supported", ty.bits())),
    }
}
