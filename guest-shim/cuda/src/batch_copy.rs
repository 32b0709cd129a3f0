//! Batches of copies: one copy after another, which the API allows, since it promises no order within a batch.

use crate::{array, call, capture, context, copy, copy_strided, error, handles};
use vgpu_spec::{
    plain::{Blob4, Blob8},
    result::CudaError,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

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

/// Refuses, once the arguments are known to be right, where no batch can be copied: without a current context, in one that was destroyed,
/// and in a stream that captures, whose capture goes on.
fn check_place(stream: u64) -> error::Result {
    if context::current() == 0 {
        return Err(error::INVALID_VALUE);
    }
    context::require()?;
    if capture::captures(stream)? { Err(CudaError::StreamCaptureUnsupported as u32) } else { Ok(()) }
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
    if handles::is_default_stream(stream) || count == 0 || attr_count == 0 || attr_count > count {
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
    check_place(stream)?;
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

/// CU_MEMCPY_OPERAND_TYPE_POINTER and _ARRAY.
const POINTER: u32 = 1;
const ARRAY: u32 = 2;

/// CUmemcpy3DOperand. Of a pointer: address, row length, layer height, location hint; of an array: handle and offset. In elements.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Operand {
    kind: u32,
    values: [usize; 4],
}

/// CUDA_MEMCPY3D_BATCH_OP.
#[repr(C)]
#[derive(Clone, Copy)]
struct Operation {
    src: Operand,
    dst: Operand,
    extent: [usize; 3],
    order: u32,
    flags: u32,
}

impl Operand {
    fn array(&self) -> Option<u64> {
        (self.kind == ARRAY).then_some(self.values[0] as u64)
    }

    /// The side of a copy of elements of so many bytes.
    fn side(&self, extent: [usize; 3], element: usize) -> error::Result<Memcpy3DSide> {
        let [first, a, b, c] = self.values;
        let bytes = |n: usize| n.checked_mul(element).ok_or(error::INVALID_VALUE);
        match self.kind {
            POINTER => {
                let fits = |given: usize, needed: usize| given == 0 || given >= needed;
                if first == 0 || !fits(a, extent[0]) || !fits(b, extent[1]) {
                    return Err(error::INVALID_VALUE);
                }
                let row = if a == 0 { extent[0] } else { a };
                Ok(Memcpy3DSide {
                    kind: memory_type::UNIFIED,
                    device: first as u64,
                    pitch: bytes(row)?,
                    height: if b == 0 { extent[1] } else { b },
                    ..Memcpy3DSide::default()
                })
            }
            ARRAY => Ok(Memcpy3DSide {
                kind: memory_type::ARRAY,
                array: first as u64,
                x: bytes(a)?,
                y: b,
                z: c,
                ..Memcpy3DSide::default()
            }),
            _ => Err(error::INVALID_VALUE),
        }
    }
}

impl Operation {
    /// Bytes of the elements in which extents are counted: the array's, else one.
    fn element(&self) -> error::Result<usize> {
        let mut found = 1;
        for array in [self.dst.array(), self.src.array()].into_iter().flatten() {
            array::check_copied(array)?;
            found = array::shape(array)?.element;
            if found == 0 {
                // Blocks and planes are counted in ways of their own.
                return Err(error::NOT_SUPPORTED);
            }
        }
        Ok(found)
    }

    fn copy(&self) -> error::Result<Memcpy3D> {
        if self.extent.contains(&0) || !ORDERS.contains(&self.order) || self.flags & !FLAGS != 0 {
            return Err(error::INVALID_VALUE);
        }
        let element = self.element()?;
        let [width, height, depth] = self.extent;
        Ok(Memcpy3D {
            src: self.src.side(self.extent, element)?,
            dst: self.dst.side(self.extent, element)?,
            width: width.checked_mul(element).ok_or(error::INVALID_VALUE)?,
            height,
            depth,
        })
    }

    /// Whether the program may change the source when the call returns, though only the stream knows when it is read.
    fn is_early(&self) -> bool {
        self.order == DURING_API_CALL
            && self.src.kind == POINTER
            && copy::host_side(self.src.values[0] as u64) == copy::Side::Pinned
    }
}

/// # Safety
/// `list` is NULL or has `count` operations, of which pageable operands are memory of the program.
unsafe fn batch_3d(
    count: usize,
    list: *const Blob8<112>,
    failed: &mut usize,
    flags: u64,
    stream: u64,
) -> error::Result {
    const { assert!(size_of::<Operation>() == 112) };
    handles::check_stream(stream)?;
    // The legacy default stream is refused by the driver too.
    if handles::is_default_stream(stream) || count == 0 || flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let list = unsafe { call::slice(list, count) }.ok_or(error::INVALID_VALUE)?;
    check_place(stream)?;
    let mut wait = false;
    for (i, blob) in list.iter().enumerate() {
        *failed = i;
        // SAFETY: the same size and alignment; any bytes are a value.
        let operation = unsafe { (&raw const *blob).cast::<Operation>().read() };
        wait |= operation.is_early();
        // SAFETY: the caller's promise.
        unsafe { copy_strided::copy_in_batch(&operation.copy()?, stream) }?;
    }
    *failed = usize::MAX;
    if wait { crate::calls::cuStreamSynchronize(stream) } else { Ok(()) }
}

pub unsafe fn cuMemcpy3DBatchAsync(
    numOps: usize,
    opList: *mut Blob8<112>,
    failIdx: *mut usize,
    flags: u64,
    hStream: u64,
) -> error::Result {
    let mut failed = usize::MAX;
    // SAFETY: the program's pointers.
    let result = unsafe { batch_3d(numOps, opList, &mut failed, flags, hStream) };
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { failIdx.as_mut() } {
        *place = failed;
    }
    result
}

pub unsafe fn cuMemcpy3DBatchAsync_v2(
    numOps: usize,
    opList: *mut Blob8<112>,
    flags: u64,
    hStream: u64,
) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { batch_3d(numOps, opList, &mut 0, flags, hStream) }
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

    #[test]
    fn operands_are_counted_in_elements() {
        let pointer = Operand { kind: POINTER, values: [0x1000, 20, 0, 0] };
        let side = pointer.side([16, 4, 2], 4).unwrap();
        assert_eq!((side.kind, side.device, side.pitch, side.height), (memory_type::UNIFIED, 0x1000, 80, 4));
        for wrong in [
            Operand { kind: POINTER, values: [0, 20, 0, 0] },
            Operand { kind: POINTER, values: [0x1000, 15, 0, 0] },
            Operand { kind: POINTER, values: [0x1000, 0, 3, 0] },
            Operand { kind: 0, values: [0x1000, 0, 0, 0] },
        ] {
            assert_eq!(wrong.side([16, 4, 2], 4).err(), Some(error::INVALID_VALUE), "{wrong:?}");
        }
        let array = Operand { kind: ARRAY, values: [9, 3, 2, 1] };
        let side = array.side([16, 4, 2], 8).unwrap();
        assert_eq!((side.kind, side.array, side.x, side.y, side.z), (memory_type::ARRAY, 9, 24, 2, 1));
        assert!(array.side([1, 1, 1], usize::MAX).is_err());
    }
}
