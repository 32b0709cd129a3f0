//! Kernel launches: checked at the call, run in stream order.

use std::sync::Arc;

use super::context::Context;
use super::function::Function;
use super::graph::{self, Op};
use super::stream::Stream;
use super::work::Core;
use super::{CudaError, Result, output, state, usage};
use crate::exec;

/// Most blocks in x, y and z.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// Most threads in x, y and z.
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

/// A checked launch.
#[derive(Clone, Debug)]
pub struct LaunchWork {
    /// The `CUfunction` or `CUkernel` that the program named.
    named: u64,
    function: Arc<Function>,
    shape: Shape,
    params: Box<[u8]>,
}

impl Shape {
    /// Refuses what the device or `function` cannot run, with `INVALID_VALUE`.
    pub fn check(&self, function: &Function) -> Result {
        let entry = &function.entry;
        let within =
            |size: [u32; 3], max: [u32; 3]| size.iter().zip(max).all(|(size, max)| (1..=max).contains(size));
        let threads: u32 = self.block.iter().fold(1, |threads, size| threads.saturating_mul(*size));
        let is_valid = within(self.grid, MAX_GRID)
            && within(self.block, MAX_BLOCK)
            && threads <= entry.max_threads()
            && self.dynamic_shared <= entry.max_dynamic_shared()
            && entry.info().required_block.is_none_or(|required| required == self.block);
        if is_valid { Ok(()) } else { Err(CudaError::InvalidValue) }
    }
}

/// Gives a launch to `stream`. `params` is the parameter buffer.
pub fn submit(
    context: &Context,
    stream: &Arc<Stream>,
    named: u64,
    function: Arc<Function>,
    shape: Shape,
    params: Box<[u8]>,
) -> Result {
    if function.context() != context.owner() {
        return Err(CudaError::InvalidHandle);
    }
    graph::give(context, stream, Op::Kernel(LaunchWork::new(named, function, shape, params)))
}

impl LaunchWork {
    /// A launch of `function`, for which `shape` was checked. `params` is the parameter buffer.
    pub fn new(named: u64, function: Arc<Function>, shape: Shape, params: Box<[u8]>) -> LaunchWork {
        LaunchWork { named, function, shape, params }
    }

    /// The `CUfunction` or `CUkernel` that the program named.
    pub fn named(&self) -> u64 {
        self.named
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its parameter buffer.
    pub fn params(&self) -> &[u8] {
        &self.params
    }

    /// Runs the kernel. A fault becomes the context's.
    pub fn run(self, core: &Core) {
        let Ok(state) = state() else { return };
        let memory = state.memory.for_kernel(core.device.ordinal());
        let launch = exec::Launch {
            grid: self.shape.grid,
            block: self.shape.block,
            dynamic_shared: self.shape.dynamic_shared,
            params: &self.params,
            sm_count: core.device.sm_count(),
        };
        let _running = usage::Running::new(core.device.number());
        let kernel = &self.function.entry.info().name;
        let mut print = |text: &[u8]| core.output.append(text);
        if let Err(fault) = exec::run(self.function.program(), kernel, &launch, &memory, &mut print) {
            report(&fault);
            core.set_fault(error_of(&fault));
        }
    }
}

/// Says on stderr what happened; a failed device assert prints what the real driver prints.
fn report(fault: &exec::Fault) {
    match fault {
        exec::Fault::Assert { message, .. } => output::write_error(message),
        exec::Fault::Unsupported { kernel, line, text, reason } => {
            eprintln!("softgpu: kernel {kernel}: line {line}: `{text}`: not supported ({reason})");
        }
        _ => eprintln!("softgpu: {fault}"),
    }
}

fn error_of(fault: &exec::Fault) -> CudaError {
    match fault {
        exec::Fault::Assert { .. } => CudaError::Assert,
        exec::Fault::IllegalAddress { .. } => CudaError::IllegalAddress,
        exec::Fault::MisalignedAddress { .. } => CudaError::MisalignedAddress,
        exec::Fault::IllegalInstruction { .. } => CudaError::IllegalInstruction,
        exec::Fault::Unsupported { .. } => CudaError::NotSupported,
        exec::Fault::BadLaunch { .. } => CudaError::InvalidValue,
        exec::Fault::Deadlock { .. } => CudaError::LaunchTimeout,
        exec::Fault::Trap { .. } => CudaError::LaunchFailed,
    }
}
