//! Device `printf`: a format string and the buffer of arguments that `vprintf` receives.

/// Reads the arguments and the strings that they point to.
pub(crate) trait Arguments {
    type Error;
    /// The `size` bytes (4 or 8) at `offset` of the argument buffer.
    fn value(&mut self, offset: u64, size: u32) -> Result<u64, Self::Error>;
    /// The string at `address`.
    fn string(&mut self, address: u64) -> Result<Vec<u8>, Self::Error>;
}

/// One conversion: `%[flags][width][.precision][length]conversion`.
#[derive(Debug, Default, Clone, Copy)]
struct Conversion {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// 8 for `l`, `ll`, `z`, `j`, `t`; 2 and 1 for `h` and `hh`.
    length: u32,
}

/// Widths beyond this are cut: they come from the program that runs.
const MAX_WIDTH: usize = 4096;

struct Reader<'a, A> {
    arguments: &'a mut A,
    offset: u64,
}

impl<A: Arguments> Reader<'_, A> {
    /// The next argument: each is aligned to its size.
    fn next(&mut self, size: u32) -> Result<u64, A::Error> {
        self.offset = self.offset.next_multiple_of(u64::from(size));
        let value = self.arguments.value(self.offset, size)?;
        self.offset += u64::from(size);
        Ok(value)
    }

    fn int(&mut self) -> Result<i32, A::Error> {
        Ok((self.next(4)? as u32).cast_signed())
    }
}

/// Formats as C's printf does, and counts the conversions that took an argument.
pub(crate) fn format<A: Arguments>(format: &[u8], arguments: &mut A) -> Result<(Vec<u8>, u32), A::Error> {
    let mut reader = Reader { arguments, offset: 0 };
    let mut out = Vec::with_capacity(format.len() + 32);
    let mut count = 0;
    let mut at = 0;
    while let Some(byte) = format.get(at) {
        at += 1;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let start = at;
        let conversion = parse(format, &mut at, &mut reader)?;
        let kind = format.get(at).copied();
        at += 1;
        match kind {
            Some(b'%') => out.push(b'%'),
            Some(kind) if b"diuoxXcspfFeEgGaA".contains(&kind) => {
                convert(&mut out, kind, conversion, &mut reader)?;
                count += 1;
            }
            _ => {
                // What is no conversion is printed as it stands.
                out.push(b'%');
                at = start;
            }
        }
    }
    Ok((out, count))
}

fn number(format: &[u8], at: &mut usize) -> usize {
    let mut value = 0usize;
    while let Some(digit @ b'0'..=b'9') = format.get(*at) {
        value = (value * 10 + usize::from(digit - b'0')).min(MAX_WIDTH);
        *at += 1;
    }
    value
}

fn parse<A: Arguments>(
    format: &[u8],
    at: &mut usize,
    reader: &mut Reader<'_, A>,
) -> Result<Conversion, A::Error> {
    let mut conversion = Conversion { length: 4, ..Conversion::default() };
    loop {
        match format.get(*at) {
            Some(b'-') => conversion.left = true,
            Some(b'+') => conversion.plus = true,
            Some(b' ') => conversion.space = true,
            Some(b'#') => conversion.alternate = true,
            Some(b'0') => conversion.zero = true,
            _ => break,
        }
        *at += 1;
    }
    if format.get(*at) == Some(&b'*') {
        *at += 1;
        let width = reader.int()?;
        conversion.left |= width < 0;
        conversion.width = (width.unsigned_abs() as usize).min(MAX_WIDTH);
    } else {
        conversion.width = number(format, at);
    }
    if format.get(*at) == Some(&b'.') {
        *at += 1;
        if format.get(*at) == Some(&b'*') {
            *at += 1;
            conversion.precision = usize::try_from(reader.int()?).ok().map(|n| n.min(MAX_WIDTH));
        } else {
            conversion.precision = Some(number(format, at));
        }
    }
    loop {
        match format.get(*at) {
            Some(b'l' | b'z' | b'j' | b't') => conversion.length = 8,
            Some(b'h') => conversion.length = if conversion.length == 2 { 1 } else { 2 },
            _ => return Ok(conversion),
        }
        *at += 1;
    }
}

fn convert<A: Arguments>(
    out: &mut Vec<u8>,
    kind: u8,
    conversion: Conversion,
    reader: &mut Reader<'_, A>,
) -> Result<(), A::Error> {
    match kind {
        b'd' | b'i' => {
            let raw = reader.next(conversion.length.max(4))?;
            let value = match conversion.length {
                1 => i64::from((raw as u8).cast_signed()),
                2 => i64::from((raw as u16).cast_signed()),
                4 => i64::from((raw as u32).cast_signed()),
                _ => raw.cast_signed(),
            };
            let digits = value.unsigned_abs().to_string();
            integer(out, conversion, sign(conversion, value < 0), digits, value == 0);
        }
        b'u' | b'o' | b'x' | b'X' => {
            let raw = reader.next(conversion.length.max(4))?;
            let value = if conversion.length < 8 { raw & ((1 << (8 * conversion.length)) - 1) } else { raw };
            unsigned(out, kind, conversion, value);
        }
        b'c' => {
            let value = reader.next(4)? as u8;
            pad(out, conversion, &[], &[value], false);
        }
        b's' => {
            let address = reader.next(8)?;
            let mut text =
                if address == 0 { b"(null)".to_vec() } else { reader.arguments.string(address)? };
            text.truncate(conversion.precision.unwrap_or(usize::MAX));
            pad(out, conversion, &[], &text, false);
        }
        b'p' => {
            let address = reader.next(8)?;
            let text = if address == 0 { "(nil)".to_string() } else { format!("{address:#x}") };
            pad(out, conversion, &[], text.as_bytes(), false);
        }
        _ => {
            let value = f64::from_bits(reader.next(8)?);
            float(out, kind, conversion, value);
        }
    }
    Ok(())
}

fn sign(conversion: Conversion, negative: bool) -> &'static [u8] {
    match (negative, conversion.plus, conversion.space) {
        (true, ..) => b"-",
        (false, true, _) => b"+",
        (false, false, true) => b" ",
        _ => b"",
    }
}

fn unsigned(out: &mut Vec<u8>, kind: u8, conversion: Conversion, value: u64) {
    let (mut digits, prefix): (String, &[u8]) = match kind {
        b'o' => (format!("{value:o}"), b""),
        b'x' => (format!("{value:x}"), b"0x"),
        b'X' => (format!("{value:X}"), b"0X"),
        _ => (value.to_string(), b""),
    };
    if kind == b'o' && conversion.alternate && value != 0 {
        digits.insert(0, '0');
    }
    let prefix = if conversion.alternate && value != 0 { prefix } else { b"" };
    integer(out, conversion, prefix, digits, value == 0);
}

fn integer(out: &mut Vec<u8>, mut conversion: Conversion, prefix: &[u8], mut digits: String, is_zero: bool) {
    if let Some(precision) = conversion.precision {
        conversion.zero = false;
        if is_zero && precision == 0 {
            digits.clear();
        }
        digits.insert_str(0, &"0".repeat(precision.saturating_sub(digits.len())));
    }
    pad(out, conversion, prefix, digits.as_bytes(), true);
}

/// Writes prefix and body in a field of the width asked for.
fn pad(out: &mut Vec<u8>, conversion: Conversion, prefix: &[u8], body: &[u8], zeros: bool) {
    let fill = conversion.width.saturating_sub(prefix.len() + body.len());
    let zeros = zeros && conversion.zero && !conversion.left;
    if !conversion.left && !zeros {
        out.extend(std::iter::repeat_n(b' ', fill));
    }
    out.extend_from_slice(prefix);
    if zeros {
        out.extend(std::iter::repeat_n(b'0', fill));
    }
    out.extend_from_slice(body);
    if conversion.left {
        out.extend(std::iter::repeat_n(b' ', fill));
    }
}

fn float(out: &mut Vec<u8>, kind: u8, conversion: Conversion, value: f64) {
    let prefix = sign(conversion, value.is_sign_negative());
    let magnitude = value.abs();
    if !magnitude.is_finite() {
        let text = if value.is_nan() { "nan" } else { "inf" };
        let text = if kind.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text.to_string() };
        pad(out, conversion, prefix, text.as_bytes(), false);
        return;
    }
    let precision = conversion.precision.unwrap_or(6);
    let text = match kind.to_ascii_lowercase() {
        b'f' => point(format!("{magnitude:.precision$}"), conversion.alternate),
        b'e' => scientific(magnitude, precision, conversion.alternate),
        b'a' => hexadecimal(magnitude, conversion.precision),
        _ => shortest(magnitude, precision.max(1), conversion.alternate),
    };
    let text = if kind.is_ascii_uppercase() { text.to_ascii_uppercase() } else { text };
    pad(out, conversion, prefix, text.as_bytes(), true);
}

/// `#` keeps a decimal point that nothing follows.
fn point(mut text: String, alternate: bool) -> String {
    if alternate && !text.contains('.') {
        text.push('.');
    }
    text
}

fn scientific(value: f64, precision: usize, alternate: bool) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", point(mantissa.to_string(), alternate), exponent.abs())
}

fn shortest(value: f64, precision: usize, alternate: bool) -> String {
    let text = scientific(value, precision - 1, alternate);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= digits {
        let mantissa = if alternate { mantissa } else { trim(mantissa) };
        return format!("{mantissa}e{}", &text[text.find('e').map_or(0, |at| at + 1)..]);
    }
    let decimals = usize::try_from(digits - 1 - exponent).unwrap_or(0);
    let text = point(format!("{value:.decimals$}"), alternate);
    if alternate { text } else { trim(&text).to_string() }
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn hexadecimal(value: f64, precision: Option<usize>) -> String {
    let bits = value.to_bits();
    let mut fraction = bits & ((1 << 52) - 1);
    let biased = i32::try_from(bits >> 52 & 0x7ff).unwrap_or(0);
    if bits == 0 {
        let zeros = "0".repeat(precision.unwrap_or(0));
        return if zeros.is_empty() { "0x0p+0".to_string() } else { format!("0x0.{zeros}p+0") };
    }
    let mut lead = u64::from(biased != 0);
    let exponent = if biased == 0 { -1022 } else { biased - 1023 };
    if let Some(kept) = precision.filter(|p| *p < 13) {
        let drop = 4 * (13 - kept);
        let whole = lead << 52 | fraction;
        let half = 1u64 << (drop - 1);
        let odd = whole >> drop & 1;
        let rounded = (whole + half - 1 + odd) >> drop << drop;
        lead = rounded >> 52;
        fraction = rounded & ((1 << 52) - 1);
    }
    let digits = format!("{fraction:013x}");
    let digits = match precision {
        Some(kept) if kept <= 13 => digits[..kept].to_string(),
        Some(kept) => digits + &"0".repeat(kept - 13),
        None => digits.trim_end_matches('0').to_string(),
    };
    let dot = if digits.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("0x{lead}{dot}{digits}p{sign}{}", exponent.abs())
}
