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
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let free = |memory| {
        // SAFETY: just allocated, used by nobody any more.
        unsafe { result::free_sync(memory) }.fail("cuMemFree")
    };
    timed(gpu, (bytes, count), || allocate(bytes), free, || Ok(()))
}

/// Times allocation and free of so many bytes, so many times a batch, and looks whether such memory keeps what is written.
fn timed(
    gpu: &Gpu,
    (bytes, count): (usize, u64),
    allocate: impl Fn() -> Result<sys::CUdeviceptr, Error>,
    free: impl Fn(sys::CUdeviceptr) -> Result<(), Error>,
    after: impl FnMut() -> Result<(), Error>,
) -> Result<Sample, Error> {
    let time = per_call(count, || free(allocate()?), after)?;
    let memory = allocate()?;
    check(gpu, memory, bytes)?;
    free(memory)?;
    Ok(time)
}

/// Fails unless the memory keeps what is written at its ends.
fn check(gpu: &Gpu, memory: sys::CUdeviceptr, bytes: usize) -> Result<(), Error> {
    const VALUE: u8 = 0x5a;
    let last = memory + bytes as u64 - 1;
    for end in [memory, last] {
        // SAFETY: a byte of the memory, in our stream.
        unsafe { result::memset_d8_async(end, VALUE, 1, gpu.stream) }.fail("cuMemsetD8Async")?;
    }
    gpu.synchronize()?;
    for end in [memory, last] {
        let mut found = [0_u8];
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_sync(&mut found, end) }.fail("cuMemcpyDtoH")?;
        if found != [VALUE] {
            return Err(Error::Wrong(format!("memory of {bytes} bytes keeps {found:?}")));
        }
    }
    Ok(())
}

fn ordered(gpu: &Gpu, bytes: u64) -> Result<Sample, Error> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let allocate = || {
        // SAFETY: the stream is ours.
        unsafe { result::malloc_async(gpu.stream, bytes) }.fail("cuMemAllocAsync")
    };
    let free = |memory| {
        // SAFETY: allocated in that stream, used by nobody any more.
        unsafe { result::free_async(memory, gpu.stream) }.fail("cuMemFreeAsync")
    };
    timed(gpu, (bytes, gpu.scaled(300)), allocate, free, || gpu.synchronize())
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
