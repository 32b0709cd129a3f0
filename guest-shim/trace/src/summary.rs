//! What a program's calls came to.

use crate::call::{Call, tenths};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The calls of one function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    pub class: String,
    pub calls: u64,
    pub errors: u64,
    pub ns: u64,
    pub messages: u64,
    pub round_trips: u64,
}

/// The first call of a sort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct First {
    pub call: String,
    pub pid: u32,
    pub result: u32,
    pub error: String,
    /// Why it is not supported.
    pub reason: Option<String>,
    /// Calls of all processes before it.
    pub after_calls: u64,
}

/// All calls of a program and its children.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    pub calls: u64,
    pub processes: BTreeSet<u32>,
    pub first_unsupported: Option<First>,
    pub first_error: Option<First>,
    pub functions: BTreeMap<String, Row>,
    /// Lines of the trace that could not be read.
    pub unreadable: u64,
}

impl Summary {
    pub fn add(&mut self, call: &Call) {
        let first = || First {
            call: call.call.clone(),
            pid: call.pid,
            result: call.result,
            error: call.error.clone().unwrap_or_default(),
            reason: call.reason().map(str::to_string),
            after_calls: self.calls,
        };
        if call.is_unsupported() && self.first_unsupported.is_none() {
            self.first_unsupported = Some(first());
        }
        if call.failed() && self.first_error.is_none() {
            self.first_error = Some(first());
        }
        self.calls += 1;
        self.processes.insert(call.pid);
        let row = self.functions.entry(call.call.clone()).or_default();
        row.class.clone_from(&call.class);
        row.calls += 1;
        row.errors += u64::from(call.failed());
        row.ns += call.ns;
        row.messages += call.messages;
        row.round_trips += call.round_trips;
    }

    fn total(&self) -> Row {
        let mut total = Row::default();
        for row in self.functions.values() {
            total.calls += row.calls;
            total.errors += row.errors;
            total.ns += row.ns;
            total.messages += row.messages;
            total.round_trips += row.round_trips;
        }
        total
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.calls == 0 {
            return writeln!(
                f,
                "no call was traced: the program did not load vgpu's libcuda.so.1 or libnvidia-ml.so.1, or called nothing of them"
            );
        }
        writeln!(
            f,
            "{:<44} {:<11} {:>8} {:>7} {:>11} {:>10} {:>9} {:>11}",
            "call", "class", "calls", "errors", "total ms", "mean µs", "messages", "round trips"
        )?;
        let mut rows: Vec<_> = self.functions.iter().collect();
        rows.sort_by(|a, b| b.1.ns.cmp(&a.1.ns).then(a.0.cmp(b.0)));
        for (name, row) in rows {
            line(f, name, row)?;
        }
        line(f, &format!("all, in {} process(es)", self.processes.len()), &self.total())?;
        match &self.first_unsupported {
            None => writeln!(f, "unsupported calls: none")?,
            Some(first) => writeln!(f, "first unsupported call: {first}")?,
        }
        match &self.first_error {
            None => writeln!(f, "calls that failed: none")?,
            Some(first) => writeln!(f, "first call that failed: {first}")?,
        }
        if self.unreadable > 0 {
            writeln!(f, "{} lines of the trace could not be read", self.unreadable)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, row: &Row) -> fmt::Result {
    writeln!(
        f,
        "{name:<44} {:<11} {:>8} {:>7} {:>11.3} {:>10} {:>9} {:>11}",
        row.class,
        row.calls,
        row.errors,
        // For people: a rounded number will do.
        std::time::Duration::from_nanos(row.ns).as_secs_f64() * 1e3,
        tenths(row.ns / row.calls.max(1)),
        row.messages,
        row.round_trips
    )
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} {}", self.call, self.result, self.error)?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        write!(f, ", process {}, after {} calls", self.pid, self.after_calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, class: &str, result: u32, round_trips: u64) -> Call {
        let error = if result == 0 { String::new() } else { format!(r#","error":"E{result}""#) };
        serde_json::from_str(&format!(
            r#"{{"pid":1,"tid":1,"at_ns":0,"call":"{name}","class":"{class}","args":{{}},"result":{result}{error},"ns":1000,"messages":1,"round_trips":{round_trips}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn calls_are_summed_by_function_and_the_firsts_are_named() {
        let mut summary = Summary::default();
        summary.add(&call("cuInit", "local", 0, 0));
        summary.add(&call("cuMemAlloc_v2", "sync", 2, 1));
        summary.add(&call("cuX", "unsupported", 801, 0));
        summary.add(&call("cuX", "unsupported", 801, 0));
        let row = &summary.functions["cuX"];
        assert_eq!((row.calls, row.errors, row.ns, row.messages), (2, 2, 2000, 2));
        assert_eq!(summary.first_error.as_ref().unwrap().call, "cuMemAlloc_v2");
        let unsupported = summary.first_unsupported.as_ref().unwrap();
        assert_eq!((unsupported.call.as_str(), unsupported.after_calls), ("cuX", 2));
        let text = summary.to_string();
        assert!(text.contains("first unsupported call: cuX = 801 E801, process 1, after 2 calls"), "{text}");
    }

    #[test]
    fn a_program_without_calls_is_told() {
        assert!(Summary::default().to_string().starts_with("no call was traced"));
    }
}
