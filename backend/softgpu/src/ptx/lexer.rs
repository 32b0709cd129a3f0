use super::ParseError;

/// One token of PTX text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind<'a> {
    /// An identifier, `%` and `$` included.
    Word(&'a str),
    /// A dot and what follows it: a directive or a part of an opcode. The dot is not in the text.
    Dot(&'a str),
    Int(u64),
    /// Bits of a single-precision literal (`0f…`).
    F32(u32),
    /// Bits of a double-precision literal (`0d…` or decimal).
    F64(u64),
    Str(&'a str),
    Punct(u8),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
    pub start: usize,
    pub end: usize,
}

/// Builds the error for a line of `source`.
pub(crate) fn error_at(source: &str, line: u32, reason: impl Into<String>) -> ParseError {
    let text = source.lines().nth((line as usize).saturating_sub(1)).unwrap_or("").trim();
    ParseError { line: line as usize, text: text.chars().take(200).collect(), reason: reason.into() }
}

/// Splits `source` into tokens; the last one is `End`.
pub(crate) fn tokenize(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { source, bytes: source.as_bytes(), at: 0, line: 1 };
    let mut tokens = Vec::with_capacity(source.len() / 4);
    loop {
        let token = lexer.next()?;
        tokens.push(token);
        if token.kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, reason: impl Into<String>) -> ParseError {
        error_at(self.source, self.line, reason)
    }

    fn skip_space(&mut self) -> Result<(), ParseError> {
        loop {
            match self.peek(0) {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), ParseError> {
        self.at += 2;
        while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
            if self.at >= self.bytes.len() {
                return Err(self.error("a comment has no end"));
            }
            if self.peek(0) == b'\n' {
                self.line += 1;
            }
            self.at += 1;
        }
        self.at += 2;
        Ok(())
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_space()?;
        let start = self.at;
        let line = self.line;
        let kind = self.kind()?;
        Ok(Token { kind, line, start, end: self.at })
    }

    fn kind(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        let first = self.peek(0);
        if self.at >= self.bytes.len() {
            return Ok(Kind::End);
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == b'.' && is_word(self.peek(1)) {
            self.at += 1;
            self.word_end(true);
            return Ok(Kind::Dot(&self.source[start + 1..self.at]));
        }
        if is_word(first) || (first == b'%' && is_word(self.peek(1))) {
            self.at += 1;
            self.word_end(false);
            return Ok(Kind::Word(&self.source[start..self.at]));
        }
        if first == b'"' {
            return self.string();
        }
        self.at += 1;
        Ok(Kind::Punct(first))
    }

    /// Moves to the end of a word; the parts of an opcode may hold `::`.
    fn word_end(&mut self, colons: bool) {
        loop {
            if is_word(self.peek(0)) {
                self.at += 1;
            } else if colons && self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                self.at += 2;
            } else {
                return;
            }
        }
    }

    fn string(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at + 1;
        self.at += 1;
        while self.peek(0) != b'"' {
            if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                return Err(self.error("a string has no end"));
            }
            self.at += if self.peek(0) == b'\\' { 2 } else { 1 };
        }
        let text = self.source.get(start..self.at).unwrap_or("");
        self.at += 1;
        Ok(Kind::Str(text))
    }

    fn digits(&mut self, prefix: usize, radix: u32) -> Result<u64, ParseError> {
        self.at += prefix;
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() {
            self.at += 1;
        }
        let text = self.source[start..self.at].trim_end_matches('U');
        u64::from_str_radix(text, radix).map_err(|error| self.error(format!("number `{text}`: {error}")))
    }

    fn number(&mut self) -> Result<Kind<'a>, ParseError> {
        let start = self.at;
        match (self.peek(0), self.peek(1)) {
            (b'0', b'f' | b'F') => {
                let bits = self.digits(2, 16)?;
                let bits =
                    u32::try_from(bits).map_err(|_| self.error("a 0f literal has more than 32 bits"))?;
                return Ok(Kind::F32(bits));
            }
            (b'0', b'd' | b'D') => return Ok(Kind::F64(self.digits(2, 16)?)),
            (b'0', b'x' | b'X') => return Ok(Kind::Int(self.digits(2, 16)?)),
            (b'0', b'b' | b'B') => return Ok(Kind::Int(self.digits(2, 2)?)),
            _ => {}
        }
        let mut decimal = false;
        loop {
            let byte = self.peek(0);
            let exponent = matches!(byte, b'e' | b'E');
            let sign = matches!(byte, b'+' | b'-')
                && decimal
                && matches!(self.bytes.get(self.at.wrapping_sub(1)), Some(b'e' | b'E'));
            if byte == b'.' && self.peek(1).is_ascii_digit() || exponent {
                decimal = true;
            } else if !byte.is_ascii_digit() && !sign {
                break;
            }
            self.at += 1;
        }
        let text = &self.source[start..self.at];
        if decimal {
            let value: f64 = text.parse().map_err(|error| self.error(format!("number `{text}`: {error}")))?;
            return Ok(Kind::F64(value.to_bits()));
        }
        if self.peek(0) == b'U' {
            self.at += 1;
        }
        let (text, radix) =
            if text.len() > 1 && text.starts_with('0') { (&text[1..], 8) } else { (text, 10) };
        let value = u64::from_str_radix(text, radix)
            .map_err(|error| self.error(format!("number `{text}`: {error}")))?;
        Ok(Kind::Int(value))
    }
}
