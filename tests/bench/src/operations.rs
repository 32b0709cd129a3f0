//! The operations that are measured, in the order of the table.

mod copy;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod start;
mod together;

pub use together::worker as process_of_together;

use crate::error::Error;
use crate::gpu::Gpu;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a value means, and which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nanoseconds for one call; less is better.
    Nanoseconds,
    /// Bytes a second; more is better.
    BytesPerSecond,
    /// Launches a second; more is better.
    LaunchesPerSecond,
}

/// What the virtual GPU is to reach beside the native driver in the same run.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// virtual / native: a time at most, a rate at least this.
    Ratio(f64),
    /// At most this many nanoseconds more than native.
    More(f64),
    /// Measured to be known, without a goal.
    None,
}

/// One measurement in one process.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub value: f64,
    /// How often the operation was carried out, all batches together.
    pub calls: u64,
}

/// How an operation is measured.
pub enum Measure {
    /// In a process with a context.
    Warm(fn(&Gpu, u64) -> Result<Sample, Error>),
    /// In a process without a context, which the operation makes.
    Cold(fn() -> Result<Sample, Error>),
}

/// One line of the table. `argument` is a size in bytes, a number of threads, … as the name says.
pub struct Operation {
    pub name: String,
    pub unit: Unit,
    pub goal: Goal,
    pub argument: u64,
    pub measure: Measure,
}

impl Operation {
    fn new(
        name: impl Into<String>,
        unit: Unit,
        goal: Goal,
        argument: u64,
        f: fn(&Gpu, u64) -> Result<Sample, Error>,
    ) -> Self {
        Operation { name: name.into(), unit, goal, argument, measure: Measure::Warm(f) }
    }
}

/// Every operation.
pub fn all() -> Vec<Operation> {
    let parts = [
        start::list(),
        launch::list(),
        event::list(),
        memory::list(),
        copy::list(),
        graph::list(),
        module::list(),
        together::list(),
    ];
    parts.into_iter().flatten().collect()
}

/// Batches from which the median is taken within one process.
const BATCHES: usize = 7;

/// The median time of one call, over batches of `count` calls of `f`; `after` ends each batch outside the time.
fn per_call(
    count: u64,
    mut f: impl FnMut() -> Result<(), Error>,
    mut after: impl FnMut() -> Result<(), Error>,
) -> Result<Sample, Error> {
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..count {
            f()?;
        }
        times.push(start.elapsed().div_f64(count as f64));
        after()?;
    }
    Ok(Sample { value: median(times).as_secs_f64() * 1e9, calls: count * BATCHES as u64 })
}

/// The median of at least one time; nothing is zero.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// An operation named x, for tests of what is done with results.
#[cfg(test)]
pub fn for_test(unit: Unit, goal: Goal) -> Operation {
    Operation {
        name: "x".into(),
        unit,
        goal,
        argument: 0,
        measure: Measure::Cold(|| Ok(Sample { value: 0.0, calls: 0 })),
    }
}
