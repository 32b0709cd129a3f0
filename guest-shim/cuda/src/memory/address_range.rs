//! What is known of a range of device addresses.

use super::{Origin, PAGE, find, known};
use crate::{client, context, error};
use std::ffi::c_void;

/// CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, and CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE.
const DMA_BUF: u32 = 1;
const OVER_PCIE: u64 = 1;

/// A dma-buf of the range would be one of the host, and of no use to other devices of the guest: only what is wrong is said as the driver
/// does.
pub unsafe fn cuMemGetHandleForAddressRange(
    handle: *mut c_void,
    dptr: u64,
    size: usize,
    handleType: u32,
    flags: u64,
) -> error::Result {
    let aligned = dptr.is_multiple_of(PAGE) && (size as u64).is_multiple_of(PAGE) && size > 0;
    let ours = find(dptr).is_some_and(|block| block.origin != Origin::Managed) && known(dptr, size as u64);
    if handle.is_null() || handleType != DMA_BUF || flags & !OVER_PCIE != 0 || !aligned || !ours {
        return Err(error::INVALID_VALUE);
    }
    context::sticky_error()?;
    Err(error::NOT_SUPPORTED)
}

pub unsafe fn cuMemGetAddressRange_v2(pbase: *mut u64, psize: *mut usize, dptr: u64) -> error::Result {
    let (base, len) = match find(dptr) {
        Some(block) => (block.base, block.len),
        None => client::get()?.heap.find(dptr).ok_or(vgpu_spec::result::CudaError::NotFound as u32)?,
    };
    // SAFETY: the program's pointers, which may be NULL.
    unsafe {
        if let Some(place) = pbase.as_mut() {
            *place = base;
        }
        if let Some(place) = psize.as_mut() {
            *place = usize::try_from(len).unwrap_or(usize::MAX);
        }
    }
    Ok(())
}
