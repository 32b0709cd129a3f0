//! Statements of a function body: guard, opcode, operands.

use super::ParseError;
use super::ast::{Call, Operand, Statement};
use super::function::Reading;
use super::lexer::{Kind, error_at};
use super::parse::Parser;
use super::types::Ty;

/// Opcode of the pseudo statement that carries the labels of a `.branchtargets` until they are resolved.
const TARGETS: &str = ".branchtargets";

impl<'a> Parser<'a> {
    /// Reads one instruction. One with unknown syntax is kept with the problem that it has.
    pub(crate) fn statement(&mut self, reading: &mut Reading) -> Result<(), ParseError> {
        let line = self.peek().line;
        let start = self.position();
        let mut statement = Statement {
            line,
            guard: None,
            opcode: String::new(),
            operands: Vec::new(),
            call: None,
            problem: None,
        };
        if let Err(error) = self.fill_statement(reading, &mut statement) {
            self.rewind(start);
            self.skip_statement();
            statement.problem = Some(error.reason);
        }
        reading.body.statements.push(statement);
        Ok(())
    }

    fn fill_statement(&mut self, reading: &mut Reading, statement: &mut Statement) -> Result<(), ParseError> {
        if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.word()?;
            let reg = reading.lookup(reading.current, |scope| scope.register(name));
            let reg = reg.filter(|reg| reg.ty == Ty::Pred);
            let reg = reg.ok_or_else(|| self.error(format!("guard `{name}` is not a predicate register")))?;
            statement.guard = Some((reg.slot, negated));
        }
        let first = self.next();
        let Kind::Word(_) = first.kind else { return Err(self.error("instruction expected")) };
        statement.line = first.line;
        let mut end = first.end;
        while let Kind::Dot(_) = self.peek().kind
            && self.peek().start == end
        {
            end = self.next().end;
        }
        statement.opcode = self.source.get(first.start..end).unwrap_or("").to_string();
        if statement.opcode == "call" || statement.opcode == "call.uni" {
            statement.call = Some(Box::new(self.call(reading)?));
            return Ok(());
        }
        while !self.accept(b';') {
            let operand = self.operand(reading)?;
            statement.operands.push(operand);
            if !self.accept(b',') && self.peek().kind != Kind::Punct(b';') {
                return Err(self.error("operands need `,` or `;`"));
            }
        }
        Ok(())
    }

    fn call(&mut self, reading: &mut Reading) -> Result<Call, ParseError> {
        let mut returns = Vec::new();
        if self.peek().kind == Kind::Punct(b'(') {
            returns = self.list(reading)?;
            self.expect(b',')?;
        }
        let target = self.operand(reading)?;
        let mut arguments = Vec::new();
        while self.accept(b',') {
            if self.peek().kind == Kind::Punct(b'(') {
                arguments = self.list(reading)?;
            } else {
                // The prototype of an indirect call; the function that is called knows its own.
                self.operand(reading)?;
            }
        }
        self.expect(b';')?;
        Ok(Call { target, returns, arguments })
    }

    fn list(&mut self, reading: &mut Reading) -> Result<Vec<Operand>, ParseError> {
        self.expect(b'(')?;
        let mut items = Vec::new();
        while !self.accept(b')') {
            items.push(self.operand(reading)?);
            if !self.accept(b',') && self.peek().kind != Kind::Punct(b')') {
                return Err(self.error("a list needs `,` or `)`"));
            }
        }
        Ok(items)
    }

    fn operand(&mut self, reading: &mut Reading) -> Result<Operand, ParseError> {
        let mut operand = self.simple_operand(reading)?;
        if self.accept(b'|') {
            let second = self.simple_operand(reading)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        // A symbol with an offset outside brackets: `mov.u64 %rd1, table+8`.
        if matches!(operand, Operand::Name(..) | Operand::Symbol(..))
            && matches!(self.peek().kind, Kind::Punct(b'+' | b'-'))
        {
            let offset = self.offset()?;
            operand = Operand::Address(Box::new(operand), offset);
            return Ok(Operand::Vector(vec![Operand::Sink, operand]));
        }
        Ok(operand)
    }

    /// `+8`, `+-8`, `-8`, or nothing.
    fn offset(&mut self) -> Result<i64, ParseError> {
        let mut total = 0i64;
        loop {
            let mut negative = match self.peek().kind {
                Kind::Punct(b'+') => false,
                Kind::Punct(b'-') => true,
                _ => return Ok(total),
            };
            self.next();
            if self.accept(b'-') {
                negative = !negative;
            }
            let value = self.integer()?.cast_signed();
            total = total.wrapping_add(if negative { value.wrapping_neg() } else { value });
        }
    }

    fn simple_operand(&mut self, reading: &mut Reading) -> Result<Operand, ParseError> {
        let token = self.next();
        match token.kind {
            Kind::Int(value) => Ok(Operand::Int(value)),
            Kind::F32(bits) => Ok(Operand::F32(bits)),
            Kind::F64(bits) => Ok(Operand::F64(bits)),
            Kind::Punct(b'-') => match self.next().kind {
                Kind::Int(value) => Ok(Operand::Int(value.wrapping_neg())),
                Kind::F32(bits) => Ok(Operand::F32(bits ^ (1 << 31))),
                Kind::F64(bits) => Ok(Operand::F64(bits ^ (1 << 63))),
                _ => Err(self.error("number expected after `-`")),
            },
            Kind::Punct(b'!') => {
                let name = self.word()?;
                match reading.lookup(reading.current, |scope| scope.register(name)) {
                    Some(reg) if reg.ty == Ty::Pred => Ok(Operand::Not(reg)),
                    _ => Err(self.error(format!("`!{name}` is not a predicate register"))),
                }
            }
            Kind::Punct(b'{') => {
                let mut items = Vec::new();
                while !self.accept(b'}') {
                    self.no_bracket()?;
                    items.push(self.operand(reading)?);
                    if !self.accept(b',') && self.peek().kind != Kind::Punct(b'}') {
                        return Err(self.error("a vector needs `,` or `}`"));
                    }
                }
                Ok(Operand::Vector(items))
            }
            Kind::Punct(b'[') => {
                self.no_bracket()?;
                let base = self.simple_operand(reading)?;
                let offset = self.offset()?;
                let base = Operand::Address(Box::new(base), offset);
                if self.accept(b']') {
                    return Ok(base);
                }
                // A texture or surface and its coordinates.
                let mut parts = vec![base];
                while self.accept(b',') {
                    if self.peek().kind == Kind::Punct(b'[') {
                        return Err(self.error("brackets within brackets are not supported"));
                    }
                    parts.push(self.simple_operand(reading)?);
                }
                self.expect(b']')?;
                Ok(Operand::Vector(parts))
            }
            Kind::Word(name) => Ok(self.named(name, reading)),
            _ => Err(self.error("operand expected")),
        }
    }

    /// Refuses brackets within brackets, which would let a text recurse without end.
    fn no_bracket(&mut self) -> Result<(), ParseError> {
        match self.peek().kind {
            Kind::Punct(b'{' | b'[') => Err(self.error("brackets within brackets are not supported")),
            _ => Ok(()),
        }
    }

    fn named(&mut self, name: &str, reading: &Reading) -> Operand {
        if name == "_" {
            return Operand::Sink;
        }
        if let Some(reg) = reading.lookup(reading.current, |scope| scope.register(name)) {
            return Operand::Reg(reg);
        }
        if let Some(special) = name.strip_prefix('%') {
            let mut special = special.to_string();
            if let Kind::Dot(component @ ("x" | "y" | "z" | "w")) = self.peek().kind {
                self.next();
                special.push('.');
                special.push_str(component);
            }
            return Operand::Special(special);
        }
        if name == "WARP_SZ" {
            return Operand::Int(32);
        }
        Operand::Name(name.to_string(), reading.current)
    }

    /// Keeps the labels of a `.branchtargets` as operands, to be resolved with all others.
    pub(crate) fn defer_targets(
        &mut self,
        reading: &mut Reading,
        index: usize,
        scope: usize,
        labels: &[&str],
    ) {
        let mut operands = vec![Operand::Int(index as u64)];
        operands.extend(labels.iter().map(|label| Operand::Name((*label).to_string(), scope)));
        reading.body.statements.push(Statement {
            line: self.peek().line,
            guard: None,
            opcode: TARGETS.to_string(),
            operands,
            call: None,
            problem: None,
        });
    }

    /// Replaces names that were not known where they were read.
    pub(crate) fn resolve(&self, reading: &mut Reading) -> Result<(), ParseError> {
        let mut statements = std::mem::take(&mut reading.body.statements);
        for statement in &mut statements {
            let line = statement.line;
            let call = statement.call.as_deref_mut();
            let of_call = call.into_iter().flat_map(|call| {
                std::iter::once(&mut call.target).chain(&mut call.returns).chain(&mut call.arguments)
            });
            for operand in statement.operands.iter_mut().chain(of_call) {
                self.resolve_operand(reading, operand, line)?;
            }
            if statement.opcode == TARGETS {
                self.finish_targets(reading, statement);
            }
        }
        reading.body.statements = statements;
        Ok(())
    }

    fn resolve_operand(&self, reading: &Reading, operand: &mut Operand, line: u32) -> Result<(), ParseError> {
        match operand {
            Operand::Name(name, scope) => {
                let found = self.resolve_name(reading, name, *scope);
                *operand = found
                    .ok_or_else(|| error_at(self.source, line, format!("name `{name}` is not declared")))?;
            }
            Operand::Address(base, _) => self.resolve_operand(reading, base, line)?,
            Operand::Vector(items) => {
                for item in items.iter_mut() {
                    self.resolve_operand(reading, item, line)?;
                }
                // The form that `operand` gives to `symbol+offset` outside brackets.
                if let [Operand::Sink, Operand::Address(base, offset)] = items.as_slice()
                    && let Operand::Symbol(symbol, _) = base.as_ref()
                {
                    *operand = Operand::Symbol(symbol.clone(), *offset);
                }
            }
            Operand::Pair(a, b) => {
                self.resolve_operand(reading, a, line)?;
                self.resolve_operand(reading, b, line)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish_targets(&self, reading: &mut Reading, statement: &mut Statement) {
        let mut operands = std::mem::take(&mut statement.operands).into_iter();
        let Some(Operand::Int(index)) = operands.next() else { return };
        let targets = operands.filter_map(|operand| match operand {
            Operand::Label(at) => Some(at),
            _ => None,
        });
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(list) = reading.body.branch_targets.get_mut(index) {
            *list = targets.collect();
        }
    }
}
