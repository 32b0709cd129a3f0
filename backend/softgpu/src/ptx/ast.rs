use std::collections::HashMap;

use super::types::Ty;
use super::{KernelInfo, Variable};

/// Where generic addresses of functions begin; see [`function_address`].
pub(crate) const FUNCTION_WINDOW: u64 = 4 << 56;

/// The address that a function has for indirect calls: an ordinal in a window of its own, never a host address.
pub(crate) fn function_address(index: usize) -> u64 {
    FUNCTION_WINDOW + 16 * (index as u64 + 1)
}

/// A parsed PTX module.
#[derive(Debug)]
pub struct Module {
    pub(crate) kernels: Vec<KernelInfo>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) target: u32,
    pub(crate) functions: Vec<Function>,
    pub(crate) function_index: HashMap<String, usize>,
    pub(crate) shared: Vec<SharedVariable>,
    pub(crate) source: String,
}

impl Module {
    /// The module's kernels, in order of definition.
    pub fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
    }

    /// The module-scope `.global` and `.const` variables.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// What it defines and what it only declares.
    pub fn definitions(&self) -> Definitions {
        let mut result = Definitions::default();
        let functions = self.functions.iter().map(|f| (&f.name, f.body.is_some()));
        let variables = self.variables.iter().map(|v| (&v.name, !v.is_extern));
        for (name, is_defined) in functions.chain(variables) {
            let list = if is_defined { &mut result.defined } else { &mut result.needed };
            list.push(name.clone());
        }
        result
    }

    /// The number in `.target`: 90 for `sm_90`.
    pub fn compute_target(&self) -> u32 {
        self.target
    }

    /// The text of a line of the source, for messages.
    pub(crate) fn line_text(&self, line: u32) -> String {
        let text = self.source.lines().nth((line as usize).saturating_sub(1)).unwrap_or("");
        text.trim().chars().take(200).collect()
    }
}

/// What a module gives to others and what it needs from them.
#[derive(Debug, Default)]
pub struct Definitions {
    /// Names of functions, kernels and variables that it defines.
    pub defined: Vec<String>,
    /// Names that it only declares.
    pub needed: Vec<String>,
}

/// A `.shared` variable, of the module or of one function.
#[derive(Debug, Clone)]
pub(crate) struct SharedVariable {
    pub size: u32,
    pub align: u32,
    /// The kernel that alone uses it.
    pub kernel: Option<usize>,
    /// `.extern .shared x[]`: begins where static shared memory ends.
    pub dynamic: bool,
    /// Bytes from the start of shared memory, set when the module is laid out.
    pub offset: u32,
}

/// A formal parameter or return value and its place in the frame (or in the parameter buffer of a kernel).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formal {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub is_kernel: bool,
    pub returns: Vec<Formal>,
    pub params: Vec<Formal>,
    pub body: Option<Body>,
    pub line: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Body {
    pub statements: Vec<Statement>,
    /// Value registers that the function needs.
    pub values: u32,
    /// Predicate registers that the function needs.
    pub preds: u32,
    /// Bytes of local memory in one frame: formals, `.local` and `.param` variables.
    pub frame: u32,
    /// Targets of `brx.idx`, as statement numbers.
    pub branch_targets: Vec<Vec<usize>>,
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub line: u32,
    /// The predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The opcode with its modifiers, as written.
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub call: Option<Box<Call>>,
    /// Why the statement could not be read; it is an error for a kernel that can reach it.
    pub problem: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub target: Operand,
    pub returns: Vec<Operand>,
    pub arguments: Vec<Operand>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reg {
    pub slot: u32,
    pub ty: Ty,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Symbol {
    /// A `.global` or `.const` variable: its address is known when the module is linked.
    Variable(String),
    /// Index into `Module::shared`.
    Shared(usize),
    /// Bytes from the start of the frame in local memory, and the size of the variable.
    Local {
        offset: u32,
        size: u32,
    },
    /// Bytes from the start of the kernel's parameters.
    KernelParam(u32),
    Function(usize),
    BranchTargets(usize),
    Prototype,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Reg(Reg),
    /// `!%p`
    Not(Reg),
    Int(u64),
    F32(u32),
    F64(u64),
    /// A predefined register with its component, as written without the `%`.
    Special(String),
    /// A statement number.
    Label(usize),
    Symbol(Symbol, i64),
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
    /// A name that its function has not declared yet: (name, scope), resolved at the function's end.
    Name(String, usize),
}
