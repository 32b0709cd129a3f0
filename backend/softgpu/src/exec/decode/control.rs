//! Control flow, barriers, and the instructions of a warp (PTX sections 9.7.12 and 9.7.13).

use super::opcode::Opcode;
use super::{Decoder, Refusal, exactly};
use crate::exec::inst::{
    BlockBarrier, BlockReduce, Op, PredSrc, ReduxOp, ShuffleMode, Special, Src, VoteMode,
};
use crate::exec::inst::{WarpOp, WarpSync};
use crate::ptx::ast::{Operand, Symbol};
use crate::ptx::types::Ty;

/// The barrier behind `barrier.cluster`: a cluster has one block here.
const CLUSTER_BARRIER: u64 = 16;

impl Decoder<'_> {
    /// True where the opcode is one of these.
    pub(super) fn control(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<bool, Refusal> {
        match opcode.name {
            "" => self.branch_targets(opcode),
            "bra" => self.branch(opcode, operands)?,
            "brx" => self.branch_index(opcode, operands)?,
            "ret" => {
                opcode.take("uni");
                self.emit(if self.is_kernel { Op::Exit } else { Op::Return });
            }
            "exit" => self.emit(Op::Exit),
            "trap" | "brkpt" => self.emit(Op::Trap),
            "nanosleep" => {
                opcode.take("u32");
                self.emit(Op::Yield);
            }
            "membar" | "fence" => {
                opcode.mods.clear();
                self.emit(Op::Fence);
            }
            "griddepcontrol" | "prefetch" | "prefetchu" | "pmevent" | "applypriority" | "setmaxnreg" => {
                opcode.mods.clear();
                self.emit(Op::Nop);
            }
            "bar" if opcode.mods.first() == Some(&"warp") => {
                opcode.ignore(&["warp", "sync"]);
                let [mask] = exactly(operands)?;
                let mask = self.value(mask, Ty::B32)?;
                self.warp(WarpOp::Barrier, mask);
            }
            "barrier" if opcode.mods.first() == Some(&"cluster") => self.cluster_barrier(opcode)?,
            "bar" | "barrier" => self.block_barrier(opcode, operands)?,
            "activemask" => {
                opcode.take("b32");
                let [d] = exactly(operands)?;
                let d = self.destination(d)?;
                self.emit(Op::Special { d, which: Special::ActiveMask });
            }
            "shfl" => self.shuffle(opcode, operands)?,
            "vote" => self.vote(opcode, operands)?,
            "match" => self.matching(opcode, operands)?,
            "redux" => self.redux(opcode, operands)?,
            "elect" => {
                opcode.take("sync");
                let [d, mask] = exactly(operands)?;
                let (d, p) = self.pair(d)?;
                let mask = self.value(mask, Ty::B32)?;
                self.warp(WarpOp::Elect { d, p }, mask);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn warp(&mut self, op: WarpOp, mask: Src) {
        self.emit(Op::Warp(Box::new(WarpSync { op, mask })));
    }

    /// The place of a `.branchtargets` in the code: nothing to do.
    fn branch_targets(&mut self, opcode: &mut Opcode<'_>) {
        opcode.mods.clear();
        self.emit(Op::Nop);
    }

    fn branch(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.take("uni");
        let [Operand::Label(target)] = operands else {
            return Err("the target of `bra` is no label".to_string());
        };
        let target = u32::try_from(*target).map_err(|_| "function too large".to_string())?;
        self.emit(Op::Branch { target });
        Ok(())
    }

    fn branch_index(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.ignore(&["idx", "uni"]);
        let [index, Operand::Symbol(Symbol::BranchTargets(list), _)] = operands else {
            return Err("`brx.idx` needs an index and a list of targets".to_string());
        };
        let index = self.value(index, Ty::U32)?;
        let targets = self.targets.get(*list).cloned().unwrap_or_default();
        let targets = targets.iter().map(|t| u32::try_from(*t).unwrap_or(0)).collect();
        self.emit(Op::BranchIndex { index, targets });
        Ok(())
    }

    fn cluster_barrier(&mut self, opcode: &mut Opcode<'_>) -> Result<(), Refusal> {
        let wait = opcode.take("wait");
        if !wait && !opcode.take("arrive") {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        opcode.ignore(&["cluster", "acquire", "release", "relaxed", "aligned"]);
        if !wait {
            self.emit(Op::Fence);
            return Ok(());
        }
        let id = self.constant(CLUSTER_BARRIER);
        self.barrier(BlockBarrier {
            id,
            count: None,
            arrive_only: false,
            reduce: BlockReduce::None,
            value: PredSrc::Const(true),
        });
        Ok(())
    }

    fn barrier(&mut self, barrier: BlockBarrier) {
        self.emit(Op::Block(Box::new(barrier)));
    }

    fn block_barrier(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        opcode.ignore(&["cta", "aligned"]);
        let arrive_only = opcode.take("arrive");
        let mut reduce = BlockReduce::None;
        let mut value = PredSrc::Const(true);
        let mut places = operands;
        if opcode.take("red") {
            let [d, middle @ .., c] = operands else { return Err("operands missing".to_string()) };
            value = self.predicate(c)?;
            places = middle;
            reduce = if opcode.take("popc") {
                opcode.take("u32");
                BlockReduce::Popc { d: self.destination(d)? }
            } else {
                let and = opcode.take("and");
                if !opcode.take("pred") || (!and && !opcode.take("or")) {
                    return Err(format!("`{}` is not supported", opcode.full));
                }
                let p = self.pred_destination(d)?;
                if and { BlockReduce::And { p } } else { BlockReduce::Or { p } }
            };
        } else if !arrive_only && !opcode.take("sync") {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let (id, count) = match places {
            [id] if !arrive_only => (id, None),
            [id, count] => (id, Some(self.value(count, Ty::U32)?)),
            _ => return Err("wrong number of operands".to_string()),
        };
        let id = self.value(id, Ty::U32)?;
        self.barrier(BlockBarrier { id, count, arrive_only, reduce, value });
        Ok(())
    }

    fn shuffle(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        self.require_sync(opcode)?;
        opcode.take("b32");
        let mode = opcode.take_map(|m| match m {
            "up" => Some(ShuffleMode::Up),
            "down" => Some(ShuffleMode::Down),
            "bfly" => Some(ShuffleMode::Butterfly),
            "idx" => Some(ShuffleMode::Index),
            _ => None,
        });
        let mode = mode.ok_or("`shfl` has no mode")?;
        let [d, a, b, c, mask] = exactly(operands)?;
        let (d, p) = self.pair(d)?;
        let [a, b, c, mask] = self.words([a, b, c, mask])?;
        self.warp(WarpOp::Shuffle { mode, d, p, a, b, c }, mask);
        Ok(())
    }

    fn words<const N: usize>(&mut self, operands: [&Operand; N]) -> Result<[Src; N], Refusal> {
        let mut sources = [Src(0); N];
        for (source, operand) in sources.iter_mut().zip(operands) {
            *source = self.value(operand, Ty::B32)?;
        }
        Ok(sources)
    }

    /// The forms without `.sync` do not exist on the architectures that are modelled.
    fn require_sync(&self, opcode: &mut Opcode<'_>) -> Result<(), Refusal> {
        if opcode.take("sync") {
            Ok(())
        } else {
            Err(format!("`{}` without `.sync` is not supported", opcode.name))
        }
    }

    fn vote(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        self.require_sync(opcode)?;
        let mode = opcode.take_map(|m| match m {
            "all" => Some(VoteMode::All),
            "any" => Some(VoteMode::Any),
            "uni" => Some(VoteMode::Uniform),
            "ballot" => Some(VoteMode::Ballot),
            _ => None,
        });
        let mode = mode.ok_or("`vote` has no mode")?;
        let [result, a, mask] = exactly(operands)?;
        let a = self.predicate(a)?;
        let mask = self.value(mask, Ty::B32)?;
        let (mut d, mut p) = (crate::exec::inst::NOWHERE, crate::exec::inst::NOWHERE);
        if mode == VoteMode::Ballot {
            opcode.take("b32");
            d = self.destination(result)?;
        } else {
            opcode.take("pred");
            p = self.pred_destination(result)?;
        }
        self.warp(WarpOp::Vote { mode, d, p, a }, mask);
        Ok(())
    }

    fn matching(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        self.require_sync(opcode)?;
        let ty = opcode.ty()?;
        let wide = ty.size() == 8;
        let [d, a, mask] = exactly(operands)?;
        let a = self.value(a, ty)?;
        let mask = self.value(mask, Ty::B32)?;
        let (d, p) = self.pair(d)?;
        if opcode.take("any") {
            self.warp(WarpOp::MatchAny { d, a, wide }, mask);
        } else if opcode.take("all") {
            self.warp(WarpOp::MatchAll { d, p, a, wide }, mask);
        } else {
            return Err("`match` has no mode".to_string());
        }
        Ok(())
    }

    fn redux(&mut self, opcode: &mut Opcode<'_>, operands: &[Operand]) -> Result<(), Refusal> {
        self.require_sync(opcode)?;
        let ty = opcode.ty()?;
        if ty.is_float() || ty.size() != 4 {
            return Err(format!("`{}` is not supported", opcode.full));
        }
        let op = opcode.take_map(|m| match m {
            "add" => Some(ReduxOp::Add),
            "min" => Some(ReduxOp::Min),
            "max" => Some(ReduxOp::Max),
            "and" => Some(ReduxOp::And),
            "or" => Some(ReduxOp::Or),
            "xor" => Some(ReduxOp::Xor),
            _ => None,
        });
        let op = op.ok_or("`redux` has no operation")?;
        let [d, a, mask] = exactly(operands)?;
        let d = self.destination(d)?;
        let [a, mask] = self.words([a, mask])?;
        self.warp(WarpOp::Redux { op, signed: ty.is_signed(), d, a }, mask);
        Ok(())
    }
}
