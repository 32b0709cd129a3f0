//! `.func` and `.entry`: signatures, performance directives, and the scopes of a body.

use super::ast::{Body, Formal, Function, Operand, Reg, Symbol};
use super::layout::align_up;
use super::lexer::Kind;
use super::parse::{Declaration, Parser};
use super::scope::Scope;
use super::types::Ty;
use super::{KernelInfo, Param, ParseError};

/// Largest frame and parameter buffer accepted, in bytes.
const MAX_FRAME: u32 = 1 << 24;
/// Most registers accepted in one function.
const MAX_REGISTERS: u32 = 1 << 20;

/// The state of the body being read.
pub(crate) struct Reading {
    pub function: usize,
    pub scopes: Vec<Scope>,
    pub current: usize,
    pub body: Body,
    values: u32,
    preds: u32,
    frame: u32,
}

impl Reading {
    pub fn new(function: usize) -> Reading {
        Reading {
            function,
            scopes: vec![Scope::default()],
            current: 0,
            body: Body::default(),
            values: 0,
            preds: 0,
            frame: 0,
        }
    }

    /// Takes `size` bytes of the frame.
    pub fn allocate(&mut self, size: u32, align: u32) -> u32 {
        let offset = align_up(self.frame, align);
        self.frame = offset.saturating_add(size);
        self.body.frame = self.body.frame.max(self.frame);
        offset
    }

    fn allocate_registers(&mut self, ty: Ty, count: u32) -> u32 {
        let (used, most) = if ty == Ty::Pred {
            (&mut self.preds, &mut self.body.preds)
        } else {
            (&mut self.values, &mut self.body.values)
        };
        let first = *used;
        *used = used.saturating_add(count);
        *most = (*most).max(*used);
        first
    }

    pub fn open(&mut self) {
        let scope = Scope {
            parent: Some(self.current),
            values: self.values,
            preds: self.preds,
            frame: self.frame,
            ..Scope::default()
        };
        self.current = self.scopes.len();
        self.scopes.push(scope);
    }

    /// Leaves the current scope; false for the outermost one.
    pub fn close(&mut self) -> bool {
        let scope = &self.scopes[self.current];
        let Some(parent) = scope.parent else { return false };
        (self.values, self.preds, self.frame) = (scope.values, scope.preds, scope.frame);
        self.current = parent;
        true
    }

    pub fn scope(&mut self) -> &mut Scope {
        &mut self.scopes[self.current]
    }

    /// Walks from `from` outwards until `find` finds something.
    pub fn lookup<T>(&self, from: usize, find: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        let mut at = Some(from);
        while let Some(index) = at {
            let scope = self.scopes.get(index)?;
            if let Some(found) = find(scope) {
                return Some(found);
            }
            at = scope.parent;
        }
        None
    }
}

impl<'a> Parser<'a> {
    pub(crate) fn function(&mut self, is_kernel: bool) -> Result<(), ParseError> {
        let line = self.peek().line;
        let mut reading = Reading::new(0);
        let mut function = Function { is_kernel, line, ..Function::default() };
        if self.peek().kind == Kind::Punct(b'(') {
            function.returns = self.formals(&mut reading, false)?;
        }
        function.name = self.word()?.to_string();
        if self.peek().kind == Kind::Punct(b'(') {
            function.params = self.formals(&mut reading, is_kernel)?;
        }
        let index = self.declare_function(&function);
        reading.function = index;
        let mut info = KernelInfo {
            name: function.name.clone(),
            params: function
                .params
                .iter()
                .map(|f| Param { offset: f.offset, size: f.size, align: f.align })
                .collect(),
            static_shared: 0,
            local_bytes: 0,
            max_threads: None,
            required_block: None,
        };
        self.performance_directives(&mut info)?;
        if self.accept(b';') {
            return Ok(());
        }
        self.expect(b'{')?;
        let body = self.body(reading)?;
        if is_kernel {
            info.local_bytes = body.frame;
            self.kernels.push(info);
        }
        function.body = Some(body);
        self.functions[index] = function;
        Ok(())
    }

    fn declare_function(&mut self, function: &Function) -> usize {
        if let Some(index) = self.function_index.get(&function.name) {
            return *index;
        }
        let index = self.functions.len();
        self.functions.push(Function {
            name: function.name.clone(),
            is_kernel: function.is_kernel,
            returns: function.returns.clone(),
            params: function.params.clone(),
            body: None,
            line: function.line,
        });
        self.function_index.insert(function.name.clone(), index);
        index
    }

    /// `( .param .b32 a, .param .align 8 .b8 b[16] )`; of a kernel they lie in the parameter buffer, else in the frame.
    fn formals(&mut self, reading: &mut Reading, is_kernel: bool) -> Result<Vec<Formal>, ParseError> {
        self.expect(b'(')?;
        let mut formals = Vec::new();
        let mut end = 0u32;
        while !self.accept(b')') {
            if !self.accept_dot("param") {
                self.next();
                return Err(self.error("parameters in registers are not supported, only `.param`"));
            }
            let declaration = self.declaration()?;
            let size = self.local_size(&declaration)?;
            let align = declaration.align;
            let offset = if is_kernel { align_up(end, align) } else { reading.allocate(size, align) };
            end = offset.saturating_add(size);
            let symbol = if is_kernel { Symbol::KernelParam(offset) } else { Symbol::Local { offset, size } };
            reading.scope().symbols.insert(declaration.name.to_string(), symbol);
            formals.push(Formal { offset, size, align });
            if !self.accept(b',') && self.peek().kind != Kind::Punct(b')') {
                return Err(self.error("parameters need `,` or `)`"));
            }
        }
        Ok(formals)
    }

    fn local_size(&self, declaration: &Declaration<'_>) -> Result<u32, ParseError> {
        let size = if declaration.unsized_array { Some(0) } else { declaration.size() };
        size.and_then(|size| u32::try_from(size).ok())
            .filter(|size| *size <= MAX_FRAME)
            .ok_or_else(|| self.error("a variable of a function is too large"))
    }

    fn performance_directives(&mut self, info: &mut KernelInfo) -> Result<(), ParseError> {
        while let Kind::Dot(name) = self.peek().kind {
            self.next();
            match name {
                "maxntid" | "reqntid" => {
                    let shape = self.shape()?;
                    if name == "reqntid" {
                        info.required_block = Some(shape);
                    } else {
                        info.max_threads = Some(shape.iter().fold(1u32, |n, d| n.saturating_mul(*d)));
                    }
                }
                "reqnctapercluster" => {
                    let shape = self.shape()?;
                    if shape != [1, 1, 1] {
                        return Err(self.error("clusters of more than one block are not supported"));
                    }
                }
                "minnctapersm"
                | "maxnctapersm"
                | "maxnreg"
                | "maxclusterrank"
                | "abi_preserve"
                | "abi_preserve_control" => {
                    self.integer()?;
                }
                "pragma" => self.skip_statement(),
                "noreturn" | "explicitcluster" | "blocksareclusters" => {}
                other => return Err(self.error(format!("directive `.{other}` is not supported"))),
            }
        }
        Ok(())
    }

    fn shape(&mut self) -> Result<[u32; 3], ParseError> {
        let mut shape = [1u32; 3];
        for (axis, size) in shape.iter_mut().enumerate() {
            if axis > 0 && !self.accept(b',') {
                break;
            }
            *size = self.small()?;
        }
        Ok(shape)
    }

    fn body(&mut self, mut reading: Reading) -> Result<Body, ParseError> {
        loop {
            let token = self.peek();
            match token.kind {
                Kind::Punct(b'{') => {
                    self.next();
                    reading.open();
                }
                Kind::Punct(b'}') => {
                    self.next();
                    if !reading.close() {
                        break;
                    }
                }
                Kind::Punct(b';') => {
                    self.next();
                }
                Kind::Dot(name) => {
                    self.next();
                    self.body_directive(name, token.line, &mut reading)?;
                }
                Kind::Word(name) if self.peek_at(1).kind == Kind::Punct(b':') => {
                    self.next();
                    self.next();
                    self.label(name, &mut reading)?;
                }
                Kind::End => return Err(self.error("a function has no end")),
                _ => self.statement(&mut reading)?,
            }
        }
        self.resolve(&mut reading)?;
        Ok(reading.body)
    }

    fn label(&mut self, name: &str, reading: &mut Reading) -> Result<(), ParseError> {
        match self.peek().kind {
            Kind::Dot("callprototype") => {
                self.skip_statement();
                reading.scope().symbols.insert(name.to_string(), Symbol::Prototype);
            }
            Kind::Dot("branchtargets") => {
                self.next();
                let mut labels = Vec::new();
                loop {
                    labels.push(self.word()?);
                    if !self.accept(b',') {
                        break;
                    }
                }
                self.expect(b';')?;
                let index = reading.body.branch_targets.len();
                reading.body.branch_targets.push(Vec::new());
                reading.scope().symbols.insert(name.to_string(), Symbol::BranchTargets(index));
                let scope = reading.current;
                self.defer_targets(reading, index, scope, &labels);
            }
            _ => {
                let at = reading.body.statements.len();
                reading.scope().labels.insert(name.to_string(), at);
            }
        }
        Ok(())
    }

    fn body_directive(&mut self, name: &str, line: u32, reading: &mut Reading) -> Result<(), ParseError> {
        match name {
            "loc" | "file" => self.skip_line(line),
            "pragma" => self.skip_statement(),
            "reg" => self.registers(reading)?,
            "local" | "param" => {
                let declaration = self.declaration()?;
                let size = self.local_size(&declaration)?;
                self.expect(b';')?;
                let offset = reading.allocate(size, declaration.align);
                if reading.body.frame > MAX_FRAME {
                    return Err(self.error("a function has too much local memory"));
                }
                reading.scope().symbols.insert(declaration.name.to_string(), Symbol::Local { offset, size });
            }
            "shared" => {
                let declaration = self.declaration()?;
                self.expect(b';')?;
                let kernel =
                    self.functions.get(reading.function).filter(|f| f.is_kernel).map(|_| reading.function);
                let index = self.add_shared(&declaration, kernel, false)?;
                reading.scope().symbols.insert(declaration.name.to_string(), Symbol::Shared(index));
            }
            other => return Err(self.error(format!("directive `.{other}` in a function is not supported"))),
        }
        Ok(())
    }

    fn registers(&mut self, reading: &mut Reading) -> Result<(), ParseError> {
        let Kind::Dot(name) = self.next().kind else {
            return Err(self.error("type expected after `.reg`"));
        };
        let ty =
            Ty::parse(name).ok_or_else(|| self.error(format!("register type `.{name}` is not supported")))?;
        loop {
            let name = self.word()?;
            if self.accept(b'<') {
                let count = self.small()?;
                self.expect(b'>')?;
                let first = reading.allocate_registers(ty, count);
                reading.scope().declare_range(name, first, count, ty);
            } else {
                let slot = reading.allocate_registers(ty, 1);
                reading.scope().declare(name, Reg { slot, ty });
            }
            if reading.body.values.max(reading.body.preds) > MAX_REGISTERS {
                return Err(self.error("a function has too many registers"));
            }
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    /// What a name means in `scope`, once all of the function is known.
    pub(crate) fn resolve_name(&self, reading: &Reading, name: &str, scope: usize) -> Option<Operand> {
        if let Some(at) = reading.lookup(scope, |scope| scope.labels.get(name).copied()) {
            return Some(Operand::Label(at));
        }
        self.resolve_symbol(reading, name, scope).map(|symbol| Operand::Symbol(symbol, 0))
    }

    fn resolve_symbol(&self, reading: &Reading, name: &str, scope: usize) -> Option<Symbol> {
        if let Some(symbol) = reading.lookup(scope, |scope| scope.symbols.get(name).cloned()) {
            return Some(symbol);
        }
        if let Some(symbol) = self.symbols.get(name) {
            return Some(symbol.clone());
        }
        self.function_index.get(name).map(|index| Symbol::Function(*index))
    }
}
