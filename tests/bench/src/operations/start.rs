//! From nothing to the first kernel's end: what a short program waits for.

use super::{Goal, Measure, Operation, Sample, Unit};
use crate::error::Error;
use crate::gpu::Gpu;
use std::time::Instant;

pub fn list() -> Vec<Operation> {
    vec![Operation {
        name: "start: cuInit to first kernel done".into(),
        unit: Unit::Nanoseconds,
        goal: Goal::Ratio(0.30),
        argument: 0,
        measure: Measure::Cold(start),
    }]
}

fn start() -> Result<Sample, Error> {
    let start = Instant::now();
    let gpu = Gpu::open(false)?;
    gpu.tick()?;
    gpu.synchronize()?;
    let time = start.elapsed();
    gpu.expect_ticks(1)?;
    Ok(Sample { value: time.as_secs_f64() * 1e9, calls: 1 })
}
