//! Floating point in software: all rounding modes, and the formats that the host has no arithmetic for.
//!
//! Values are taken apart into sign, exponent and a 128-bit significand, computed exactly or with a sticky bit, and
//! rounded once.

/// How a result that does not fit is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
}

/// A binary interchange format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub exponent_bits: u32,
    pub fraction_bits: u32,
}

pub(crate) const F16: Format = Format { exponent_bits: 5, fraction_bits: 10 };
pub(crate) const BF16: Format = Format { exponent_bits: 8, fraction_bits: 7 };
pub(crate) const F32: Format = Format { exponent_bits: 8, fraction_bits: 23 };
pub(crate) const F64: Format = Format { exponent_bits: 11, fraction_bits: 52 };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.exponent_bits + self.fraction_bits)
    }

    pub fn infinity(self, negative: bool) -> u64 {
        self.sign(negative) | ((1u64 << self.exponent_bits) - 1) << self.fraction_bits
    }

    /// The NaN that the hardware makes: all bits set but the sign, and for `f64` the quiet bit alone.
    pub fn nan(self) -> u64 {
        if self == F64 {
            0x7ff8_0000_0000_0000
        } else {
            self.infinity(false) | ((1u64 << self.fraction_bits) - 1)
        }
    }

    fn largest(self, negative: bool) -> u64 {
        self.infinity(negative) - 1
    }
}

/// A number taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Parts {
    Nan,
    Infinity(bool),
    Zero(bool),
    Finite(Number),
}

/// `significand * 2^exponent`, significand not zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

pub(crate) fn unpack(bits: u64, format: Format) -> Parts {
    let fraction = bits & ((1u64 << format.fraction_bits) - 1);
    let top = (1u64 << format.exponent_bits) - 1;
    let biased = bits >> format.fraction_bits & top;
    let negative = bits >> (format.exponent_bits + format.fraction_bits) & 1 == 1;
    let lowest = 1 - format.bias() - i32::try_from(format.fraction_bits).unwrap_or(0);
    if biased == top {
        return if fraction == 0 { Parts::Infinity(negative) } else { Parts::Nan };
    }
    if biased == 0 {
        if fraction == 0 {
            return Parts::Zero(negative);
        }
        return Parts::Finite(Number { negative, exponent: lowest, significand: u128::from(fraction) });
    }
    let exponent = lowest + i32::try_from(biased).unwrap_or(0) - 1;
    let significand = u128::from(fraction | 1u64 << format.fraction_bits);
    Parts::Finite(Number { negative, exponent, significand })
}

/// Rounds a number to `format`. `sticky`: the exact value is a little larger in magnitude than `number`.
pub(crate) fn pack(number: Number, sticky: bool, format: Format, round: Round) -> u64 {
    let Number { negative, exponent, significand } = number;
    if significand == 0 {
        return format.sign(negative);
    }
    let fraction_bits = i32::try_from(format.fraction_bits).unwrap_or(0);
    let top = 127 - i32::try_from(significand.leading_zeros()).unwrap_or(0);
    let lowest = 1 - format.bias();
    let mut unit = (exponent + top).max(lowest) - fraction_bits;
    let shift = unit - exponent;
    let (mut kept, half, rest) = match u32::try_from(shift) {
        Err(_) => (significand << shift.unsigned_abs(), false, sticky),
        Ok(0) => (significand, false, sticky),
        Ok(shift @ 1..=127) => {
            let half = significand >> (shift - 1) & 1 == 1;
            let below = significand & ((1u128 << (shift - 1)) - 1);
            (significand >> shift, half, below != 0 || sticky)
        }
        Ok(128) => (0, significand >> 127 == 1, significand << 1 != 0 || sticky),
        Ok(_) => (0, false, true),
    };
    let up = match round {
        Round::Nearest => half && (rest || kept & 1 == 1),
        Round::Away => half,
        Round::Zero => false,
        Round::Down => negative && (half || rest),
        Round::Up => !negative && (half || rest),
    };
    kept += u128::from(up);
    if kept >> (format.fraction_bits + 1) != 0 {
        kept >>= 1;
        unit += 1;
    }
    let kept = kept as u64;
    if kept >> format.fraction_bits == 0 {
        return format.sign(negative) | kept;
    }
    let biased = unit + fraction_bits + format.bias();
    let limit = (1i32 << format.exponent_bits) - 1;
    if biased >= limit {
        let to_infinity = match round {
            Round::Nearest | Round::Away => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        return if to_infinity { format.infinity(negative) } else { format.largest(negative) };
    }
    let fraction = kept & ((1u64 << format.fraction_bits) - 1);
    format.sign(negative) | u64::from(biased.unsigned_abs()) << format.fraction_bits | fraction
}

/// Brings the highest bit of the significand to bit 124, which leaves room for a carry.
fn normalise(number: Number) -> Number {
    let lead = i32::try_from(number.significand.leading_zeros()).unwrap_or(0) - 3;
    let significand =
        if lead >= 0 { number.significand << lead } else { number.significand >> lead.unsigned_abs() };
    Number { negative: number.negative, exponent: number.exponent - lead, significand }
}

fn sum(a: Number, b: Number, format: Format, round: Round) -> u64 {
    let (mut a, mut b) = (normalise(a), normalise(b));
    if a.exponent < b.exponent {
        std::mem::swap(&mut a, &mut b);
    }
    let distance = (a.exponent - b.exponent).unsigned_abs();
    let lost = if distance >= 128 {
        std::mem::replace(&mut b.significand, 0) != 0
    } else {
        let kept = b.significand >> distance;
        let lost = kept << distance != b.significand;
        b.significand = kept;
        lost
    };
    // The lowest bit stands for all that was lost: far below what is kept after rounding.
    b.significand |= u128::from(lost);
    let mut result = a;
    if a.negative == b.negative {
        result.significand = a.significand + b.significand;
    } else if a.significand >= b.significand {
        result.significand = a.significand - b.significand;
    } else {
        result.significand = b.significand - a.significand;
        result.negative = b.negative;
    }
    if result.significand == 0 {
        return format.sign(round == Round::Down);
    }
    pack(result, false, format, round)
}

fn zero_sum(a: bool, b: bool, round: Round) -> bool {
    if a == b { a } else { round == Round::Down }
}

fn add_parts(a: Parts, b: Parts, format: Format, round: Round) -> u64 {
    match (a, b) {
        (Parts::Nan, _) | (_, Parts::Nan) => format.nan(),
        (Parts::Infinity(x), Parts::Infinity(y)) if x != y => format.nan(),
        (Parts::Infinity(x), _) | (_, Parts::Infinity(x)) => format.infinity(x),
        (Parts::Zero(x), Parts::Zero(y)) => format.sign(zero_sum(x, y, round)),
        (Parts::Zero(_), Parts::Finite(x)) | (Parts::Finite(x), Parts::Zero(_)) => {
            pack(x, false, format, round)
        }
        (Parts::Finite(x), Parts::Finite(y)) => sum(x, y, format, round),
    }
}

pub(crate) fn add(a: u64, b: u64, format: Format, round: Round) -> u64 {
    add_parts(unpack(a, format), unpack(b, format), format, round)
}

fn sign_of(parts: Parts) -> bool {
    match parts {
        Parts::Nan => false,
        Parts::Infinity(sign) | Parts::Zero(sign) => sign,
        Parts::Finite(number) => number.negative,
    }
}

fn product(a: Parts, b: Parts) -> Parts {
    let negative = sign_of(a) != sign_of(b);
    match (a, b) {
        (Parts::Nan, _) | (_, Parts::Nan) => Parts::Nan,
        (Parts::Infinity(_), Parts::Zero(_)) | (Parts::Zero(_), Parts::Infinity(_)) => Parts::Nan,
        (Parts::Infinity(_), _) | (_, Parts::Infinity(_)) => Parts::Infinity(negative),
        (Parts::Zero(_), _) | (_, Parts::Zero(_)) => Parts::Zero(negative),
        (Parts::Finite(x), Parts::Finite(y)) => Parts::Finite(Number {
            negative,
            exponent: x.exponent + y.exponent,
            significand: x.significand * y.significand,
        }),
    }
}

fn pack_parts(parts: Parts, format: Format, round: Round) -> u64 {
    match parts {
        Parts::Nan => format.nan(),
        Parts::Infinity(sign) => format.infinity(sign),
        Parts::Zero(sign) => format.sign(sign),
        Parts::Finite(number) => pack(number, false, format, round),
    }
}

pub(crate) fn mul(a: u64, b: u64, format: Format, round: Round) -> u64 {
    pack_parts(product(unpack(a, format), unpack(b, format)), format, round)
}

pub(crate) fn fma(a: u64, b: u64, c: u64, format: Format, round: Round) -> u64 {
    add_parts(product(unpack(a, format), unpack(b, format)), unpack(c, format), format, round)
}

pub(crate) fn div(a: u64, b: u64, format: Format, round: Round) -> u64 {
    let (a, b) = (unpack(a, format), unpack(b, format));
    let negative = sign_of(a) != sign_of(b);
    match (a, b) {
        (Parts::Nan, _) | (_, Parts::Nan) => format.nan(),
        (Parts::Infinity(_), Parts::Infinity(_)) | (Parts::Zero(_), Parts::Zero(_)) => format.nan(),
        (Parts::Infinity(_), _) | (_, Parts::Zero(_)) => format.infinity(negative),
        (Parts::Zero(_), _) | (_, Parts::Infinity(_)) => format.sign(negative),
        (Parts::Finite(x), Parts::Finite(y)) => {
            let x = normalise(x);
            // The divisor has at most 53 bits, so the quotient keeps at least 70.
            let quotient = x.significand / y.significand;
            let sticky = !x.significand.is_multiple_of(y.significand);
            let number = Number { negative, exponent: x.exponent - y.exponent, significand: quotient };
            pack(number, sticky, format, round)
        }
    }
}

pub(crate) fn sqrt(a: u64, format: Format, round: Round) -> u64 {
    match unpack(a, format) {
        Parts::Nan => format.nan(),
        Parts::Zero(sign) => format.sign(sign),
        Parts::Infinity(false) => format.infinity(false),
        Parts::Infinity(true) => format.nan(),
        Parts::Finite(number) if number.negative => format.nan(),
        Parts::Finite(number) => {
            let mut x = normalise(number);
            if x.exponent & 1 != 0 {
                x.significand <<= 1;
                x.exponent -= 1;
            }
            let root = x.significand.isqrt();
            let sticky = root * root != x.significand;
            pack(
                Number { negative: false, exponent: x.exponent / 2, significand: root },
                sticky,
                format,
                round,
            )
        }
    }
}

/// From one format to another.
pub(crate) fn convert(bits: u64, from: Format, to: Format, round: Round) -> u64 {
    pack_parts(unpack(bits, from), to, round)
}

/// From an integer, given as sign and magnitude.
pub(crate) fn from_integer(negative: bool, magnitude: u64, to: Format, round: Round) -> u64 {
    if magnitude == 0 {
        return 0;
    }
    pack(Number { negative, exponent: 0, significand: u128::from(magnitude) }, false, to, round)
}

/// The integer nearest in the sense of `round`, saturated to what an `i128` can tell apart from any 64-bit type.
pub(crate) fn to_integer(number: Number, round: Round) -> i128 {
    let Number { negative, exponent, significand } = number;
    let magnitude = match u32::try_from(exponent) {
        Ok(shift) if shift < significand.leading_zeros().saturating_sub(2) => significand << shift,
        Ok(_) => 1u128 << 100,
        Err(_) => {
            let shift = exponent.unsigned_abs();
            let (kept, half, rest) = if shift > 127 {
                (0, false, true)
            } else {
                let below = significand & ((1u128 << (shift - 1)) - 1);
                (significand >> shift, significand >> (shift - 1) & 1 == 1, below != 0)
            };
            let up = match round {
                Round::Nearest => half && (rest || kept & 1 == 1),
                Round::Away => half,
                Round::Zero => false,
                Round::Down => negative && (half || rest),
                Round::Up => !negative && (half || rest),
            };
            kept + u128::from(up)
        }
    };
    let value = magnitude.min(1 << 100).cast_signed();
    if negative { -value } else { value }
}
