//! What a call wrote, as text that is the same each time when the driver's answer is.

use crate::{
    arguments::{Argument, Show, UNTOUCHED},
    fixtures::Fixtures,
    memory::Piece,
};

/// Longest text that is shown.
const LONGEST: usize = 200;

/// An output as text; None if nothing is to be shown.
pub fn output(fx: &Fixtures, argument: &Argument) -> Option<String> {
    let (piece, show) = argument.output?;
    Some(match show {
        Show::Nothing => return None,
        Show::Numbers(scalar, count) => {
            (0..count).map(|i| number(piece, scalar, i)).collect::<Vec<_>>().join(" ")
        }
        Show::Handles(count) => {
            (0..count).map(|i| handle(fx, piece.word(8 * i))).collect::<Vec<_>>().join(" ")
        }
        Show::Struct(len, volatile, padded) => words(fx, piece, (0..len).step_by(8), len, volatile, padded),
        Show::Opaque(len) => if piece.read(0, len).iter().any(|b| *b != 0) { "set" } else { "null" }.into(),
        Show::Words(offsets) => words(fx, piece, offsets.iter().copied(), usize::MAX, &[], &[]),
        Show::Text => text(&piece.read(0, LONGEST)),
        Show::TextPointer => match piece.word(0) {
            0 => "null".into(),
            UNTOUCHED_WORD => "-".into(),
            // SAFETY: the driver says that a string is there; if not, this process ends and the case says so.
            address => unsafe {
                std::ffi::CStr::from_ptr(std::ptr::with_exposed_provenance(address as usize))
                    .to_string_lossy()
                    .into_owned()
            },
        },
        Show::Written => {
            if piece.read(0, 8).iter().all(|b| *b == UNTOUCHED) { "-" } else { "written" }.into()
        }
    })
}

const UNTOUCHED_WORD: u64 = u64::from_ne_bytes([UNTOUCHED; 8]);

fn number(piece: Piece, scalar: &str, index: usize) -> String {
    let at = |width: usize| piece.read(index * width, width);
    let untouched = |width: usize| at(width).iter().all(|b| *b == UNTOUCHED);
    match scalar {
        "u8" => at(1)[0].to_string(),
        "u16" => u16::from_ne_bytes(at(2).try_into().unwrap_or_default()).to_string(),
        "u32" | "i32" | "f32" => {
            let bytes: [u8; 4] = at(4).try_into().unwrap_or_default();
            match scalar {
                _ if untouched(4) => "-".into(),
                "u32" => u32::from_ne_bytes(bytes).to_string(),
                "i32" => i32::from_ne_bytes(bytes).to_string(),
                _ => f32::from_ne_bytes(bytes).to_string(),
            }
        }
        _ if untouched(8) => "-".into(),
        "i64" => i64::from_ne_bytes(at(8).try_into().unwrap_or_default()).to_string(),
        _ => piece.word(8 * index).to_string(),
    }
}

fn handle(fx: &Fixtures, value: u64) -> String {
    match value {
        0 => "null".into(),
        UNTOUCHED_WORD => "-".into(),
        // Written, but not all of it: a parameter of 32 bits.
        v if v >> 32 == UNTOUCHED_WORD >> 32 => "half".into(),
        _ => fx.name_of(value).map_or("set".into(), |name| format!("={name}")),
    }
}

fn looks_like_address(value: u64) -> bool {
    (0x5000_0000_0000..0x8000_0000_0000).contains(&value) || (0x2_0000_0000..0x80_0000_0000).contains(&value)
}

/// The words at these offsets that are not 0, of a structure of `len` bytes.
fn words(
    fx: &Fixtures,
    piece: Piece,
    offsets: impl Iterator<Item = usize>,
    len: usize,
    volatile: &[usize],
    padded: &[usize],
) -> String {
    let mut parts = Vec::new();
    for at in offsets {
        let mut bytes = [0; 8];
        let here = piece.read(at, 8.min(len - at));
        bytes[..here.len()].copy_from_slice(&here);
        if padded.contains(&at) {
            bytes[4..].fill(0);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == 0 {
            continue;
        }
        let shown = if volatile.contains(&at)
            || looks_like_address(value)
            || fx.name_of(value).is_some() && value > 0xffff
        {
            handle(fx, value)
        } else {
            format!("{value:x}")
        };
        parts.push(format!("{at}:{shown}"));
    }
    parts.join(" ")
}

fn text(bytes: &[u8]) -> String {
    if bytes.iter().take(8).all(|b| *b == UNTOUCHED) {
        return "-".into();
    }
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}
