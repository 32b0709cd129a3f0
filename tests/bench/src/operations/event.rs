//! Events.

use super::{Goal, Operation, Sample, Unit, per_call};
use crate::error::{Error, Fail};
use crate::gpu::Gpu;
use cudarc::driver::{result::event, sys::CUevent, sys::CUevent_flags};

pub fn list() -> Vec<Operation> {
    let ns = Unit::Nanoseconds;
    vec![
        Operation::new("event record", ns, Goal::None, 500, record),
        Operation::new("event query", ns, Goal::More(700.0), 2000, query),
        Operation::new("event elapsed time", ns, Goal::None, 1000, elapsed),
    ]
}

fn new() -> Result<CUevent, Error> {
    event::create(CUevent_flags::CU_EVENT_DEFAULT).fail("cuEventCreate")
}

fn put(gpu: &Gpu, event: CUevent) -> Result<(), Error> {
    // SAFETY: event and stream are ours.
    unsafe { event::record(event, gpu.stream) }.fail("cuEventRecord")
}

fn record(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let event = new()?;
    let time = per_call(count, || put(gpu, event), || gpu.synchronize())?;
    done(event)?;
    Ok(time)
}

/// Fails unless the event is behind the work: not ready is an error.
fn done(event: CUevent) -> Result<(), Error> {
    // SAFETY: the event is ours.
    unsafe { event::query(event) }.fail("cuEventQuery")
}

fn query(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let event = new()?;
    put(gpu, event)?;
    gpu.synchronize()?;
    per_call(gpu.scaled(count), || done(event), || Ok(()))
}

fn elapsed(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let (start, end) = (new()?, new()?);
    put(gpu, start)?;
    gpu.tick()?;
    put(gpu, end)?;
    gpu.synchronize()?;
    let mut least = f32::INFINITY;
    let time = per_call(
        gpu.scaled(count),
        || {
            // SAFETY: both events are ours and were recorded.
            least = least.min(unsafe { event::elapsed(start, end) }.fail("cuEventElapsedTime")?);
            Ok(())
        },
        || Ok(()),
    )?;
    if least > 0.0 { Ok(time) } else { Err(Error::Wrong(format!("{least} ms between two events"))) }
}
