//! Occupancy: as an H100's multiprocessor would have it, by threads, blocks and shared memory.

use super::launch::Config;
use super::{Out, put};
use crate::model::function::{Entry, SHARED_OPT_IN, entry_of};
use crate::model::{CudaError, Result, current, state};

/// Threads that a multiprocessor holds.
const THREADS: u32 = 2048;
/// Blocks that it holds.
const BLOCKS: u32 = 32;
/// Bytes of shared memory that it has.
const SHARED: u32 = 228 << 10;
/// Bytes of shared memory that each block costs besides its own.
const RESERVED: u32 = 1 << 10;
/// Threads of a warp.
const WARP: u32 = 32;

/// `CUoccupancyB2DSize`.
pub type DynamicSize = unsafe extern "C" fn(i32) -> usize;

fn blocks(entry: &Entry, block: u32, dynamic: u32) -> u32 {
    if block > entry.max_threads() || dynamic > entry.max_dynamic_shared() {
        return 0;
    }
    let by_threads = THREADS / block.next_multiple_of(WARP);
    let shared = entry.info().static_shared.saturating_add(dynamic).saturating_add(RESERVED);
    by_threads.min(BLOCKS).min(SHARED / shared)
}

fn positive(value: i32) -> Result<u32> {
    u32::try_from(value).ok().filter(|value| *value > 0).ok_or(CudaError::InvalidValue)
}

fn max_blocks(out: Out<'_, i32>, function: u64, block: i32, dynamic: usize) -> Result {
    current::working_context()?;
    let entry = entry_of(function)?;
    let dynamic = u32::try_from(dynamic).unwrap_or(u32::MAX);
    put(out, i32::try_from(blocks(&entry, positive(block)?, dynamic)).unwrap_or(0))
}

/// The block size with the most threads on a multiprocessor, the largest of the best.
///
/// # Safety
/// `size_of` must be the program's function.
unsafe fn potential(
    grid: Out<'_, i32>,
    block: Out<'_, i32>,
    function: u64,
    size_of: Option<DynamicSize>,
    dynamic: usize,
    limit: i32,
) -> Result {
    let context = current::working_context()?;
    let entry = entry_of(function)?;
    let limit = match u32::try_from(limit) {
        Ok(0) => entry.max_threads(),
        Ok(limit) => limit.min(entry.max_threads()),
        Err(_) => return Err(CudaError::InvalidValue),
    };
    let candidates = (1..=limit).rev().filter(|size| *size == limit || size % WARP == 0);
    let mut best = (0, 0, 0);
    for size in candidates {
        // SAFETY: the caller answers for the function.
        let dynamic = size_of.map_or(dynamic, |f| unsafe { f(i32::try_from(size).unwrap_or(i32::MAX)) });
        let count = blocks(&entry, size, u32::try_from(dynamic).unwrap_or(u32::MAX));
        if count * size > best.0 {
            best = (count * size, count, size);
        }
    }
    let (_, count, size) = best;
    put(grid, i32::try_from(count.saturating_mul(context.device().sm_count())).unwrap_or(i32::MAX))?;
    put(block, i32::try_from(size).unwrap_or(0))
}

/// Blocks of a launch that a multiprocessor holds, where clusters are blocks.
///
/// # Safety
/// `config` must be the program's, or NULL.
unsafe fn cluster_blocks(function: u64, config: Option<&Config>) -> Result<u32> {
    let config = config.ok_or(CudaError::InvalidValue)?;
    // SAFETY: the caller answers for the attributes.
    unsafe { config.attributes() }?;
    let threads = config.block.iter().try_fold(1_u32, |all, size| all.checked_mul(*size));
    let entry = entry_of(function)?;
    let threads = threads.filter(|threads| *threads > 0).ok_or(CudaError::InvalidValue)?;
    Ok(blocks(&entry, threads, config.dynamic_shared))
}

driver_api! {
    /// Blocks of `block` threads that a multiprocessor holds at once.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        count: Out<'_, i32>, function: u64, block: i32, dynamic: usize
    ) {
        max_blocks(count, function, block, dynamic)
    }

    /// The same; the flag about caching changes nothing.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: Out<'_, i32>, function: u64, block: i32, dynamic: usize, flags: u32
    ) {
        if flags > 1 {
            return Err(CudaError::InvalidValue);
        }
        max_blocks(count, function, block, dynamic)
    }

    /// A block size that fills a multiprocessor, and blocks that fill the device.
    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<'_, i32>, block: Out<'_, i32>, function: u64,
        size_of: Option<DynamicSize>, dynamic: usize, limit: i32
    ) {
        // SAFETY: the caller answers for its function.
        unsafe { potential(grid, block, function, size_of, dynamic, limit) }
    }

    /// The same; the flag about caching changes nothing.
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<'_, i32>, block: Out<'_, i32>, function: u64,
        size_of: Option<DynamicSize>, dynamic: usize, limit: i32, flags: u32
    ) {
        if flags > 1 {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for its function.
        unsafe { potential(grid, block, function, size_of, dynamic, limit) }
    }

    /// Clusters of one block that run side by side on the device: there are no others.
    fn cuOccupancyMaxActiveClusters(count: Out<'_, i32>, function: u64, config: Option<&Config>) {
        // No context is looked at; all devices are alike.
        let device = state()?.device(0)?;
        // SAFETY: the caller answers for the configuration.
        let all = unsafe { cluster_blocks(function, config) }?.saturating_mul(device.sm_count());
        put(count, i32::try_from(all).unwrap_or(i32::MAX))
    }

    /// Blocks that a cluster can have: one, if the block fits.
    fn cuOccupancyMaxPotentialClusterSize(size: Out<'_, i32>, function: u64, config: Option<&Config>) {
        // SAFETY: the caller answers for the configuration.
        let blocks = unsafe { cluster_blocks(function, config) }?;
        put(size, i32::from(blocks > 0))
    }

    /// Bytes of dynamic shared memory that let `count` blocks of `block` threads run on a multiprocessor.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<'_, usize>, function: u64, count: i32, block: i32) {
        current::working_context()?;
        let entry = entry_of(function)?;
        let (count, block) = (positive(count)?, positive(block)?);
        if blocks(&entry, block, 0) < count {
            return Err(CudaError::InvalidValue);
        }
        let share = (SHARED / count).saturating_sub(RESERVED).min(SHARED_OPT_IN);
        let dynamic = share.saturating_sub(entry.info().static_shared).min(entry.max_dynamic_shared());
        put(bytes, usize::try_from(dynamic).unwrap_or(0))
    }
}
