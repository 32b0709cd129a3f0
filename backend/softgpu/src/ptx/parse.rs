//! The module level: directives, variables, and the cursor that all parts of the parser use.

use std::collections::HashMap;

use super::ast::{Function, Module, SharedVariable, Symbol};
use super::data::Data;
use super::lexer::{Kind, Token, error_at, tokenize};
use super::types::Ty;
use super::{KernelInfo, Opaque, ParseError, Space, Variable, layout};

/// Largest variable accepted, in bytes, so that a hostile declaration cannot exhaust memory.
pub(crate) const MAX_VARIABLE: usize = 1 << 32;

pub(crate) struct Parser<'a> {
    pub source: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    pub functions: Vec<Function>,
    pub function_index: HashMap<String, usize>,
    pub kernels: Vec<KernelInfo>,
    pub variables: Vec<Variable>,
    /// Names of variables, with their place in `variables`.
    pub variable_names: HashMap<String, usize>,
    pub shared: Vec<SharedVariable>,
    /// Module-scope symbols other than functions.
    pub symbols: HashMap<String, Symbol>,
    target: u32,
}

/// A variable's declaration up to its initialiser.
pub(crate) struct Declaration<'a> {
    pub name: &'a str,
    pub ty: Ty,
    pub vector: u32,
    pub align: u32,
    pub dims: Vec<u64>,
    /// `x[]`
    pub unsized_array: bool,
    pub managed: bool,
    pub opaque: Option<Opaque>,
}

impl Declaration<'_> {
    /// Bytes, `None` when beyond what is accepted.
    pub fn size(&self) -> Option<u64> {
        let unit = u64::from(self.ty.size()) * u64::from(self.vector);
        let size = self.dims.iter().try_fold(unit, |size, dim| size.checked_mul(*dim))?;
        (size <= MAX_VARIABLE as u64).then_some(size)
    }
}

impl Module {
    /// Parses PTX text (trailing NULs allowed).
    ///
    /// # Errors
    /// [`ParseError`] where the text is not PTX. An instruction that is merely unknown is no error here, but one for
    /// every kernel that can reach it.
    pub fn parse(source: &str) -> Result<Module, ParseError> {
        let source = source.trim_end_matches('\0');
        let mut parser = Parser::new(source)?;
        parser.module()?;
        let mut module = Module {
            kernels: parser.kernels,
            variables: parser.variables,
            target: parser.target,
            functions: parser.functions,
            function_index: parser.function_index,
            shared: parser.shared,
            source: source.to_string(),
        };
        layout::place_shared(&mut module)?;
        Ok(module)
    }
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Result<Parser<'a>, ParseError> {
        Ok(Parser {
            source,
            tokens: tokenize(source)?,
            at: 0,
            functions: Vec::new(),
            function_index: HashMap::new(),
            kernels: Vec::new(),
            variables: Vec::new(),
            variable_names: HashMap::new(),
            shared: Vec::new(),
            symbols: HashMap::new(),
            target: 0,
        })
    }

    pub fn peek(&self) -> Token<'a> {
        self.peek_at(0)
    }

    pub fn peek_at(&self, ahead: usize) -> Token<'a> {
        let end = Token { kind: Kind::End, line: 0, start: 0, end: 0 };
        self.tokens.get(self.at + ahead).or(self.tokens.last()).copied().unwrap_or(end)
    }

    pub fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    pub fn error(&self, reason: impl Into<String>) -> ParseError {
        let token = self.tokens.get(self.at.saturating_sub(1)).copied().unwrap_or(self.peek());
        error_at(self.source, token.line, reason)
    }

    pub fn accept(&mut self, punct: u8) -> bool {
        let found = self.peek().kind == Kind::Punct(punct);
        self.at += usize::from(found);
        found
    }

    pub fn accept_dot(&mut self, name: &str) -> bool {
        let found = self.peek().kind == Kind::Dot(name);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, punct: u8) -> Result<(), ParseError> {
        if self.accept(punct) {
            return Ok(());
        }
        self.next();
        Err(self.error(format!("`{}` expected", char::from(punct))))
    }

    pub fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.next().kind {
            Kind::Word(word) => Ok(word),
            _ => Err(self.error("name expected")),
        }
    }

    pub fn integer(&mut self) -> Result<u64, ParseError> {
        match self.next().kind {
            Kind::Int(value) => Ok(value),
            _ => Err(self.error("number expected")),
        }
    }

    pub fn small(&mut self) -> Result<u32, ParseError> {
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| self.error(format!("number {value} is too large here")))
    }

    /// Skips what is left of the current line (`.loc`, `.file`).
    pub fn skip_line(&mut self, line: u32) {
        while self.peek().line == line && self.peek().kind != Kind::End {
            self.at += 1;
        }
    }

    /// Skips to the token after the next `;`.
    pub fn skip_statement(&mut self) {
        loop {
            match self.next().kind {
                Kind::Punct(b';') | Kind::End => return,
                _ => {}
            }
        }
    }

    fn module(&mut self) -> Result<(), ParseError> {
        loop {
            let token = self.next();
            match token.kind {
                Kind::End => return Ok(()),
                Kind::Punct(b';') => {}
                // `@@DWARF`, the debug data of old assemblers.
                Kind::Punct(b'@') => self.skip_line(token.line),
                Kind::Dot(name) => self.directive(name, token)?,
                _ => return Err(self.error("directive expected")),
            }
        }
    }

    fn directive(&mut self, name: &str, token: Token<'a>) -> Result<(), ParseError> {
        match name {
            "version" => {
                self.next();
            }
            "file" | "loc" => self.skip_line(token.line),
            "target" => {
                let target = self.word()?;
                let digits: String = target
                    .chars()
                    .skip_while(|c| !c.is_ascii_digit())
                    .take_while(char::is_ascii_digit)
                    .collect();
                self.target =
                    digits.parse().map_err(|_| self.error(format!("target `{target}` is unknown")))?;
                while self.accept(b',') {
                    self.word()?;
                }
            }
            "address_size" => {
                let bits = self.integer()?;
                if bits != 64 {
                    return Err(self.error(format!("address size {bits} is not supported, only 64")));
                }
            }
            "pragma" => self.skip_statement(),
            "section" => self.skip_section()?,
            "alias" => self.alias()?,
            "extern" | "visible" | "weak" | "common" => {
                let Kind::Dot(kind) = self.next().kind else {
                    return Err(self.error("directive expected after a linking directive"));
                };
                self.definition(kind, name == "extern")?;
            }
            other => self.definition(other, false)?,
        }
        Ok(())
    }

    fn definition(&mut self, kind: &str, is_extern: bool) -> Result<(), ParseError> {
        match kind {
            "func" | "entry" => self.function(kind == "entry"),
            "global" => self.variable(Space::Global, is_extern),
            "const" => self.variable(Space::Const, is_extern),
            "shared" => self.module_shared(is_extern),
            other => Err(self.error(format!("directive `.{other}` is not supported"))),
        }
    }

    fn skip_section(&mut self) -> Result<(), ParseError> {
        while self.peek().kind != Kind::Punct(b'{') {
            if self.next().kind == Kind::End {
                return Err(self.error("a section has no body"));
            }
        }
        let mut depth = 0u32;
        loop {
            match self.next().kind {
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') if depth == 1 => return Ok(()),
                Kind::Punct(b'}') => depth -= 1,
                Kind::End => return Err(self.error("a section has no end")),
                _ => {}
            }
        }
    }

    fn alias(&mut self) -> Result<(), ParseError> {
        let name = self.word()?;
        self.expect(b',')?;
        let target = self.word()?;
        self.expect(b';')?;
        let index = self.function_index.get(target).copied();
        let index =
            index.ok_or_else(|| self.error(format!("alias of `{target}`, which is not a function")))?;
        // The alias was declared as a function of its own, perhaps called already: it forwards by name.
        if let Some(old) = self.function_index.insert(name.to_string(), index)
            && let Some(function) = self.functions.get_mut(old)
        {
            function.name = target.to_string();
        }
        Ok(())
    }

    /// Reads `.align 8 .b8 name[16]` with attributes, up to what follows the dimensions.
    pub fn declaration(&mut self) -> Result<Declaration<'a>, ParseError> {
        let mut declaration = Declaration {
            name: "",
            ty: Ty::B8,
            vector: 1,
            align: 0,
            dims: Vec::new(),
            unsized_array: false,
            managed: false,
            opaque: None,
        };
        // What follows `.ptr` describes the memory pointed to, not the variable.
        let mut pointee = false;
        while let Kind::Dot(word) = self.peek().kind {
            self.next();
            match word {
                "align" => {
                    let align = self.small()?;
                    if !align.is_power_of_two() {
                        return Err(self.error("alignment is not a power of two"));
                    }
                    if !pointee {
                        declaration.align = align;
                    }
                }
                "ptr" => pointee = true,
                "v2" => declaration.vector = 2,
                "v4" => declaration.vector = 4,
                "attribute" => declaration.managed |= self.attribute()?,
                "global" | "const" | "shared" | "local" | "param" => {}
                "texref" => (declaration.ty, declaration.opaque) = (Ty::B64, Some(Opaque::Texture)),
                "surfref" => (declaration.ty, declaration.opaque) = (Ty::B64, Some(Opaque::Surface)),
                other => {
                    declaration.ty = Ty::parse(other)
                        .ok_or_else(|| self.error(format!("type `.{other}` is not supported")))?;
                }
            }
        }
        declaration.name = self.word()?;
        while self.accept(b'[') {
            if self.accept(b']') {
                declaration.unsized_array = true;
            } else {
                declaration.dims.push(self.integer()?);
                if declaration.dims.len() > 16 {
                    return Err(self.error("a variable has more than 16 dimensions"));
                }
                self.expect(b']')?;
            }
        }
        if declaration.align == 0 {
            declaration.align = declaration.ty.size() * declaration.vector;
        }
        Ok(declaration)
    }

    fn attribute(&mut self) -> Result<bool, ParseError> {
        self.expect(b'(')?;
        let mut managed = false;
        loop {
            match self.next().kind {
                Kind::Dot("managed") => managed = true,
                Kind::Punct(b')') => return Ok(managed),
                Kind::End => return Err(self.error("an attribute has no end")),
                _ => {}
            }
        }
    }

    fn variable(&mut self, space: Space, is_extern: bool) -> Result<(), ParseError> {
        let mut declaration = self.declaration()?;
        let mut data = Data::default();
        if self.accept(b'=') {
            data = self.initialiser(declaration.ty, &declaration.dims)?;
            if declaration.unsized_array {
                let unit = declaration.ty.size() as usize;
                declaration.dims.insert(0, (data.bytes.len() / unit.max(1)) as u64);
            }
        } else if declaration.unsized_array {
            declaration.dims.push(0);
        }
        self.expect(b';')?;
        let size = declaration.size().ok_or_else(|| self.error("a variable is too large"))?;
        let length = usize::try_from(size).map_err(|_| self.error("a variable is too large"))?;
        if data.bytes.len() > length {
            return Err(self.error("an initialiser is longer than its variable"));
        }
        data.bytes.resize(length, 0);
        let name = declaration.name.to_string();
        let variable = Variable {
            name: name.clone(),
            space,
            size,
            align: u64::from(declaration.align),
            init: data.bytes,
            relocations: data.relocations,
            is_extern,
            managed: declaration.managed,
            opaque: declaration.opaque,
        };
        self.symbols.insert(name.clone(), Symbol::Variable(name.clone()));
        match self.variable_names.get(&name).copied() {
            // An extern declaration may be followed by the definition.
            Some(old) if !is_extern => self.variables[old] = variable,
            Some(_) => {}
            None => {
                self.variable_names.insert(name, self.variables.len());
                self.variables.push(variable);
            }
        }
        Ok(())
    }

    fn module_shared(&mut self, is_extern: bool) -> Result<(), ParseError> {
        let declaration = self.declaration()?;
        self.expect(b';')?;
        let index = self.add_shared(&declaration, None, is_extern)?;
        self.symbols.insert(declaration.name.to_string(), Symbol::Shared(index));
        Ok(())
    }

    /// Records a shared variable and returns its index.
    pub fn add_shared(
        &mut self,
        declaration: &Declaration<'_>,
        kernel: Option<usize>,
        is_extern: bool,
    ) -> Result<usize, ParseError> {
        let dynamic = declaration.unsized_array || is_extern;
        let size = if declaration.unsized_array { Some(0) } else { declaration.size() };
        let size = size.and_then(|size| u32::try_from(size).ok()).filter(|size| *size <= 1 << 20);
        let size = size.ok_or_else(|| self.error("a shared variable is too large"))?;
        self.shared.push(SharedVariable { size, align: declaration.align, kernel, dynamic, offset: 0 });
        Ok(self.shared.len() - 1)
    }
}
