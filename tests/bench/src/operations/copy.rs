//! Copies: between pinned or pageable memory and the device, and within it.

use super::{BATCHES, Goal, Operation, Sample, Unit, median, per_call};
use crate::error::{Error, Fail};
use crate::gpu::{Gpu, allocate};
use cudarc::driver::{result, sys};
use std::time::Instant;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Run = fn(&Gpu, u64) -> Result<Sample, Error>;

pub fn list() -> Vec<Operation> {
    let mut list = Vec::new();
    let small: [(&str, Run); 4] = [
        ("pinned H2D", |gpu, n| latency(gpu, n, Kind::Pinned, Way::In)),
        ("pinned D2H", |gpu, n| latency(gpu, n, Kind::Pinned, Way::Out)),
        ("pageable H2D", |gpu, n| latency(gpu, n, Kind::Pageable, Way::In)),
        ("pageable D2H", |gpu, n| latency(gpu, n, Kind::Pageable, Way::Out)),
    ];
    for (name, run) in small {
        let goal = if name.starts_with("pinned") { Goal::More(1000.0) } else { Goal::None };
        list.push(Operation::new(format!("copy {name}, 4 KiB"), Unit::Nanoseconds, goal, 4 * KIB, run));
    }
    let large: [(&str, Run, f64, u64); 5] = [
        ("pinned H2D", |gpu, n| rate(gpu, n, Kind::Pinned, Way::In), 0.99, MIB),
        ("pinned D2H", |gpu, n| rate(gpu, n, Kind::Pinned, Way::Out), 0.99, MIB),
        ("pageable H2D", |gpu, n| rate(gpu, n, Kind::Pageable, Way::In), 3.0, 16 * MIB),
        ("pageable D2H", |gpu, n| rate(gpu, n, Kind::Pageable, Way::Out), 1.8, 16 * MIB),
        ("device to device", |gpu, n| rate(gpu, n, Kind::Device, Way::In), 0.99, MIB),
    ];
    for (name, run, ratio, from) in large {
        for bytes in [64 * KIB, MIB, 16 * MIB, 256 * MIB, GIB] {
            let goal = if bytes >= from { Goal::Ratio(ratio) } else { Goal::None };
            list.push(Operation::new(
                format!("copy {name}, {}", size(bytes)),
                Unit::BytesPerSecond,
                goal,
                bytes,
                run,
            ));
        }
    }
    list
}

fn size(bytes: u64) -> String {
    match bytes {
        GIB.. => format!("{} GiB", bytes / GIB),
        MIB.. => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes / KIB),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Pinned,
    Pageable,
    Device,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// Two places of the same size, one of them on the device, and words in them that show whether the last copy was made.
struct Places {
    host: Host,
    device: sys::CUdeviceptr,
    other: sys::CUdeviceptr,
    bytes: usize,
    way: Way,
}

enum Host {
    Pinned(*mut u8),
    Pageable(Vec<u8>),
    /// Device to device: the host's part is only for the check.
    Device(Vec<u8>),
}

impl Host {
    fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        match self {
            // SAFETY: cuMemHostAlloc gave that many bytes, and nothing else refers to them while no copy runs.
            Host::Pinned(start) => unsafe { std::slice::from_raw_parts_mut(*start, bytes) },
            Host::Pageable(memory) | Host::Device(memory) => memory,
        }
    }
}

impl Places {
    fn new(bytes: u64, kind: Kind, way: Way) -> Result<Places, Error> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let host = match kind {
            Kind::Pinned => {
                // SAFETY: no precondition.
                Host::Pinned(unsafe { result::malloc_host(bytes, 0) }.fail("cuMemHostAlloc")?.cast())
            }
            Kind::Pageable => Host::Pageable(vec![0; bytes]),
            Kind::Device => Host::Device(vec![0; bytes]),
        };
        let mut places = Places { host, device: allocate(bytes)?, other: allocate(bytes)?, bytes, way };
        places.fill(1)?;
        Ok(places)
    }

    /// Puts a pattern of `seed` where the copy starts from.
    fn fill(&mut self, seed: u8) -> Result<(), Error> {
        let (device, from_device) =
            (self.device, self.way == Way::Out || matches!(self.host, Host::Device(_)));
        let memory = self.host.bytes(self.bytes);
        for (i, page) in memory.chunks_mut(4096).enumerate() {
            page.fill(pattern(seed, i));
        }
        if from_device {
            // SAFETY: the device's memory has that size.
            unsafe { result::memcpy_htod_sync(device, memory) }.fail("cuMemcpyHtoD")?;
            // A small copy may be under way still, and our stream does not wait for the default one.
            result::ctx::synchronize().fail("cuCtxSynchronize")?;
            memory.fill(0);
        }
        Ok(())
    }

    /// Makes the copy and waits for it, as a program does that wants the data.
    fn copy(&mut self, gpu: &Gpu) -> Result<(), Error> {
        let (device, other, bytes) = (self.device, self.other, self.bytes);
        let pageable = matches!(self.host, Host::Pageable(_));
        let start = self.host.bytes(bytes).as_mut_ptr().cast();
        // SAFETY: both places have `bytes` bytes and live on; an asynchronous copy is waited for below.
        let code = unsafe {
            match (&self.host, self.way) {
                (Host::Device(_), _) => sys::cuMemcpyDtoDAsync_v2(other, device, bytes, gpu.stream),
                (Host::Pageable(_), Way::In) => sys::cuMemcpyHtoD_v2(device, start, bytes),
                (Host::Pageable(_), Way::Out) => sys::cuMemcpyDtoH_v2(start, device, bytes),
                (Host::Pinned(_), Way::In) => sys::cuMemcpyHtoDAsync_v2(device, start, bytes, gpu.stream),
                (Host::Pinned(_), Way::Out) => sys::cuMemcpyDtoHAsync_v2(start, device, bytes, gpu.stream),
            }
        };
        code.result().fail("cuMemcpy")?;
        if pageable { Ok(()) } else { gpu.synchronize() }
    }

    /// Fails unless the pattern of `seed` arrived.
    fn check(&mut self, seed: u8) -> Result<(), Error> {
        let (bytes, device) =
            (self.bytes, if matches!(self.host, Host::Device(_)) { self.other } else { self.device });
        let read_back = self.way == Way::In;
        let memory = self.host.bytes(bytes);
        if read_back {
            memory.fill(0);
            // SAFETY: the device's memory has that size.
            unsafe { result::memcpy_dtoh_sync(memory, device) }.fail("cuMemcpyDtoH")?;
        }
        for (i, page) in memory.chunks(4096).enumerate() {
            let wanted = pattern(seed, i);
            if page.iter().any(|byte| *byte != wanted) {
                return Err(Error::Wrong(format!("page {i} of a copy of {bytes} bytes")));
            }
        }
        Ok(())
    }

    fn free(self) -> Result<(), Error> {
        if let Host::Pinned(start) = self.host {
            // SAFETY: of cuMemHostAlloc; no copy runs.
            unsafe { result::free_host(start.cast()) }.fail("cuMemFreeHost")?;
        }
        for memory in [self.device, self.other] {
            // SAFETY: of cuMemAlloc; no copy runs.
            unsafe { result::free_sync(memory) }.fail("cuMemFree")?;
        }
        Ok(())
    }
}

/// Differs from page to page and from seed to seed, and is never 0.
fn pattern(seed: u8, page: usize) -> u8 {
    (page as u8).wrapping_mul(30).wrapping_add(seed.wrapping_mul(2)) | 1
}

fn latency(gpu: &Gpu, bytes: u64, kind: Kind, way: Way) -> Result<Sample, Error> {
    let mut places = Places::new(bytes, kind, way)?;
    places.copy(gpu)?;
    places.check(1)?;
    places.fill(2)?;
    let time = per_call(gpu.scaled(500), || places.copy(gpu), || Ok(()))?;
    places.check(2)?;
    places.free()?;
    Ok(time)
}

fn rate(gpu: &Gpu, bytes: u64, kind: Kind, way: Way) -> Result<Sample, Error> {
    let bytes = if gpu.quick { bytes.min(4 * MIB) } else { bytes };
    let mut places = Places::new(bytes, kind, way)?;
    places.copy(gpu)?;
    places.check(1)?;
    places.fill(2)?;
    // Small copies several times: neither the clock's resolution is measured nor how soon sleeping threads and processors are awake.
    let batch = if gpu.quick { 16 * MIB } else { 64 * MIB };
    let repeat = (batch / bytes).clamp(1, 64);
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..if bytes >= 256 * MIB { 3 } else { BATCHES } {
        let start = Instant::now();
        for _ in 0..repeat {
            places.copy(gpu)?;
        }
        times.push(start.elapsed().div_f64(repeat as f64));
    }
    places.check(2)?;
    places.free()?;
    let calls = repeat * times.len() as u64;
    Ok(Sample { value: bytes as f64 / median(times).as_secs_f64(), calls })
}
