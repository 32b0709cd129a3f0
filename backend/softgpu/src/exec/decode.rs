//! Statements to decoded instructions: operands, constants, and the table of opcodes.

mod call;
mod control;
mod memory;
mod numeric;
mod opcode;
mod texture;

use std::collections::HashMap;

use self::opcode::Opcode;
use super::inst::{ALWAYS, Inst, NOWHERE, Op, PredSrc, Special, Src};
use super::lanes::{Lanes, WARP, bin};
use super::special;
use crate::ptx::ast::{Body, Module, Operand, Statement, Symbol, function_address};
use crate::ptx::types::Ty;

/// An instruction that cannot be executed.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub line: u32,
    pub reason: String,
}

/// One function of a program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Code {
    /// First instruction; `None` for a function without a body.
    pub entry: Option<u32>,
    pub values: u32,
    pub preds: u32,
    /// Bytes of local memory in a frame.
    pub frame: u32,
}

/// Why a statement cannot be decoded.
pub(crate) type Refusal = String;

/// Register slots of a frame: only registers that the code names get one, in order of appearance.
#[derive(Debug, Default)]
struct Slots {
    given: Vec<u32>,
    count: u32,
    temps: Vec<u32>,
    /// Temporaries that the current statement has used.
    temps_used: usize,
}

impl Slots {
    fn new(registers: u32) -> Slots {
        Slots { given: vec![u32::MAX; registers as usize], ..Slots::default() }
    }

    fn fresh(&mut self) -> u32 {
        self.count += 1;
        self.count - 1
    }

    fn of(&mut self, register: u32) -> u32 {
        let index = register as usize;
        if self.given.get(index).is_none_or(|slot| *slot == u32::MAX) {
            let slot = self.fresh();
            self.given.resize(self.given.len().max(index + 1), u32::MAX);
            self.given[index] = slot;
        }
        self.given[index]
    }

    fn temp(&mut self) -> u32 {
        if self.temps_used == self.temps.len() {
            let slot = self.fresh();
            self.temps.push(slot);
        }
        self.temps_used += 1;
        self.temps[self.temps_used - 1]
    }
}

pub(crate) struct Decoder<'a> {
    pub module: &'a Module,
    pub addresses: &'a HashMap<String, u64>,
    pub constants: Vec<Lanes>,
    known: HashMap<u64, u32>,
    pub code: Vec<Inst>,
    pub problems: Vec<Problem>,
    is_kernel: bool,
    values: Slots,
    preds: Slots,
    guard: (u32, bool),
    line: u32,
    targets: Vec<Vec<usize>>,
}

impl<'a> Decoder<'a> {
    pub fn new(module: &'a Module, addresses: &'a HashMap<String, u64>) -> Decoder<'a> {
        Decoder {
            module,
            addresses,
            constants: Vec::new(),
            known: HashMap::new(),
            code: Vec::new(),
            problems: Vec::new(),
            is_kernel: false,
            values: Slots::default(),
            preds: Slots::default(),
            guard: (ALWAYS, false),
            line: 0,
            targets: Vec::new(),
        }
    }

    /// Appends the code of a function. Branches still name statements until the end, where they are replaced.
    pub fn function(&mut self, body: &Body, is_kernel: bool) -> Code {
        self.is_kernel = is_kernel;
        (self.values, self.preds) = (Slots::new(body.values), Slots::new(body.preds));
        self.targets = body.branch_targets.clone();
        let entry = self.position();
        let mut starts = Vec::with_capacity(body.statements.len() + 1);
        for statement in &body.statements {
            starts.push(self.position());
            self.statement(statement);
        }
        starts.push(self.position());
        self.guard = (ALWAYS, false);
        self.emit(if is_kernel { Op::Exit } else { Op::Return });
        let start_of = |statement: u32| starts.get(statement as usize).copied().unwrap_or(entry);
        for inst in self.code.iter_mut().skip(entry as usize) {
            match &mut inst.op {
                Op::Branch { target } => *target = start_of(*target),
                Op::BranchIndex { targets, .. } => targets.iter_mut().for_each(|t| *t = start_of(*t)),
                _ => {}
            }
        }
        Code { entry: Some(entry), values: self.values.count, preds: self.preds.count, frame: body.frame }
    }

    fn position(&self) -> u32 {
        u32::try_from(self.code.len()).unwrap_or(u32::MAX)
    }

    fn statement(&mut self, statement: &Statement) {
        self.line = statement.line;
        self.guard = match statement.guard {
            Some((slot, negated)) => (self.preds.of(slot), negated),
            None => (ALWAYS, false),
        };
        (self.values.temps_used, self.preds.temps_used) = (0, 0);
        let before = self.code.len();
        let result = match &statement.problem {
            Some(problem) => Err(problem.clone()),
            None => self.instruction(statement),
        };
        if let Err(reason) = result {
            self.code.truncate(before);
            let index = u32::try_from(self.problems.len()).unwrap_or(u32::MAX);
            self.problems.push(Problem { line: statement.line, reason });
            self.emit(Op::Unsupported(index));
        }
    }

    fn instruction(&mut self, statement: &Statement) -> Result<(), Refusal> {
        if let Some(call) = &statement.call {
            return self.call(call);
        }
        let mut opcode = Opcode::new(&statement.opcode);
        let operands = statement.operands.as_slice();
        let known = self.control(&mut opcode, operands)?
            || self.memory(&mut opcode, operands)?
            || self.texture(&mut opcode, operands)?
            || self.numeric(&mut opcode, operands)?;
        if !known {
            return Err(format!("instruction `{}` is not supported", opcode.name));
        }
        opcode.finish()
    }

    pub fn emit(&mut self, op: Op) {
        let (guard, guard_negated) = self.guard;
        self.code.push(Inst { op, guard, guard_negated, line: self.line });
    }

    pub fn constant(&mut self, value: u64) -> Src {
        let next = u32::try_from(self.constants.len()).unwrap_or(0);
        let index = *self.known.entry(value).or_insert(next);
        if index == next {
            self.constants.push([value; WARP]);
        }
        Src(index | Src::CONSTANT)
    }

    pub fn temp(&mut self) -> u32 {
        self.values.temp()
    }

    pub fn pred_temp(&mut self) -> u32 {
        self.preds.temp()
    }

    /// A source operand, read as `ty`.
    pub fn value(&mut self, operand: &Operand, ty: Ty) -> Result<Src, Refusal> {
        match operand {
            Operand::Reg(reg) if reg.ty != Ty::Pred => Ok(Src(self.values.of(reg.slot))),
            Operand::Reg(_) => Err("a predicate register where a value is expected".to_string()),
            Operand::Int(_) | Operand::F32(_) | Operand::F64(_) => {
                let bits = literal(operand, ty)?;
                Ok(self.constant(bits))
            }
            Operand::Special(name) => {
                let which =
                    special::parse(name).ok_or_else(|| format!("register `%{name}` is not supported"))?;
                match which {
                    special::Known::Constant(value) => Ok(self.constant(value)),
                    special::Known::Varying(which) => {
                        let d = self.temp();
                        self.emit(Op::Special { d, which });
                        Ok(Src(d))
                    }
                }
            }
            Operand::Symbol(symbol, offset) => self.address_of(symbol, *offset),
            _ => Err("an operand of this kind is not supported here".to_string()),
        }
    }

    /// The address of a variable in its own state space.
    fn address_of(&mut self, symbol: &Symbol, offset: i64) -> Result<Src, Refusal> {
        let offset = offset.cast_unsigned();
        match symbol {
            Symbol::Variable(name) => {
                let base = self.variable(name)?;
                Ok(self.constant(base.wrapping_add(offset)))
            }
            Symbol::Function(index) => Ok(self.constant(function_address(*index).wrapping_add(offset))),
            Symbol::KernelParam(base) => Ok(self.constant(u64::from(*base).wrapping_add(offset))),
            Symbol::Shared(index) => {
                let variable = self.module.shared.get(*index).ok_or("unknown shared variable")?;
                if variable.dynamic {
                    return Ok(self.relative(Special::DynamicBase, offset));
                }
                let base = u64::from(variable.offset);
                Ok(self.constant(base.wrapping_add(offset)))
            }
            Symbol::Local { offset: base, .. } => {
                Ok(self.relative(Special::FrameBase, u64::from(*base).wrapping_add(offset)))
            }
            Symbol::BranchTargets(_) | Symbol::Prototype => Err("a label has no address".to_string()),
        }
    }

    pub fn variable(&self, name: &str) -> Result<u64, Refusal> {
        self.addresses.get(name).copied().ok_or_else(|| format!("variable `{name}` has no address"))
    }

    fn relative(&mut self, which: Special, offset: u64) -> Src {
        let d = self.temp();
        self.emit(Op::Special { d, which });
        let b = self.constant(offset);
        self.emit(Op::Bin { f: bin!(u64, |a, b| a.wrapping_add(b)), d, a: Src(d), b });
        Src(d)
    }

    /// A destination register; `_` gets a temporary.
    pub fn destination(&mut self, operand: &Operand) -> Result<u32, Refusal> {
        match operand {
            Operand::Reg(reg) if reg.ty != Ty::Pred => Ok(self.values.of(reg.slot)),
            Operand::Sink => Ok(self.temp()),
            _ => Err("the destination is not a register".to_string()),
        }
    }

    pub fn pred_destination(&mut self, operand: &Operand) -> Result<u32, Refusal> {
        match operand {
            Operand::Reg(reg) if reg.ty == Ty::Pred => Ok(self.preds.of(reg.slot)),
            Operand::Sink => Ok(self.pred_temp()),
            _ => Err("the destination is not a predicate register".to_string()),
        }
    }

    /// `d` or `d|p`; `NOWHERE` for a predicate that is not written.
    pub fn pair(&mut self, operand: &Operand) -> Result<(u32, u32), Refusal> {
        match operand {
            Operand::Pair(d, p) => Ok((self.destination(d)?, self.pred_destination(p)?)),
            _ => Ok((self.destination(operand)?, NOWHERE)),
        }
    }

    pub fn predicate(&mut self, operand: &Operand) -> Result<PredSrc, Refusal> {
        match operand {
            Operand::Reg(reg) if reg.ty == Ty::Pred => {
                Ok(PredSrc::Reg { slot: self.preds.of(reg.slot), negated: false })
            }
            Operand::Not(reg) => Ok(PredSrc::Reg { slot: self.preds.of(reg.slot), negated: true }),
            Operand::Int(value) => Ok(PredSrc::Const(*value != 0)),
            _ => Err("predicate expected".to_string()),
        }
    }
}

/// The bits of a literal as an operand of type `ty`.
fn literal(operand: &Operand, ty: Ty) -> Result<u64, Refusal> {
    match (operand, ty) {
        (Operand::Int(value), _) if !ty.is_float() || *value == 0 => Ok(*value),
        (Operand::F32(bits), Ty::F64) => Ok(f64::from(f32::from_bits(*bits)).to_bits()),
        (Operand::F32(bits), _) if ty.size() == 4 => Ok(u64::from(*bits)),
        (Operand::F64(bits), Ty::F32) => Ok(u64::from((f64::from_bits(*bits) as f32).to_bits())),
        (Operand::F64(bits), _) if ty.size() == 8 => Ok(*bits),
        _ => Err("a literal does not fit the type of the instruction".to_string()),
    }
}

/// Exactly `N` operands.
pub(crate) fn exactly<const N: usize>(operands: &[Operand]) -> Result<&[Operand; N], Refusal> {
    operands.try_into().map_err(|_| format!("{} operands where {N} are expected", operands.len()))
}
