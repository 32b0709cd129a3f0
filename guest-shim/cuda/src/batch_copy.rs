//! Batches of copies: one copy after another, which the API allows, since it promises no order within a batch.

use crate::{call, copy, error, handles};
use vgpu_spec::plain::Blob4;

/// CU_MEMCPY_SRC_ACCESS_ORDER_STREAM, _DURING_API_CALL and _ANY. Pageable memory is read before the call returns, and pinned memory in
/// stream order: right for all three, but for pinned memory that may change after the call.
const ORDERS: std::ops::RangeInclusive<u32> = 1..=3;
const DURING_API_CALL: u32 = 2;
/// CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE, a hint.
const FLAGS: u32 = 1;

/// The access order of an attribute (CUmemcpyAttributes: order, two location hints, flags), which is refused if not understood.
fn order(attributes: &Blob4<24>) -> error::Result<u32> {
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&attributes.0[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    if !ORDERS.contains(&word(0)) || word(20) & !FLAGS != 0 {
        return Err(error::INVALID_VALUE);
    }
    // The hints are for managed memory, of which there is none.
    Ok(word(0))
}

/// The access order of each copy: `indexes[k]` is the first that attribute `k` is for.
fn orders(attributes: &[Blob4<24>], indexes: &[usize], count: usize) -> error::Result<Vec<u32>> {
    let ascending = indexes.windows(2).all(|w| w[0] < w[1]);
    if indexes.first() != Some(&0) || !ascending || indexes.last().is_none_or(|&last| last >= count) {
        return Err(error::INVALID_VALUE);
    }
    let mut all = vec![0; count];
    for (attribute, &first) in attributes.iter().zip(indexes) {
        let order = order(attribute)?;
        all[first..].fill(order);
    }
    Ok(all)
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
unsafe fn batch(
    dsts: *const u64,
    srcs: *const u64,
    sizes: *const usize,
    count: usize,
    attrs: *const Blob4<24>,
    indexes: *const usize,
    attr_count: usize,
    failed: &mut usize,
    stream: u64,
) -> error::Result {
    handles::check_stream(stream)?;
    // The legacy default stream is refused by the driver too.
    if stream <= 1 || count == 0 || attr_count == 0 || attr_count > count {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's arrays, of the lengths that it gives.
    let (dsts, srcs, sizes, attrs, indexes) = unsafe {
        (
            call::slice(dsts, count).ok_or(error::INVALID_VALUE)?,
            call::slice(srcs, count).ok_or(error::INVALID_VALUE)?,
            call::slice(sizes, count).ok_or(error::INVALID_VALUE)?,
            call::slice(attrs, attr_count).ok_or(error::INVALID_VALUE)?,
            call::slice(indexes, attr_count).ok_or(error::INVALID_VALUE)?,
        )
    };
    let orders = orders(attrs, indexes, count)?;
    let mut wait = false;
    for (i, &order) in orders.iter().enumerate() {
        *failed = i;
        if dsts[i] == 0 || srcs[i] == 0 || sizes[i] == 0 {
            return Err(error::INVALID_VALUE);
        }
        wait |= order == DURING_API_CALL && copy::host_side(srcs[i]) == copy::Side::Pinned;
        // SAFETY: the program's pointers.
        unsafe { copy::cuMemcpyAsync(dsts[i], srcs[i], sizes[i], stream) }?;
    }
    *failed = usize::MAX;
    // Pinned memory that the program may change after the call: only the stream knows when it was read.
    if wait { crate::calls::cuStreamSynchronize(stream) } else { Ok(()) }
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuMemcpyBatchAsync(
    dsts: *mut u64,
    srcs: *mut u64,
    sizes: *mut usize,
    count: usize,
    attrs: *mut Blob4<24>,
    attrsIdxs: *mut usize,
    numAttrs: usize,
    failIdx: *mut usize,
    hStream: u64,
) -> error::Result {
    let mut failed = usize::MAX;
    // SAFETY: the program's pointers.
    let result = unsafe { batch(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, &mut failed, hStream) };
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { failIdx.as_mut() } {
        *place = failed;
    }
    result
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuMemcpyBatchAsync_v2(
    dsts: *mut u64,
    srcs: *mut u64,
    sizes: *mut usize,
    count: usize,
    attrs: *mut Blob4<24>,
    attrsIdxs: *mut usize,
    numAttrs: usize,
    hStream: u64,
) -> error::Result {
    let mut failed = 0;
    // SAFETY: the program's pointers.
    unsafe { batch(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, &mut failed, hStream) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(order: u32, flags: u32) -> Blob4<24> {
        let mut blob = Blob4([0; 24]);
        blob.0[..4].copy_from_slice(&order.to_le_bytes());
        blob.0[20..].copy_from_slice(&flags.to_le_bytes());
        blob
    }

    #[test]
    fn attributes_reach_from_their_index_to_the_next() {
        let two = [attribute(1, 0), attribute(3, 1)];
        assert_eq!(orders(&two, &[0, 2], 4), Ok(vec![1, 1, 3, 3]));
        for indexes in [[1, 2], [0, 0], [0, 4]] {
            assert_eq!(orders(&two, &indexes, 4), Err(error::INVALID_VALUE), "{indexes:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (order, flags) in [(0, 0), (4, 0), (1, 2)] {
            assert_eq!(orders(&[attribute(order, flags)], &[0], 1), Err(error::INVALID_VALUE));
        }
    }
}
