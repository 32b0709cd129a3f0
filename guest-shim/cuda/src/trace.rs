//! What the trace says of a call: derived tables of the parameters, and their values as text.

use crate::{client, error};
use std::borrow::Cow;
use vgpu_client::{
    stats::Totals,
    trace::{self, Began, Ended, peek, peek_text, quote},
};
use vgpu_spec::{api::HANDLE_KINDS, handle};

/// The most elements of an array, and bytes of a structure, that are shown.
const ELEMENTS: usize = 8;
const STRUCTURE_BYTES: usize = 256;

/// The class of what refuses every call, and of a call that was refused.
const UNSUPPORTED: &str = "unsupported";

/// One exported symbol.
pub struct Site {
    pub name: &'static str,
    pub class: &'static str,
    pub parameters: &'static [Parameter],
    /// Why it is not supported; empty if it is.
    pub reason: &'static str,
}

impl Site {
    /// Whether a call was refused because the function is not supported: one that checks its arguments has other answers too.
    pub fn refuses(&self, status: u32) -> bool {
        !self.reason.is_empty() && (self.class == UNSUPPORTED || status == error::NOT_SUPPORTED)
    }
}

/// One parameter, as the description has it.
pub struct Parameter {
    pub name: &'static str,
    pub passing: Passing,
    pub kind: Kind,
    pub count: Count,
}

/// What the argument is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// The value itself.
    Value,
    /// The address of what is read.
    In,
    /// The address of what is written.
    Out,
}

/// What an element is.
#[derive(Clone, Copy)]
#[allow(dead_code)] // which of them there are is the description's
pub enum Kind {
    /// Bytes.
    Unsigned(usize),
    /// Bytes.
    Signed(usize),
    F32,
    F64,
    /// An address, or an opaque number.
    Address,
    Handle,
    Text,
    /// Name and bytes.
    Structure(&'static str, usize),
}

/// How many elements there are.
#[derive(Clone, Copy)]
#[allow(dead_code)] // as above
pub enum Count {
    One,
    Fixed(usize),
    /// The value of the parameter with this index.
    Argument(usize),
}

/// The call has begun; `None` if calls are not traced.
#[inline]
pub fn begin() -> Option<Began> {
    trace::enabled().then(|| trace::begin(totals()))
}

/// The call has ended.
#[cold]
pub fn end(began: Began, site: &Site, arguments: &[u64], status: u32) {
    let name = if status == 0 { None } else { Some(error::name(status)) };
    let ended = Ended {
        call: site.name,
        class: if site.refuses(status) { UNSUPPORTED } else { site.class },
        result: status,
        error: name.as_deref(),
        totals: totals(),
    };
    began.end(&ended, |object| {
        for (parameter, value) in site.parameters.iter().zip(arguments) {
            object.json(parameter.name, &argument(parameter, *value, arguments, status == 0));
        }
        if site.refuses(status) {
            object.text("reason", site.reason);
        }
    });
}

fn totals() -> Totals {
    client::get().map(|client| client.lanes.thread_totals()).unwrap_or_default()
}

/// An argument as JSON.
fn argument(parameter: &Parameter, value: u64, arguments: &[u64], succeeded: bool) -> String {
    if parameter.passing == Passing::Value {
        return element(parameter.kind, value);
    }
    if value == 0 || (parameter.passing == Passing::Out && !succeeded) {
        return address(value);
    }
    let count = match parameter.count {
        Count::One => None,
        Count::Fixed(n) => Some(n),
        Count::Argument(index) => usize::try_from(arguments.get(index).copied().unwrap_or(0)).ok(),
    };
    pointed(parameter.kind, value, count).unwrap_or_else(|| address(value))
}

/// What is at an address: an element, or the first of `count`.
fn pointed(kind: Kind, at: u64, count: Option<usize>) -> Option<String> {
    let Some(count) = count else { return stored(kind, at) };
    let size = u64::try_from(size(kind)).ok()?;
    let mut shown = Vec::new();
    for index in 0..u64::try_from(count.min(ELEMENTS)).ok()? {
        shown.push(stored(kind, at.checked_add(index.checked_mul(size)?)?)?);
    }
    if count > ELEMENTS {
        shown.push(string(&format!("and {} more", count - ELEMENTS)));
    }
    Some(format!("[{}]", shown.join(",")))
}

/// An element in memory.
fn stored(kind: Kind, at: u64) -> Option<String> {
    if let Kind::Structure(name, size) = kind {
        let bytes = peek(at, size.min(STRUCTURE_BYTES))?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        return Some(string(&format!("{name}:{hex}")));
    }
    let mut bytes = peek(at, size(kind))?;
    bytes.resize(8, 0);
    Some(element(kind, u64::from_le_bytes(bytes.try_into().ok()?)))
}

fn size(kind: Kind) -> usize {
    match kind {
        Kind::Unsigned(n) | Kind::Signed(n) | Kind::Structure(_, n) => n,
        Kind::F32 => 4,
        _ => 8,
    }
}

/// A value as JSON.
fn element(kind: Kind, value: u64) -> String {
    match kind {
        Kind::Unsigned(_) => value.to_string(),
        Kind::Signed(4) => u32::try_from(value & 0xffff_ffff).unwrap_or_default().cast_signed().to_string(),
        Kind::Signed(_) => value.cast_signed().to_string(),
        Kind::F32 => real(f64::from(f32::from_bits(u32::try_from(value & 0xffff_ffff).unwrap_or_default()))),
        Kind::F64 => real(f64::from_bits(value)),
        Kind::Handle => handle_text(value),
        Kind::Text => peek_text(value).map_or_else(|| address(value), |text| string(&text)),
        // By value: passed as its address.
        Kind::Structure(..) => stored(kind, value).unwrap_or_else(|| address(value)),
        Kind::Address => address(value),
    }
}

/// JSON has no infinities.
fn real(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { string(&value.to_string()) }
}

fn address(value: u64) -> String {
    if value == 0 { string("NULL") } else { string(&format!("{value:#x}")) }
}

/// A handle by its kind and number; what is none, as an address.
fn handle_text(value: u64) -> String {
    let Some(parts) = handle::split(value) else { return address(value) };
    let kind = HANDLE_KINDS.get(usize::from(parts.kind).saturating_sub(1)).copied().unwrap_or("handle");
    let index = parts.index & !handle::WORKER_INDEX;
    let maker: Cow<'_, str> = if handle::is_worker_made(parts.index) { "w".into() } else { "".into() };
    string(&format!("{kind}#{maker}{index}"))
}

fn string(text: &str) -> String {
    let mut out = String::new();
    quote(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_spec::handle::{Kind as HandleKind, make};

    #[test]
    fn values_are_shown_by_their_kind() {
        assert_eq!(element(Kind::Signed(4), 0xffff_ffff), "-1");
        assert_eq!(element(Kind::F32, u64::from(1.5_f32.to_bits())), "1.5");
        assert_eq!(element(Kind::F64, f64::INFINITY.to_bits()), "\"inf\"");
        assert_eq!(element(Kind::Handle, make(HandleKind::Stream, 3, 0)), "\"Stream#3\"");
        assert_eq!(element(Kind::Handle, 0), "\"NULL\"");
        assert_eq!(element(Kind::Address, 0x7f00), "\"0x7f00\"");
    }

    #[test]
    fn a_reason_is_for_what_is_refused_and_not_for_wrong_arguments() {
        let site = |class, reason| Site { name: "cuX", class, parameters: &[], reason };
        assert!(site("local", "not yet").refuses(error::NOT_SUPPORTED));
        assert!(!site("local", "not yet").refuses(error::INVALID_HANDLE));
        assert!(!site("local", "").refuses(error::NOT_SUPPORTED));
        assert!(site(UNSUPPORTED, "not yet").refuses(error::INVALID_CONTEXT));
    }

    #[test]
    fn arrays_are_cut_and_wild_pointers_are_addresses() {
        let values: Vec<u32> = (0..20).collect();
        let at = u64::try_from(values.as_ptr().addr()).unwrap();
        assert_eq!(pointed(Kind::Unsigned(4), at, Some(3)), Some("[0,1,2]".into()));
        assert_eq!(
            pointed(Kind::Unsigned(4), at, Some(20)),
            Some("[0,1,2,3,4,5,6,7,\"and 12 more\"]".into())
        );
        assert_eq!(pointed(Kind::Unsigned(4), 8, Some(3)), None);
    }

    #[test]
    fn outputs_of_a_failed_call_are_not_read() {
        let parameter =
            Parameter { name: "p", passing: Passing::Out, kind: Kind::Unsigned(4), count: Count::One };
        let value = 7_u32;
        let at = u64::try_from((&raw const value).addr()).unwrap();
        assert_eq!(argument(&parameter, at, &[at], true), "7");
        assert_eq!(argument(&parameter, at, &[at], false), format!("\"{at:#x}\""));
        assert_eq!(argument(&parameter, 0, &[0], true), "\"NULL\"");
    }
}
