//! Occupancy.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    launch::attribute_list,
    thread::Thread,
};
use std::ptr::null;
use vgpu_spec::structure::LaunchConfig;

/// How many clusters fit (`what` 0), or how large one may be (1), for a launch as described.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuOccupancyClusters(
    t: &mut Thread,
    what: u32,
    function: u64,
    stream: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    attributes: Option<&[u8]>,
    _a: usize,
) -> Result<i32, CudaError> {
    let ask = match what {
        0 => t.driver.cuOccupancyMaxActiveClusters,
        1 => t.driver.cuOccupancyMaxPotentialClusterSize,
        _ => return Err(INVALID_VALUE),
    };
    let ask = ask.ok_or(NOT_SUPPORTED)?;
    let list = attribute_list(t, attributes.unwrap_or_default())?;
    let config = LaunchConfig {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared,
        stream,
        attributes: if list.is_empty() { null() } else { list.as_ptr().cast() },
        count: u32::try_from(list.len()).map_err(|_| INVALID_VALUE)?,
    };
    let mut value = 0;
    // SAFETY: a live function and stream of this client; the configuration and its attributes are private copies that outlive the call.
    check(unsafe { ask(&raw mut value, function, (&raw const config).cast()) })?;
    Ok(value)
}

/// The driver's suggestion for a kernel whose dynamic shared memory does not depend on the block's size.
pub fn vgpuOccupancyPotential(
    t: &mut Thread,
    function: u64,
    dynamic: usize,
    limit: i32,
    flags: u32,
) -> Result<(i32, i32), CudaError> {
    let ask = t.driver.cuOccupancyMaxPotentialBlockSizeWithFlags.ok_or(NOT_SUPPORTED)?;
    let (mut grid, mut block) = (0, 0);
    // SAFETY: places that outlive the call, a live function of this client, and no callback.
    check(unsafe { ask(&raw mut grid, &raw mut block, function, 0, dynamic, limit, flags) })?;
    Ok((grid, block))
}
