//! Initialisers of module-scope variables (section 5.4.4).

use super::ast::function_address;
use super::lexer::Kind;
use super::parse::Parser;
use super::types::Ty;
use super::{ParseError, Relocation};

/// Contents gathered from an initialiser.
#[derive(Default)]
pub(crate) struct Data {
    pub bytes: Vec<u8>,
    pub relocations: Vec<Relocation>,
}

impl<'a> Parser<'a> {
    /// Reads what follows the `=` of a variable with elements of `ty` and the dimensions `dims` (outermost first).
    pub(crate) fn initialiser(&mut self, ty: Ty, dims: &[u64]) -> Result<Data, ParseError> {
        let mut data = Data::default();
        self.initialise_level(ty, dims, &mut data)?;
        Ok(data)
    }

    fn initialise_level(&mut self, ty: Ty, dims: &[u64], data: &mut Data) -> Result<(), ParseError> {
        if !self.accept(b'{') {
            return self.element(ty, data);
        }
        let inner: u64 =
            dims.iter().skip(1).fold(u64::from(ty.size()), |size, dim| size.saturating_mul(*dim));
        while !self.accept(b'}') {
            if self.peek().kind == Kind::Punct(b'{') {
                if dims.len() < 2 {
                    return Err(self.error("an initialiser has more levels than its variable has dimensions"));
                }
                let start = data.bytes.len();
                self.initialise_level(ty, &dims[1..], data)?;
                let end = start.saturating_add(usize::try_from(inner).unwrap_or(usize::MAX));
                if end > super::parse::MAX_VARIABLE {
                    return Err(self.error("an initialiser is too large"));
                }
                data.bytes.resize(end, 0);
            } else {
                self.element(ty, data)?;
            }
            if !self.accept(b',') && self.peek().kind != Kind::Punct(b'}') {
                return Err(self.error("an initialiser needs `,` or `}`"));
            }
        }
        Ok(())
    }

    fn element(&mut self, ty: Ty, data: &mut Data) -> Result<(), ParseError> {
        let size = ty.size() as usize;
        let start = data.bytes.len();
        let value = match self.peek().kind {
            Kind::Word(_) => self.symbol_value(ty, start, data)?,
            _ => self.constant(ty)?,
        };
        let bytes = value.to_le_bytes();
        data.bytes.extend_from_slice(bytes.get(..size).unwrap_or(&bytes));
        data.bytes.resize(start + size, 0);
        Ok(())
    }

    /// A number for an element of `ty`, as bits.
    fn constant(&mut self, ty: Ty) -> Result<u64, ParseError> {
        let negative = self.accept(b'-');
        let token = self.next();
        let bits = match (token.kind, ty) {
            (Kind::Int(value), Ty::F32) => u64::from((value as f32).to_bits()),
            (Kind::Int(value), Ty::F64) => (value as f64).to_bits(),
            (Kind::Int(value), _) => return Ok(if negative { value.wrapping_neg() } else { value }),
            (Kind::F32(bits), Ty::F32 | Ty::B32) => u64::from(bits),
            (Kind::F64(bits), Ty::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
            (Kind::F64(bits), Ty::F64 | Ty::B64) => bits,
            _ => return Err(self.error("an initialiser holds a value that does not fit its type")),
        };
        let sign = 1u64 << (ty.bits() - 1);
        Ok(if negative { bits ^ sign } else { bits })
    }

    /// `name`, `name+8`, `generic(name)+8`: the value for functions, a relocation for variables.
    fn symbol_value(&mut self, ty: Ty, start: usize, data: &mut Data) -> Result<u64, ParseError> {
        let mut name = self.word()?;
        if name == "generic" && self.accept(b'(') {
            name = self.word()?;
            self.expect(b')')?;
        }
        let mut addend = 0u64;
        while let Kind::Punct(sign @ (b'+' | b'-')) = self.peek().kind {
            self.next();
            let Kind::Int(value) = self.next().kind else {
                return Err(self.error("an address needs a number after its sign"));
            };
            addend = if sign == b'+' { addend.wrapping_add(value) } else { addend.wrapping_sub(value) };
        }
        if ty.size() != 8 {
            return Err(self.error(format!("address of `{name}` in an element of {} bytes", ty.size())));
        }
        if let Some(index) = self.function_index.get(name) {
            return Ok(function_address(*index).wrapping_add(addend));
        }
        if !self.variable_names.contains_key(name) {
            return Err(
                self.error(format!("initialiser names `{name}`, which is not a global variable or function"))
            );
        }
        data.relocations.push(Relocation { offset: start as u64, symbol: name.to_string(), addend });
        Ok(0)
    }
}
