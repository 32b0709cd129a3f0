//! The measuring process: carries out operations on whatever `libcuda.so.1` it was given, and prints a line of JSON for each.

use crate::error::{Error, io};
use crate::gpu::Gpu;
use crate::operations::{self, Measure, Operation, Sample};
use serde::{Deserialize, Serialize};
use std::io::Write;

/// One line of a measuring process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(default)]
    pub calls: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Carries out the operations whose names come on stdin, one a line, when they come. The empty name makes the context, as the end does if
/// nothing has.
///
/// # Errors
/// What cannot be read or written, and the driver's when no context can be had at the end. An operation's failure is in its line.
pub fn measure(quick: bool) -> Result<(), Error> {
    let operations = operations::all();
    let mut gpu = None;
    for name in std::io::stdin().lines() {
        let name = name.map_err(io("reading what to measure"))?;
        let result = match operations.iter().find(|operation| operation.name == name) {
            Some(operation) => carry_out(operation, &mut gpu, quick).map(Some),
            None if name.is_empty() => opened(&mut gpu, quick).map(|_| None),
            None => Err(Error::Wrong(format!("there is no operation {name}"))),
        };
        print(name, result)?;
    }
    opened(&mut gpu, quick).map(drop)
}

fn carry_out(operation: &Operation, gpu: &mut Option<Gpu>, quick: bool) -> Result<Sample, Error> {
    match operation.measure {
        Measure::Cold(f) => f(),
        Measure::Warm(f) => f(opened(gpu, quick)?, operation.argument),
    }
}

/// The context, made if it is not there.
fn opened(gpu: &mut Option<Gpu>, quick: bool) -> Result<&Gpu, Error> {
    if gpu.is_none() {
        let new = Gpu::open(quick)?;
        new.tick()?;
        new.synchronize()?;
        *gpu = Some(new);
    }
    gpu.as_ref().ok_or_else(|| Error::Wrong("there is no context".into()))
}

fn print(name: String, result: Result<Option<Sample>, Error>) -> Result<(), Error> {
    let line = match result {
        Ok(sample) => Line {
            name,
            value: sample.map(|sample| sample.value),
            calls: sample.map_or(0, |sample| sample.calls),
            error: None,
        },
        Err(error) => Line { name, value: None, calls: 0, error: Some(error.to_string()) },
    };
    let text = serde_json::to_string(&line).map_err(|e| Error::Child(e.to_string()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(io("printing a line"))
}
