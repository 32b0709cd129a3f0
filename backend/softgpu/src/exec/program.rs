//! A module decoded for execution.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::block::Block;
use super::decode::{Code, Decoder, Problem};
use super::inst::{Inst, Op};
use super::lanes::Lanes;
use super::memory::Heap;
use super::{Fault, LinkError};
use crate::ptx;
use crate::ptx::ast::Symbol;
use crate::ptx::layout;

/// A module decoded for execution, with the addresses of its variables.
pub struct Program {
    pub(crate) module: Arc<ptx::Module>,
    pub(crate) code: Vec<Inst>,
    pub(crate) functions: Vec<Code>,
    pub(crate) constants: Vec<Lanes>,
    problems: Vec<Problem>,
    pub(crate) heap: Heap,
    kernels: HashMap<String, Kernel>,
    /// Blocks of launches that have ended, for their memory.
    pub(crate) spare: Mutex<Vec<Block>>,
}

/// Ended blocks that are kept.
const SPARE_BLOCKS: usize = 4;

/// What a launch needs to know of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Index of its function.
    pub function: usize,
    /// Index into the module's kernels.
    pub info: usize,
    /// The first instruction that it can reach and that cannot be executed.
    pub problem: Option<u32>,
}

impl Program {
    /// Decodes `module`. `addresses`: where each of its variables lies, as host addresses.
    ///
    /// # Errors
    /// [`LinkError`] when code names a variable that has no address.
    pub fn link(module: Arc<ptx::Module>, addresses: &HashMap<String, u64>) -> Result<Program, LinkError> {
        check_variables(&module, addresses)?;
        let mut decoder = Decoder::new(&module, addresses);
        // Every program has the constant 0.
        decoder.constant(0);
        let mut functions = Vec::with_capacity(module.functions.len());
        let mut problem_of = Vec::with_capacity(module.functions.len());
        for function in &module.functions {
            let first = decoder.problems.len();
            functions.push(match &function.body {
                Some(body) => decoder.function(body, function.is_kernel),
                None => Code::default(),
            });
            problem_of.push((decoder.problems.len() > first).then(|| u32::try_from(first).unwrap_or(0)));
        }
        let Decoder { constants, code, problems, .. } = decoder;
        let mut kernels = HashMap::new();
        for (info, kernel) in module.kernels.iter().enumerate() {
            let Some(function) = module.function_index.get(&kernel.name).copied() else { continue };
            let reach = layout::reach(&module, function);
            let mut reached: Vec<usize> = reach.functions.into_iter().collect();
            reached.sort_unstable();
            let problem = reached.iter().find_map(|index| problem_of.get(*index).copied().flatten());
            kernels.insert(kernel.name.clone(), Kernel { function, info, problem });
        }
        Ok(Program {
            module,
            code,
            functions,
            constants,
            problems,
            heap: Heap::default(),
            kernels,
            spare: Mutex::default(),
        })
    }

    pub(crate) fn take_spare(&self) -> Option<Block> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(crate) fn keep_spare(&self, block: Block) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BLOCKS {
            spare.push(block);
        }
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }

    pub(crate) fn unsupported(&self, kernel: &str, problem: u32) -> Fault {
        let problem = self.problems.get(problem as usize).cloned();
        let problem = problem.unwrap_or(Problem { line: 0, reason: "not supported".to_string() });
        Fault::Unsupported {
            kernel: kernel.to_string(),
            line: problem.line,
            text: self.module.line_text(problem.line),
            reason: problem.reason,
        }
    }

    /// How many instructions the program has, for tests and messages.
    pub fn instructions(&self) -> usize {
        self.code.iter().filter(|inst| !matches!(inst.op, Op::Nop)).count()
    }
}

fn check_variables(module: &ptx::Module, addresses: &HashMap<String, u64>) -> Result<(), LinkError> {
    let mut missing = None;
    for function in &module.functions {
        layout::symbols(function, &mut |symbol| {
            if let Symbol::Variable(name) = symbol
                && !addresses.contains_key(name)
            {
                missing.get_or_insert_with(|| name.clone());
            }
        });
    }
    missing.map_or(Ok(()), |name| Err(LinkError::MissingVariable { name }))
}
