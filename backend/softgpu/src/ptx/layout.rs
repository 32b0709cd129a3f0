//! Places of shared variables.
//!
//! A variable that only one kernel names begins at offset 0 of that kernel's shared memory. Variables of the module and of
//! device functions, which several kernels may reach, lie at the same place in every kernel, below those of the kernel.

use std::collections::HashSet;

use super::ParseError;
use super::ast::{Function, Module, Operand, Symbol};
use super::lexer::error_at;

const MAX_SHARED: u32 = 1 << 20;

/// What a function reaches through calls and addresses.
#[derive(Default)]
pub(crate) struct Reach {
    pub functions: HashSet<usize>,
    pub shared: HashSet<usize>,
}

/// Rounds up to a multiple of `align`, a power of two.
pub(crate) fn align_up(value: u32, align: u32) -> u32 {
    let mask = align.max(1) - 1;
    value.saturating_add(mask) & !mask
}

fn visit(operand: &Operand, found: &mut dyn FnMut(&Symbol)) {
    match operand {
        Operand::Symbol(symbol, _) => found(symbol),
        Operand::Address(base, _) => visit(base, found),
        Operand::Vector(items) => items.iter().for_each(|item| visit(item, found)),
        Operand::Pair(a, b) => {
            visit(a, found);
            visit(b, found);
        }
        _ => {}
    }
}

/// Calls `found` for each symbol in the body of `function`, and says whether it calls through a pointer.
pub(crate) fn symbols(function: &Function, found: &mut dyn FnMut(&Symbol)) -> bool {
    let mut indirect = false;
    let Some(body) = &function.body else { return false };
    for statement in &body.statements {
        statement.operands.iter().for_each(|operand| visit(operand, found));
        if let Some(call) = &statement.call {
            visit(&call.target, found);
            call.arguments.iter().for_each(|operand| visit(operand, found));
            indirect |= matches!(call.target, Operand::Reg(_));
        }
    }
    indirect
}

/// Everything that `start` can reach. Behind a pointer any function can be, except kernels.
pub(crate) fn reach(module: &Module, start: usize) -> Reach {
    let mut reach = Reach::default();
    let mut open = vec![start];
    let mut all_added = false;
    while let Some(index) = open.pop() {
        if !reach.functions.insert(index) {
            continue;
        }
        let Some(function) = module.functions.get(index) else { continue };
        let mut called = Vec::new();
        let indirect = symbols(function, &mut |symbol| match symbol {
            Symbol::Function(index) => called.push(*index),
            Symbol::Shared(index) => {
                reach.shared.insert(*index);
            }
            _ => {}
        });
        open.extend(called);
        if indirect && !all_added {
            all_added = true;
            let others = module.functions.iter().enumerate();
            open.extend(others.filter(|(_, f)| !f.is_kernel && f.body.is_some()).map(|(i, _)| i));
        }
    }
    reach
}

pub(crate) fn place_shared(module: &mut Module) -> Result<(), ParseError> {
    let mut common_end = 0u32;
    for variable in &mut module.shared {
        if variable.kernel.is_none() && !variable.dynamic {
            variable.offset = align_up(common_end, variable.align);
            common_end = variable.offset.saturating_add(variable.size);
        }
    }
    for kernel in 0..module.kernels.len() {
        let Some(start) = module.function_index.get(&module.kernels[kernel].name).copied() else { continue };
        let reach = reach(module, start);
        let mut end = 0u32;
        for (index, variable) in module.shared.iter().enumerate() {
            if variable.kernel.is_none() && !variable.dynamic && reach.shared.contains(&index) {
                end = end.max(variable.offset.saturating_add(variable.size));
            }
        }
        for variable in &mut module.shared {
            if variable.kernel == Some(start) && !variable.dynamic {
                variable.offset = align_up(end, variable.align);
                end = variable.offset.saturating_add(variable.size);
            }
        }
        if end > MAX_SHARED {
            let line = module.functions.get(start).map_or(0, |function| function.line);
            return Err(error_at(
                &module.source,
                line,
                format!("{end} bytes of static shared memory are too many"),
            ));
        }
        module.kernels[kernel].static_shared = end;
    }
    Ok(())
}
