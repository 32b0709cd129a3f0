//! The interpreter: a linked program, and launches of its kernels.
//!
//! A warp runs in lockstep: lanes with the same place in the code form a group, and each instruction works on all lanes
//! of its group. Groups that part at a branch meet again because the one that is furthest behind runs first (see
//! `warp.rs`). Device memory is host memory at the same address; shared, local and parameter memory have generic
//! addresses in windows that no host address can meet.

mod access;
mod alu_float;
mod alu_half;
mod alu_int;
mod atomic;
mod block;
mod call;
mod compare;
mod convert;
mod decode;
mod fault;
mod frame;
mod grid;
mod inst;
mod lanes;
mod memory;
mod printf;
mod program;
mod soft;
mod special;
mod step;
pub mod texture;
mod texture_access;
mod warp;
mod warp_ops;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::Context;
pub use fault::{Fault, LinkError, Place};
pub use program::Program;
use texture::{Surface, Texture};

/// The memory that kernels may access: host addresses.
pub trait Memory: Sync {
    /// Whether `[addr, addr+len)` lies in memory that the device may access.
    fn accessible(&self, addr: u64, len: u64) -> bool;

    /// The texture that a handle, or the address of a `.texref`, means.
    fn texture(&self, _handle: u64) -> Option<Arc<Texture>> {
        None
    }

    /// The surface that a handle, or the address of a `.surfref`, means.
    fn surface(&self, _handle: u64) -> Option<Arc<Surface>> {
        None
    }

    /// What `cudaGraphSetConditional` is told. Without graphs there are no conditions.
    fn set_conditional(&self, _condition: u64, _value: u32) {}
}

/// The shape and arguments of one launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Blocks in the grid.
    pub grid: [u32; 3],
    /// Threads in a block.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond the static ones.
    pub dynamic_shared: u32,
    /// The parameter buffer, laid out as [`crate::ptx::KernelInfo::params`] says.
    pub params: &'a [u8],
    /// What `%nsmid` says.
    pub sm_count: u32,
}

/// Most threads in a block.
const MAX_THREADS: u32 = 1024;
/// Most shared memory of a block, in bytes.
const MAX_SHARED: u32 = 228 << 10;

/// Most blocks of a cooperative launch: all of them take memory at once.
const MAX_COOPERATIVE: u64 = 2048;

/// Runs `kernel` to its end. `output` receives what the kernel prints, on the calling thread.
///
/// # Errors
/// The first [`Fault`] of any thread; memory is then as the kernel left it.
pub fn run(
    program: &Program,
    kernel: &str,
    launch: &Launch<'_>,
    memory: &dyn Memory,
    output: &mut dyn FnMut(&[u8]),
) -> Result<(), Fault> {
    start(program, kernel, launch, memory, output, 0)
}

/// Like [`run`], as a cooperative launch: the blocks may wait for each other (`grid.sync()`).
///
/// # Errors
/// As [`run`]; [`Fault::BadLaunch`] for more blocks than can be under way at once.
pub fn run_cooperative(
    program: &Program,
    kernel: &str,
    launch: &Launch<'_>,
    memory: &dyn Memory,
    output: &mut dyn FnMut(&[u8]),
) -> Result<(), Fault> {
    let bad = |reason: String| Fault::BadLaunch { kernel: kernel.to_string(), reason };
    let blocks = launch.grid.iter().fold(1u64, |n, d| n.saturating_mul(u64::from(*d)));
    if blocks > MAX_COOPERATIVE {
        return Err(bad(format!(
            "{blocks} blocks in a cooperative launch, at most {MAX_COOPERATIVE} are possible"
        )));
    }
    let workspace = program.heap.allocate(WORKSPACE);
    if workspace == 0 {
        return Err(bad("no memory for the barrier of the grid".to_string()));
    }
    let result = start(program, kernel, launch, memory, output, workspace);
    program.heap.release(workspace);
    result
}

/// Bytes of the barrier of a cooperative grid: its size and its counter.
const WORKSPACE: u64 = 64;

fn start(
    program: &Program,
    kernel: &str,
    launch: &Launch<'_>,
    memory: &dyn Memory,
    output: &mut dyn FnMut(&[u8]),
    workspace: u64,
) -> Result<(), Fault> {
    static GRIDS: AtomicU64 = AtomicU64::new(1);
    let bad = |reason: String| Fault::BadLaunch { kernel: kernel.to_string(), reason };
    let found = program.kernel(kernel).ok_or_else(|| bad("no such kernel in the module".to_string()))?;
    let info = program.module.kernels.get(found.info).ok_or_else(|| bad("no such kernel".to_string()))?;
    let threads = launch.block.iter().fold(1u32, |n, d| n.saturating_mul(*d));
    if threads == 0 || threads > info.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS) {
        return Err(bad(format!("{threads} threads in a block")));
    }
    if info.required_block.is_some_and(|shape| shape != launch.block) {
        return Err(bad(format!("block shape {:?} is not the one that the kernel requires", launch.block)));
    }
    let blocks = launch.grid.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)));
    let blocks = blocks.filter(|n| *n > 0).ok_or_else(|| bad(format!("grid shape {:?}", launch.grid)))?;
    let needed = info.params.last().map_or(0, |param| param.offset as usize + param.size as usize);
    if launch.params.len() < needed {
        return Err(bad(format!("{} bytes of parameters where {needed} are needed", launch.params.len())));
    }
    let dynamic_base = info.static_shared.next_multiple_of(16);
    let shared_bytes = dynamic_base.saturating_add(launch.dynamic_shared);
    if shared_bytes > MAX_SHARED {
        return Err(bad(format!("{shared_bytes} bytes of shared memory")));
    }
    if let Some(problem) = found.problem {
        return Err(program.unsupported(kernel, problem));
    }
    let context = Context {
        program,
        kernel,
        launch,
        memory,
        function: found.function,
        dynamic_base,
        shared_bytes,
        grid_id: GRIDS.fetch_add(1, Ordering::Relaxed),
        workspace,
        started: std::time::Instant::now(),
    };
    grid::run(&context, blocks, output)
}
