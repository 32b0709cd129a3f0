//! Launches and the waits for them.

use super::{Goal, Operation, Sample, Unit, per_call};
use crate::error::Error;
use crate::gpu::Gpu;
use std::time::Instant;

/// Fits into the driver's queue, so that the caller's cost is not the device's.
const QUEUED: u64 = 500;

pub fn list() -> Vec<Operation> {
    let ns = Unit::Nanoseconds;
    vec![
        Operation::new("launch, caller's cost", ns, Goal::Ratio(0.10), QUEUED, caller),
        Operation::new("launch, 100,000 with synchronize", ns, Goal::Ratio(1.0), 100_000, throughput),
        Operation::new("launch + synchronize", ns, Goal::More(1000.0), 1000, waited),
        Operation::new("synchronize an idle stream", ns, Goal::More(700.0), 2000, idle),
    ]
}

fn caller(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    gpu.reset()?;
    let sample = per_call(count, || gpu.tick(), || gpu.synchronize())?;
    gpu.expect_ticks(sample.calls)?;
    Ok(sample)
}

fn throughput(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let count = gpu.scaled(count);
    gpu.reset()?;
    let start = Instant::now();
    for _ in 0..count {
        gpu.tick()?;
    }
    gpu.synchronize()?;
    let time = start.elapsed();
    gpu.expect_ticks(count)?;
    Ok(Sample { value: time.as_secs_f64() * 1e9 / count as f64, calls: count })
}

fn waited(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let count = gpu.scaled(count);
    gpu.reset()?;
    let sample = per_call(count, || gpu.tick().and_then(|()| gpu.synchronize()), || Ok(()))?;
    gpu.expect_ticks(sample.calls)?;
    Ok(sample)
}

fn idle(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    gpu.synchronize()?;
    per_call(gpu.scaled(count), || gpu.synchronize(), || Ok(()))
}
