//! Allocation.

use super::{Goal, Operation, Sample, Unit, per_call};
use crate::error::{Error, Fail};
use crate::gpu::{Gpu, allocate};
use cudarc::driver::{result, sys};

const MIB: u64 = 1 << 20;

pub fn list() -> Vec<Operation> {
    let ns = Unit::Nanoseconds;
    vec![
        Operation::new("alloc + free, 1 MiB", ns, Goal::More(2000.0), MIB, alloc_free),
        Operation::new("alloc + free, 64 MiB", ns, Goal::More(2000.0), 64 * MIB, alloc_free),
        Operation::new("stream-ordered alloc + free, 1 MiB", ns, Goal::More(2000.0), MIB, ordered),
        Operation::new("memory info", ns, Goal::None, 500, info),
    ]
}

fn alloc_free(gpu: &Gpu, bytes: u64) -> Result<Sample, Error> {
    let count = gpu.scaled(if bytes > MIB { 50 } else { 300 });
    per_call(
        count,
        || {
            let memory = allocate(usize::try_from(bytes).unwrap_or(usize::MAX))?;
            // SAFETY: just allocated, used by nobody.
            unsafe { result::free_sync(memory) }.fail("cuMemFree")
        },
        || Ok(()),
    )
}

fn ordered(gpu: &Gpu, bytes: u64) -> Result<Sample, Error> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    per_call(
        gpu.scaled(300),
        || {
            // SAFETY: the stream is ours.
            let memory = unsafe { result::malloc_async(gpu.stream, bytes) }.fail("cuMemAllocAsync")?;
            // SAFETY: just allocated in that stream, used by nobody.
            unsafe { result::free_async(memory, gpu.stream) }.fail("cuMemFreeAsync")
        },
        || gpu.synchronize(),
    )
}

fn info(gpu: &Gpu, count: u64) -> Result<Sample, Error> {
    let (mut free, mut total) = (0usize, 0usize);
    let time = per_call(
        gpu.scaled(count),
        || {
            // SAFETY: both are ours to write.
            unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }.result().fail("cuMemGetInfo")
        },
        || Ok(()),
    )?;
    if free <= total && free > 0 {
        Ok(time)
    } else {
        Err(Error::Wrong(format!("{free} of {total} bytes free")))
    }
}
