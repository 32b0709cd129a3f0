//! The measuring process: carries out operations on whatever `libcuda.so.1` it was given, and prints a line of JSON for each.

use crate::error::Error;
use crate::gpu::Gpu;
use crate::operations::{self, Measure, Operation};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// In which the broker makes a context for the one that a process took, which disturbs what runs: no part of what is measured. It begins after
/// a quarter of a second and takes about 0.3.
pub const SETTLE: Duration = Duration::from_secs(1);

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

/// Which operations are meant.
#[derive(Debug, Clone)]
pub enum Only {
    /// Those whose name contains one of these; all if there is none.
    Parts(Vec<String>),
    /// The one of this name; none if there is no such.
    Name(String),
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Choice {
    pub only: Only,
    pub quick: bool,
}

impl Choice {
    pub fn has(&self, operation: &Operation) -> bool {
        match &self.only {
            Only::Parts(parts) => {
                parts.is_empty() || parts.iter().any(|part| operation.name.contains(part.as_str()))
            }
            Only::Name(name) => operation.name == *name,
        }
    }
}

/// Measures and prints; operations that need no context come first.
///
/// # Errors
/// The driver's when no context can be had. An operation's failure is in its line.
pub fn measure(choice: &Choice) -> Result<(), Error> {
    let chosen: Vec<Operation> = operations::all().into_iter().filter(|o| choice.has(o)).collect();
    for operation in &chosen {
        if let Measure::Cold(f) = operation.measure {
            print(operation, f());
        }
    }
    let gpu = Gpu::open(choice.quick)?;
    gpu.tick()?;
    gpu.synchronize()?;
    let is_warm = |operation: &Operation| matches!(operation.measure, Measure::Warm(_));
    if !choice.quick && chosen.iter().any(is_warm) {
        std::thread::sleep(SETTLE);
    }
    for operation in &chosen {
        if let Measure::Warm(f) = operation.measure {
            print(operation, f(&gpu, operation.argument));
        }
    }
    Ok(())
}

fn print(operation: &Operation, result: Result<operations::Sample, Error>) {
    let name = operation.name.clone();
    let line = match result {
        Ok(sample) => Line { name, value: Some(sample.value), calls: sample.calls, error: None },
        Err(error) => Line { name, value: None, calls: 0, error: Some(error.to_string()) },
    };
    // A line of plain numbers and text always has a form in JSON.
    if let Ok(text) = serde_json::to_string(&line) {
        println!("{text}");
    }
}
