//! Calls: direct, through a pointer, and of the few functions that the runtime provides.

use super::{Decoder, Refusal};
use crate::exec::inst::{CallSite, Callee, Op};
use crate::ptx::ast::{Call, Operand, Symbol};
use crate::ptx::types::Ty;

impl Decoder<'_> {
    pub(super) fn call(&mut self, call: &Call) -> Result<(), Refusal> {
        let arguments = places(&call.arguments)?;
        let returns = places(&call.returns)?;
        let callee = match &call.target {
            Operand::Symbol(Symbol::Function(index), 0) => self.callee(*index)?,
            target @ Operand::Reg(_) => Callee::Pointer(self.value(target, Ty::U64)?),
            _ => return Err("the target of a call is not a function".to_string()),
        };
        self.emit(Op::Call(Box::new(CallSite { callee, arguments, returns })));
        Ok(())
    }

    fn callee(&self, index: usize) -> Result<Callee, Refusal> {
        let function = self.module.functions.get(index).ok_or("unknown function")?;
        // An alias declared before its target: the name leads to the function meant.
        let index = self.module.function_index.get(&function.name).copied().unwrap_or(index);
        let function = self.module.functions.get(index).ok_or("unknown function")?;
        if function.body.is_some() {
            return u32::try_from(index).map(Callee::Direct).map_err(|_| "too many functions".to_string());
        }
        Ok(match function.name.as_str() {
            "vprintf" => Callee::Print,
            "__assertfail" => Callee::AssertFail,
            "malloc" => Callee::Malloc,
            "free" => Callee::Free,
            "cudaGraphSetConditional" => Callee::SetConditional,
            name => return Err(format!("function `{name}` is not defined in this module")),
        })
    }
}

/// Frame offsets and sizes of `.param` variables.
fn places(operands: &[Operand]) -> Result<Vec<(u32, u32)>, Refusal> {
    operands
        .iter()
        .map(|operand| match operand {
            Operand::Symbol(Symbol::Local { offset, size }, 0) => Ok((*offset, *size)),
            _ => Err("an argument of a call is not a `.param` variable".to_string()),
        })
        .collect()
}
