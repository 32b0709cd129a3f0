//! Loads, stores, atomics, address conversion (PTX section 9.7.9 and 9.7.13.6).

use super::opcode::Opcode;
use super::{Decoder, Refusal, exactly};
use crate::exec::inst::{Address, Atom, AtomOp, CopyAsync, Load, MemSpace, NOWHERE, Op, Src, Store};
use crate::exec::lanes::bin;
use crate::exec::memory::window;
use crate::ptx::ast::{Operand, Symbol};
use crate::ptx::types::Ty;

/// Modifiers that concern caches, scopes and orderings that are always kept here.
const HARMLESS: [&str; 19] = [
    "weak", "volatile", "relaxed", "mmio", "cta", "cluster", "gpu", "sys", "nc", "ca", "cg", "cs", "lu",
    "cv", "wb", "wt", "noftz", "gl", "sc",
];

fn space_of(name: &str) -> Option<MemSpace> {
    Some(match name {
        "global" | "const" => MemSpace::Global,
        "shared" | "shared::cta" | "shared::cluster" => MemSpace::Shared,
        "local" => MemSpace::Local,
        "param" | "param::entry" | "param::func" => MemSpace::Param,
        _ => return None,
    })
}

impl Decoder<'_> {
    /// True where the opcode is one of these.
    pub(super) fn memory(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<bool, Refusal> {
        match opcode.name {
            "ld" | "ldu" => self.load(opcode, operands)?,
            "st" => self.store(opcode, operands)?,
            "atom" | "red" => self.atomic(opcode, operands)?,
            "cvta" => self.convert_address(opcode, operands)?,
            "isspacep" => {
                let space = opcode.take_map(space_of).ok_or("`isspacep` has no known space")?;
                let [p, a] = exactly(operands)?;
                let (p, a) = (self.pred_destination(p)?, self.value(a, Ty::U64)?);
                self.emit(Op::Space { p, a, space });
            }
            "mapa" => {
                // The only block of a cluster is the block itself.
                opcode.ignore(&["shared::cluster", "u32", "u64"]);
                let [d, a, _] = exactly(operands)?;
                let (d, a) = (self.destination(d)?, self.value(a, Ty::U64)?);
                self.emit(Op::Move { d, a });
            }
            "getctarank" => {
                opcode.ignore(&["shared::cluster", "u32", "u64"]);
                let [d, _] = exactly(operands)?;
                let (d, a) = (self.destination(d)?, self.constant(0));
                self.emit(Op::Move { d, a });
            }
            "cp" => self.copy_async(opcode, operands)?,
            "alloca" => self.alloca(opcode, operands)?,
            "stacksave" => {
                opcode.ty()?;
                let [d] = exactly(operands)?;
                let (d, a) = (self.destination(d)?, self.constant(0));
                self.emit(Op::Move { d, a });
            }
            "stackrestore" => {
                // What was taken since is given back when the function returns.
                opcode.ty()?;
                self.emit(Op::Nop);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_space(&self, opcode: &mut Opcode<'_>) -> MemSpace {
        opcode.mods.retain(|m| !m.starts_with("L1::") && (!m.starts_with("L2::") || *m == "L2::cache_hint"));
        opcode.ignore(&HARMLESS);
        opcode.take_map(space_of).unwrap_or(MemSpace::Generic)
    }

    fn address(&mut self, operand: &Operand, space: MemSpace) -> Result<Address, Refusal> {
        let Operand::Address(base, offset) = operand else { return Err("address expected".to_string()) };
        let mut address = Address { space, base: Src(0), offset: *offset, frame: false, dynamic: false };
        // Parameters of functions lie in their frames.
        if space == MemSpace::Param && !self.is_kernel {
            address.space = MemSpace::Local;
        }
        let fixed = match base.as_ref() {
            Operand::Symbol(Symbol::Local { offset, .. }, _) => {
                address.space = MemSpace::Local;
                address.frame = true;
                u64::from(*offset)
            }
            Operand::Symbol(Symbol::Shared(index), _) => {
                let variable = self.module.shared.get(*index).ok_or("unknown shared variable")?;
                address.dynamic = variable.dynamic;
                address.space = MemSpace::Shared;
                u64::from(variable.offset)
            }
            Operand::Symbol(Symbol::KernelParam(offset), _) => {
                address.space = MemSpace::Param;
                u64::from(*offset)
            }
            other => {
                address.base = self.value(other, Ty::U64)?;
                if matches!(other, Operand::Reg(reg) if reg.ty.size() == 4) {
                    address.base = self.low_word(address.base, address.offset);
                    address.offset = 0;
                }
                return Ok(address);
            }
        };
        address.base = self.constant(fixed.wrapping_add(address.offset.cast_unsigned()));
        address.offset = 0;
        Ok(address)
    }

    /// A 32-bit address with its offset: what lies above 32 bits in the register or in the sum does not count. Compilers rely on it
    /// with registers that hold negative numbers.
    fn low_word(&mut self, base: Src, offset: i64) -> Src {
        let a = self.temp();
        let b = self.constant(offset.cast_unsigned());
        self.emit(Op::Bin { f: bin!(u64, |a, b| a.wrapping_add(b)), d: a, a: base, b });
        let a = Src(a);
        let d = self.temp();
        let b = self.constant(0xffff_ffff);
        self.emit(Op::Bin { f: bin!(u64, |a, b| a & b), d, a, b });
        Src(d)
    }

    /// The number of elements that `.v2`, `.v4`, `.v8` name.
    pub(super) fn take_vector(opcode: &mut Opcode<'_>) -> u8 {
        opcode
            .take_map(|m| match m {
                "v2" => Some(2),
                "v4" => Some(4),
                "v8" => Some(8),
                _ => None,
            })
            .unwrap_or(1)
    }

    fn load(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = scalar_type(opcode)?;
        let acquire = opcode.take("acquire");
        let space = self.take_space(opcode);
        let count = Self::take_vector(opcode);
        let [d, address] = exactly(operands)?;
        let address = self.address(address, space)?;
        let mut destinations = [NOWHERE; 8];
        for (slot, item) in destinations.iter_mut().zip(elements(d, count)?) {
            if *item != Operand::Sink {
                *slot = self.destination(item)?;
            }
        }
        let size = u8::try_from(ty.size()).unwrap_or(8);
        self.emit(Op::Load(Box::new(Load {
            address,
            size,
            signed: ty.is_signed(),
            count,
            d: destinations,
            acquire,
        })));
        Ok(())
    }

    fn store(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = scalar_type(opcode)?;
        let release = opcode.take("release");
        let space = self.take_space(opcode);
        let count = Self::take_vector(opcode);
        let [address, value] = exactly(operands)?;
        let address = self.address(address, space)?;
        let mut values = [Src(0); 8];
        for (slot, item) in values.iter_mut().zip(elements(value, count)?) {
            *slot = self.value(item, ty)?;
        }
        let size = u8::try_from(ty.size()).unwrap_or(8);
        self.emit(Op::Store(Box::new(Store { address, size, count, values, release })));
        Ok(())
    }

    fn atomic(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        let ty = scalar_type(opcode)?;
        opcode.ignore(&["acquire", "release", "acq_rel"]);
        let space = self.take_space(opcode);
        let op = opcode.take_map(|m| match m {
            "and" => Some(AtomOp::And),
            "or" => Some(AtomOp::Or),
            "xor" => Some(AtomOp::Xor),
            "add" => Some(AtomOp::Add),
            "inc" => Some(AtomOp::Inc),
            "dec" => Some(AtomOp::Dec),
            "min" => Some(AtomOp::Min),
            "max" => Some(AtomOp::Max),
            "exch" => Some(AtomOp::Exch),
            "cas" => Some(AtomOp::Cas),
            _ => None,
        });
        let op = op.ok_or("the atomic operation is not supported")?;
        if !crate::exec::atomic::supported(op, ty) {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let (d, rest) = match operands {
            [d, rest @ ..] if opcode.name == "atom" => (self.destination(d)?, rest),
            _ => (NOWHERE, operands),
        };
        let (address, b, c) = match rest {
            [address, b] if op != AtomOp::Cas => (address, self.value(b, ty)?, Src(0)),
            [address, b, c] if op == AtomOp::Cas => (address, self.value(b, ty)?, self.value(c, ty)?),
            _ => return Err("wrong number of operands".to_string()),
        };
        let address = self.address(address, space)?;
        if !matches!(address.space, MemSpace::Generic | MemSpace::Global | MemSpace::Shared) {
            return Err("an atomic operation needs global or shared memory".to_string());
        }
        self.emit(Op::Atom(Box::new(Atom { address, op, ty, d, b, c })));
        Ok(())
    }

    fn convert_address(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        if opcode.ty()?.size() != 8 {
            return Err("32-bit generic addresses do not exist".to_string());
        }
        let to_space = opcode.take("to");
        let mut space = opcode.take_map(space_of).ok_or("`cvta` has no known space")?;
        let [d, a] = exactly(operands)?;
        if space == MemSpace::Param
            && (!self.is_kernel || matches!(a, Operand::Symbol(Symbol::Local { .. }, _)))
        {
            space = MemSpace::Local;
        }
        let (d, a) = (self.destination(d)?, self.value(a, Ty::U64)?);
        let Some(base) = window(space) else {
            self.emit(Op::Move { d, a });
            return Ok(());
        };
        let b = self.constant(if to_space { base.wrapping_neg() } else { base });
        self.emit(Op::Bin { f: bin!(u64, |a, b| a.wrapping_add(b)), d, a, b });
        Ok(())
    }

    fn copy_async(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        if !opcode.take("async")
            || opcode.mods.iter().any(|m| *m == "bulk" || *m == "mbarrier" || *m == "reduce")
        {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        // Copies are done at once, so there is nothing to wait for.
        if ["commit_group", "wait_group", "wait_all"].iter().any(|m| opcode.take(m)) {
            self.emit(Op::Nop);
            return Ok(());
        }
        opcode.mods.retain(|m| !m.starts_with("L2::") || *m == "L2::cache_hint");
        opcode.ignore(&["ca", "cg", "shared", "shared::cta", "shared::cluster", "global"]);
        let [to, from, size, rest @ ..] = operands else { return Err("operands missing".to_string()) };
        let Operand::Int(size @ (4 | 8 | 16)) = size else {
            return Err("the size is not 4, 8 or 16".to_string());
        };
        let (mut source_size, mut ignore) = (None, None);
        match rest {
            [] => {}
            [p @ (Operand::Not(_) | Operand::Reg(crate::ptx::ast::Reg { ty: Ty::Pred, .. }))] => {
                ignore = Some(self.predicate(p)?);
            }
            [n] => source_size = Some(self.value(n, Ty::U32)?),
            _ => return Err("too many operands".to_string()),
        }
        let to = self.address(to, MemSpace::Shared)?;
        let from = self.address(from, MemSpace::Global)?;
        let size = u32::try_from(*size).unwrap_or(4);
        self.emit(Op::CopyAsync(Box::new(CopyAsync { to, from, size, source_size, ignore })));
        Ok(())
    }

    fn alloca(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.ty()?;
        let (d, size, align) = match operands {
            [d, size] => (d, size, 16),
            [d, size, Operand::Int(align)] if align.is_power_of_two() => (d, size, *align),
            _ => return Err("wrong operands".to_string()),
        };
        let (d, size) = (self.destination(d)?, self.value(size, Ty::U64)?);
        let align = u32::try_from(align).unwrap_or(16).max(16);
        self.emit(Op::Alloca { d, size, align });
        Ok(())
    }
}

/// The type of a memory instruction: up to 8 bytes, not a predicate.
fn scalar_type(opcode: &mut Opcode<'_>) -> Result<Ty, Refusal> {
    match opcode.ty()? {
        Ty::B128 | Ty::Pred => Err(format!("type of `{}` is not supported", opcode.full)),
        ty => Ok(ty),
    }
}

fn elements(operand: &Operand, count: u8) -> Result<&[Operand], Refusal> {
    let items = match operand {
        Operand::Vector(items) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    if items.len() == usize::from(count) {
        Ok(items)
    } else {
        Err(format!("{} elements where {count} are expected", items.len()))
    }
}
