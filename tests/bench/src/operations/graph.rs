//! A graph of 500 kernels in a row.

use super::{Goal, Operation, Sample, Unit, per_call};
use crate::error::{Error, Fail};
use crate::gpu::Gpu;
use cudarc::driver::{result, sys};
use std::mem::MaybeUninit;

const NODES: u64 = 500;

pub fn list() -> Vec<Operation> {
    let ns = Unit::Nanoseconds;
    vec![
        Operation::new("graph instantiate, 500 nodes", ns, Goal::Ratio(1.2), NODES, instantiate),
        Operation::new("graph launch + synchronize, 500 nodes", ns, Goal::Ratio(1.02), NODES, launch),
        Operation::new("graph update, 500 nodes", ns, Goal::Ratio(1.2), NODES, update),
    ]
}

fn capture(gpu: &Gpu, nodes: u64) -> Result<sys::CUgraph, Error> {
    // SAFETY: the stream is ours.
    unsafe {
        result::stream::begin_capture(
            gpu.stream,
            sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        )
    }
    .fail("cuStreamBeginCapture")?;
    for _ in 0..nodes {
        gpu.tick()?;
    }
    // SAFETY: the stream is ours.
    unsafe { result::stream::end_capture(gpu.stream) }.fail("cuStreamEndCapture")
}

fn executable(graph: sys::CUgraph) -> Result<sys::CUgraphExec, Error> {
    let mut executable = MaybeUninit::uninit();
    // SAFETY: the graph is ours; the driver writes the handle if it succeeds.
    unsafe {
        sys::cuGraphInstantiateWithFlags(executable.as_mut_ptr(), graph, 0)
            .result()
            .fail("cuGraphInstantiate")?;
        Ok(executable.assume_init())
    }
}

fn destroy(executable: sys::CUgraphExec) -> Result<(), Error> {
    // SAFETY: ours, and not running.
    unsafe { result::graph::exec_destroy(executable) }.fail("cuGraphExecDestroy")
}

/// Without the destruction, which is outside the time.
fn instantiate(gpu: &Gpu, nodes: u64) -> Result<Sample, Error> {
    let graph = capture(gpu, nodes)?;
    let made = std::cell::Cell::new(None);
    let time = per_call(
        1,
        || {
            made.set(Some(executable(graph)?));
            Ok(())
        },
        || {
            made.take().map_or(Ok(()), destroy)?;
            // Virtually that is over before it is done, and the next one would wait for it.
            gpu.synchronize()
        },
    )?;
    check(gpu, graph, nodes)?;
    Ok(time)
}

fn check(gpu: &Gpu, graph: sys::CUgraph, nodes: u64) -> Result<(), Error> {
    let executable = executable(graph)?;
    gpu.reset()?;
    run(gpu, executable)?;
    gpu.expect_ticks(nodes)?;
    destroy(executable)
}

fn run(gpu: &Gpu, executable: sys::CUgraphExec) -> Result<(), Error> {
    // SAFETY: both are ours.
    unsafe { result::graph::launch(executable, gpu.stream) }.fail("cuGraphLaunch")?;
    gpu.synchronize()
}

fn launch(gpu: &Gpu, nodes: u64) -> Result<Sample, Error> {
    let graph = capture(gpu, nodes)?;
    let executable = executable(graph)?;
    run(gpu, executable)?;
    gpu.reset()?;
    let sample = per_call(gpu.scaled(100), || run(gpu, executable), || Ok(()))?;
    gpu.expect_ticks(sample.calls * nodes)?;
    destroy(executable)?;
    Ok(sample)
}

fn update(gpu: &Gpu, nodes: u64) -> Result<Sample, Error> {
    let (first, second) = (capture(gpu, nodes)?, capture(gpu, nodes)?);
    let executable = executable(first)?;
    let time = per_call(
        gpu.scaled(20),
        || {
            let mut information = MaybeUninit::uninit();
            // SAFETY: both are ours; the driver writes the information.
            unsafe { sys::cuGraphExecUpdate_v2(executable, second, information.as_mut_ptr()) }
                .result()
                .fail("cuGraphExecUpdate")
        },
        || Ok(()),
    )?;
    gpu.reset()?;
    run(gpu, executable)?;
    gpu.expect_ticks(nodes)?;
    destroy(executable)?;
    Ok(time)
}
