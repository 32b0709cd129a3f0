//! Occupancy. The driver's answers are forwarded; a program's function for dynamic shared memory runs here, so that search is done here.

use crate::{call::put, calls, client, context, device::attribute, error, function, handles, launch};
use vgpu_spec::{plain::Blob8, structure::LaunchConfig};

/// CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE is the only flag.
const FLAGS: u32 = 1;
/// CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK.
const FUNCTION_MAX_THREADS: u32 = 0;

/// CUoccupancyB2DSize: bytes of dynamic shared memory for a block of so many threads.
type DynamicSize = unsafe extern "C" fn(i32) -> usize;

/// What vgpuOccupancyClusters is to ask for.
const CLUSTERS: u32 = 0;
const CLUSTER_SIZE: u32 = 1;

/// # Safety
/// The pointers are NULL or valid as the driver API documents them.
unsafe fn clusters(place: *mut i32, what: u32, func: u64, config: *const Blob8<56>) -> error::Result {
    if func == 0 {
        return Err(error::INVALID_VALUE);
    }
    handles::check_callable(func)?;
    // SAFETY: the caller's promise; a LaunchConfig has the size and alignment of the blob.
    let config = unsafe { config.cast::<LaunchConfig>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    let attributes = unsafe { launch::attributes(config) }?;
    let LaunchConfig { grid: [gx, gy, gz], block: [bx, by, bz], shared, stream, .. } = *config;
    // Its context is asked, not the current one.
    handles::check_stream(stream)?;
    let mut value = 0;
    calls::vgpuOccupancyClusters(
        &mut value,
        what,
        func,
        stream,
        gx,
        gy,
        gz,
        bx,
        by,
        bz,
        shared,
        attributes,
        attributes.len(),
    )?;
    // SAFETY: the caller's promise.
    unsafe { put(place, value) }
}

pub unsafe fn cuOccupancyMaxActiveClusters(
    numClusters: *mut i32,
    func: u64,
    config: *const Blob8<56>,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { clusters(numClusters, CLUSTERS, func, config) }
}

pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    clusterSize: *mut i32,
    func: u64,
    config: *const Blob8<56>,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { clusters(clusterSize, CLUSTER_SIZE, func, config) }
}

/// What a search for the best block size depends on.
struct Limits {
    /// The largest block to try.
    block: u32,
    warp: u32,
    /// Threads that a multiprocessor holds: more cannot be had.
    threads: u32,
}

/// The block size with the most resident threads, and blocks of it on one multiprocessor: sizes are tried from the largest down, in
/// warps; the first of equals wins.
fn best(limits: &Limits, mut blocks_of: impl FnMut(u32) -> error::Result<u32>) -> error::Result<(u32, u32)> {
    let (mut most, mut found) = (0, (0, 0));
    let mut aligned = limits.block.next_multiple_of(limits.warp);
    while aligned > 0 {
        let size = aligned.min(limits.block);
        let blocks = blocks_of(size)?;
        let threads = blocks.saturating_mul(size);
        if threads > most {
            (most, found) = (threads, (size, blocks));
        }
        if most >= limits.threads {
            break;
        }
        aligned -= limits.warp;
    }
    Ok(found)
}

fn number(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// The search with the program's function.
fn search(func: u64, size_of: DynamicSize, limit: i32, flags: u32) -> error::Result<(i32, i32)> {
    let devices = &client::get()?.devices;
    let device = context::device()?;
    let ask = |id| devices.attribute(device, id).map(number);
    let most =
        ask(attribute::MAX_THREADS_PER_BLOCK)?.min(number(function::attribute(func, FUNCTION_MAX_THREADS)?));
    let limit = u32::try_from(limit).map_err(|_| error::INVALID_VALUE)?;
    let limits = Limits {
        block: if limit == 0 { most } else { limit.min(most) },
        warp: ask(attribute::WARP_SIZE)?.max(1),
        threads: ask(attribute::MAX_THREADS_PER_MULTIPROCESSOR)?,
    };
    let (size, blocks) = best(&limits, |size| {
        let size = size.cast_signed();
        // SAFETY: the program's function, which takes a block size.
        let dynamic = unsafe { size_of(size) };
        let mut blocks = 0;
        calls::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&mut blocks, func, size, dynamic, flags)?;
        Ok(number(blocks))
    })?;
    let grid = blocks.saturating_mul(ask(attribute::MULTIPROCESSOR_COUNT)?);
    Ok((grid.cast_signed(), size.cast_signed()))
}

pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    minGridSize: *mut i32,
    blockSize: *mut i32,
    func: u64,
    blockSizeToDynamicSMemSize: u64,
    dynamicSMemSize: usize,
    blockSizeLimit: i32,
    flags: u32,
) -> error::Result {
    handles::check_callable(func)?;
    if minGridSize.is_null() || blockSize.is_null() || flags & !FLAGS != 0 {
        return Err(error::INVALID_VALUE);
    }
    let address = std::ptr::with_exposed_provenance::<()>(blockSizeToDynamicSMemSize as usize);
    // SAFETY: NULL, or the program's function of this type.
    let size_of = unsafe { std::mem::transmute::<*const (), Option<DynamicSize>>(address) };
    let (grid, block) = match size_of {
        Some(size_of) => search(func, size_of, blockSizeLimit, flags)?,
        None => {
            let (mut grid, mut block) = (0, 0);
            calls::vgpuOccupancyPotential(
                &mut grid,
                &mut block,
                func,
                dynamicSMemSize,
                blockSizeLimit,
                flags,
            )?;
            (grid, block)
        }
    };
    // SAFETY: checked above; the program's pointers.
    unsafe { put(minGridSize, grid).and_then(|()| put(blockSize, block)) }
}

pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    minGridSize: *mut i32,
    blockSize: *mut i32,
    func: u64,
    blockSizeToDynamicSMemSize: u64,
    dynamicSMemSize: usize,
    blockSizeLimit: i32,
) -> error::Result {
    // SAFETY: as there.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(
            minGridSize,
            blockSize,
            func,
            blockSizeToDynamicSMemSize,
            dynamicSMemSize,
            blockSizeLimit,
            0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_the_best_block_sizes_is_found() {
        let limits = Limits { block: 1000, warp: 32, threads: 2048 };
        let mut tried = Vec::new();
        // 2 blocks up to 768 threads, 1 above: 768 threads twice are the best.
        let found = best(&limits, |size| {
            tried.push(size);
            Ok(if size <= 768 { 2 } else { 1 })
        });
        assert_eq!(found, Ok((768, 2)));
        assert_eq!(tried[..2], [1000, 992], "the limit itself, then whole warps");
        assert_eq!(tried.last(), Some(&32));
    }

    #[test]
    fn a_full_multiprocessor_ends_the_search_and_an_error_too() {
        let limits = Limits { block: 1024, warp: 32, threads: 2048 };
        let mut count = 0;
        let found = best(&limits, |size| {
            count += 1;
            Ok(2048 / size)
        });
        assert_eq!((found, count), (Ok((1024, 2)), 1));
        assert_eq!(best(&limits, |_| Err(7)), Err(7));
        assert_eq!(best(&limits, |_| Ok(0)), Ok((0, 0)), "a kernel that fits nowhere");
    }
}
