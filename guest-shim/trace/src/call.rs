//! A call, as a line of the shim's trace has it.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt;

/// One line of the trace.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    pub pid: u32,
    pub tid: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    pub call: String,
    pub class: String,
    /// By parameter, in their order; outputs with the value that they got.
    pub args: Map<String, Value>,
    pub result: u32,
    /// The result's name, unless it is success.
    #[serde(default)]
    pub error: Option<String>,
    /// Time inside the call, nanoseconds.
    pub ns: u64,
    /// Messages that the call sent, those with a reply included.
    pub messages: u64,
    /// Messages whose reply it waited for.
    pub round_trips: u64,
}

impl Call {
    pub fn is_unsupported(&self) -> bool {
        self.class == "unsupported"
    }

    /// Why it is not supported.
    pub fn reason(&self) -> Option<&str> {
        self.args.get("reason").filter(|_| self.is_unsupported()).and_then(Value::as_str)
    }

    /// Whether the result is an error. "Not ready" and the end of an enumeration are answers.
    pub fn failed(&self) -> bool {
        self.error.is_some() && self.error.as_deref() != Some("CUDA_ERROR_NOT_READY")
    }

    /// The call as a line, with its time since `start`.
    pub fn line(&self, start: u64) -> Line<'_> {
        Line { call: self, start }
    }
}

/// A call as text.
pub struct Line<'a> {
    call: &'a Call,
    start: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { call, start } = self;
        let since = call.at_ns.saturating_sub(*start);
        write!(f, "{}.{:06} [{}", since / 1_000_000_000, since / 1000 % 1_000_000, call.pid)?;
        if call.tid != call.pid {
            write!(f, "/{}", call.tid)?;
        }
        write!(f, "] {}(", call.call)?;
        let shown = call.args.iter().filter(|(name, _)| !call.is_unsupported() || *name != "reason");
        for (index, (name, value)) in shown.enumerate() {
            write!(f, "{}{name}={}", if index > 0 { ", " } else { "" }, Argument(value))?;
        }
        write!(f, ") = {}", call.result)?;
        if let Some(error) = &call.error {
            write!(f, " {error}")?;
        }
        if let Some(reason) = call.reason() {
            write!(f, " ({reason})")?;
        }
        write!(f, " <{} µs", tenths(call.ns))?;
        match (call.round_trips, call.messages - call.round_trips.min(call.messages)) {
            (0, 0) => {}
            (0, 1) => write!(f, ", asynchronous")?,
            (0, n) => write!(f, ", {n} asynchronous messages")?,
            (1, _) => write!(f, ", 1 round trip")?,
            (n, _) => write!(f, ", {n} round trips")?,
        }
        write!(f, ">")
    }
}

/// Nanoseconds as microseconds with one digit after the point.
pub fn tenths(ns: u64) -> String {
    format!("{}.{}", ns / 1000, ns / 100 % 10)
}

/// An argument: addresses and handles bare, texts in quotes.
struct Argument<'a>(&'a Value);

impl fmt::Display for Argument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) if is_bare(text) => f.write_str(text),
            Value::Array(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { ", " } else { "" }, Argument(value))?;
                }
                f.write_str("]")
            }
            value => write!(f, "{value}"),
        }
    }
}

fn is_bare(text: &str) -> bool {
    let handle = text.split_once('#').is_some_and(|(kind, number)| {
        kind.bytes().all(|b| b.is_ascii_alphabetic())
            && number.bytes().all(|b| b.is_ascii_digit() || b == b'w')
    });
    handle || text == "NULL" || text.starts_with("0x") || text.starts_with("and ") || text.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(json: &str) -> Call {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_call_is_shown_with_outputs_result_and_traffic() {
        let call = call(
            r#"{"pid":8,"tid":8,"at_ns":5001000,"call":"cuMemAlloc_v2","class":"sync","args":{"dptr":"0x5f00","bytesize":4096},"result":0,"ns":31049,"messages":1,"round_trips":1}"#,
        );
        assert_eq!(
            call.line(1_000_000).to_string(),
            "0.004001 [8] cuMemAlloc_v2(dptr=0x5f00, bytesize=4096) = 0 <31.0 µs, 1 round trip>"
        );
        assert!(!call.failed());
    }

    #[test]
    fn an_unsupported_call_says_why() {
        let call = call(
            r#"{"pid":8,"tid":9,"at_ns":0,"call":"cuTexRefCreate","class":"unsupported","args":{"pTexRef":"NULL","reason":"not yet"},"result":801,"error":"CUDA_ERROR_NOT_SUPPORTED","ns":400,"messages":0,"round_trips":0}"#,
        );
        assert_eq!(
            call.line(0).to_string(),
            "0.000000 [8/9] cuTexRefCreate(pTexRef=NULL) = 801 CUDA_ERROR_NOT_SUPPORTED (not yet) <0.4 µs>"
        );
        assert!(call.failed() && call.is_unsupported());
    }

    #[test]
    fn handles_are_bare_and_texts_quoted() {
        let shown = |json: &str| Argument(&serde_json::from_str(json).unwrap()).to_string();
        assert_eq!(shown(r#""Stream#w3""#), "Stream#w3");
        assert_eq!(shown(r#""kernel name""#), "\"kernel name\"");
        assert_eq!(shown(r#"[1,"0x2","and 5 more"]"#), "[1, 0x2, and 5 more]");
    }
}
