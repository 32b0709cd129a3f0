//! Copies in two and three dimensions.
//!
//! What the device can reach is copied by it, row by row; pageable rows are packed into a block of a window first, or unpacked from
//! one afterwards.

use crate::{
    call, calls, capture,
    copy::{self, Side},
    copy_place::{Extent, Given, Place, Rows},
    error, graph_pageable, handles,
    staging::{BLOCK, Block},
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

/// In which stream, and how.
#[derive(Clone, Copy)]
struct How {
    stream: u64,
    /// The program's call returns when the copy is done.
    wait: bool,
    peer: Option<Peer>,
}

/// Between contexts.
#[derive(Clone, Copy)]
struct Peer {
    /// As `vgpuCopy3D` takes it.
    form: u32,
    dst: u64,
    src: u64,
}

fn host(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Lets the device copy.
fn post(dst: Place, src: Place, e: Extent, how: How) -> error::Result {
    if let (Place::Memory(dst), Place::Memory(src), None) = (dst, src, how.peer) {
        return post_rows(dst, src, e, how.stream);
    }
    let peer = how.peer.unwrap_or(Peer { form: 0, dst: 0, src: 0 });
    let copy = Memcpy3D {
        src: src.described(peer.src),
        dst: dst.described(peer.dst),
        width: e.width,
        height: e.height,
        depth: e.depth,
    };
    calls::vgpuCopy3D(std::slice::from_ref(&blob(&copy)), peer.form, how.stream)
}

/// The bytes of a description.
pub fn blob(copy: &Memcpy3D) -> Blob8<200> {
    let mut bytes = Blob8::default();
    // SAFETY: both are 200 bytes of numbers, aligned alike.
    unsafe { (&raw mut bytes).cast::<Memcpy3D>().write(*copy) };
    bytes
}

fn post_rows(dst: Rows, src: Rows, e: Extent, stream: u64) -> error::Result {
    let on_host = |rows: Rows| u32::from(rows.side != Side::Device);
    calls::vgpuCopyStrided(
        dst.address,
        dst.pitch,
        dst.slice,
        on_host(dst),
        src.address,
        src.pitch,
        src.slice,
        on_host(src),
        e.width,
        e.height,
        e.depth,
        stream,
    )
}

/// Calls `each` with parts of the copy whose rows fit in a block together: (first column, first row, plane, width, rows).
fn parts(
    e: Extent,
    mut each: impl FnMut(usize, usize, usize, usize, usize) -> error::Result,
) -> error::Result {
    let wide = e.width.min(BLOCK);
    let rows = (BLOCK / wide).min(e.height);
    for plane in 0..e.depth {
        for row in (0..e.height).step_by(rows) {
            for column in (0..e.width).step_by(wide) {
                each(column, row, plane, wide.min(e.width - column), rows.min(e.height - row))?;
            }
        }
    }
    Ok(())
}

/// Copies rows between pageable memory and a block where they adjoin.
///
/// # Safety
/// `pageable` has the part's rows; `block` has room for them.
pub unsafe fn pack(
    pageable: Rows,
    block: u64,
    part: (usize, usize, usize),
    width: usize,
    rows: usize,
    into_block: bool,
) {
    let (column, row, plane) = part;
    for i in 0..rows {
        let outside = host(pageable.at(row + i, plane) + column as u64);
        let inside = host(block + (i * width) as u64);
        let (to, from) = if into_block { (inside, outside) } else { (outside, inside) };
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, width) };
    }
    copy::count(rows * width);
}

/// Copies through a block, part by part.
///
/// # Safety
/// As [`copy`].
unsafe fn staged(pageable: Rows, device: Place, e: Extent, from_host: bool, how: How) -> error::Result {
    device.check(e)?;
    let block = Block::take()?;
    parts(e, |column, row, plane, width, rows| {
        let packed = Place::Memory(Rows {
            address: block.address(),
            side: Side::Pinned,
            pitch: width,
            slice: width * rows,
        });
        let extent = Extent { width, height: rows, depth: 1 };
        let (place, part) = ((column, row, plane), device.part(column, row, plane));
        if from_host {
            // SAFETY: the caller's promise; the part fits in the block.
            unsafe { pack(pageable, block.address(), place, width, rows, true) };
            post(part, packed, extent, how)?;
        } else {
            post(packed, part, extent, how)?;
        }
        calls::cuStreamSynchronize(how.stream)?;
        if !from_host {
            // SAFETY: as above; the device has filled the block.
            unsafe { pack(pageable, block.address(), place, width, rows, false) };
        }
        Ok(())
    })
}

/// # Safety
/// Pageable sides are memory of the program, as large as the extent says.
unsafe fn copy(dst: Place, src: Place, e: Extent, how: How) -> error::Result {
    handles::check_stream(how.stream)?;
    let pageable = dst.side() == Side::Pageable || src.side() == Side::Pageable;
    if pageable && capture::captures_copy(how.stream)? {
        let Extent { width, height, depth } = e;
        let copy = Memcpy3D { src: src.described(0), dst: dst.described(0), width, height, depth };
        graph_pageable::capture(&copy, how.stream)?;
        return if how.wait { calls::cuStreamSynchronize(how.stream) } else { Ok(()) };
    }
    match (dst, src) {
        (Place::Memory(dst @ Rows { side: Side::Pageable, .. }), Place::Memory(src))
            if src.side == Side::Pageable =>
        {
            calls::cuStreamSynchronize(how.stream)?;
            for plane in 0..e.depth {
                for row in 0..e.height {
                    // SAFETY: the caller's promise; rows may overlap.
                    unsafe { std::ptr::copy(host(src.at(row, plane)), host(dst.at(row, plane)), e.width) };
                }
            }
            Ok(())
        }
        // SAFETY: the caller's promise.
        (Place::Memory(rows), _) if rows.side == Side::Pageable => unsafe {
            staged(rows, src, e, false, how)
        },
        // SAFETY: the caller's promise.
        (_, Place::Memory(rows)) if rows.side == Side::Pageable => unsafe { staged(rows, dst, e, true, how) },
        _ => {
            let sure = how.peer.is_none() && dst.certain(e) && src.certain(e);
            post(dst, src, e, how)?;
            let on_host = dst.side() == Side::Pinned || src.side() == Side::Pinned;
            if how.wait && on_host {
                calls::cuStreamSynchronize(how.stream)
            } else {
                copy::settle_unless(sure, how.stream)
            }
        }
    }
}

/// CUDA_MEMCPY2D, as cuda.h lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side2D {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Copy2D {
    src: Side2D,
    dst: Side2D,
    width: usize,
    height: usize,
}

impl Side2D {
    fn given(&self) -> Given {
        Given {
            kind: self.kind,
            host: self.host,
            device: self.device,
            array: self.array,
            x: self.x,
            y: self.y,
            z: 0,
            lod: 0,
            pitch: self.pitch,
            height: 0,
        }
    }
}

/// # Safety
/// What the description describes is as [`copy`] wants.
unsafe fn copy_2d(c: Copy2D, stream: u64, wait: bool) -> error::Result {
    let extent = Extent { width: c.width, height: c.height, depth: 1 };
    if extent.width == 0 || extent.height == 0 {
        return Ok(());
    }
    let how = How { stream, wait, peer: None };
    // SAFETY: the caller's promise.
    unsafe { copy(c.dst.given().place(extent)?, c.src.given().place(extent)?, extent, how) }
}

/// # Safety
/// `description` is NULL or valid.
unsafe fn read_2d(description: *const Blob8<128>) -> error::Result<Copy2D> {
    const { assert!(size_of::<Copy2D>() == 128) };
    // SAFETY: the caller's promise; same size and alignment.
    unsafe { description.cast::<Copy2D>().as_ref() }.copied().ok_or(error::INVALID_VALUE)
}

fn given_3d(side: &Memcpy3DSide) -> Given {
    Given {
        kind: side.kind,
        host: side.host,
        device: side.device,
        array: side.array,
        x: side.x,
        y: side.y,
        z: side.z,
        lod: side.lod,
        pitch: side.pitch,
        height: side.height,
    }
}

/// A copy with each side host memory, device memory or an array.
pub struct Sides {
    pub copy: Memcpy3D,
    /// Source and destination, where they are pageable memory.
    pub pageable: [Option<Rows>; 2],
    pub extent: Extent,
}

/// What the sides of a copy are.
pub fn sides(copy: &Memcpy3D) -> error::Result<Sides> {
    let extent = Extent { width: copy.width, height: copy.height, depth: copy.depth };
    let side = |given: &Memcpy3DSide| -> error::Result<(Memcpy3DSide, Option<Rows>)> {
        let rows = match given_3d(given).place(extent)? {
            Place::Memory(rows) => rows,
            Place::Array(_) => return Ok((Memcpy3DSide { host: 0, device: 0, ..*given }, None)),
        };
        let address = if given.kind == memory_type::HOST { given.host } else { given.device };
        let (kind, host, device) = match rows.side {
            Side::Device => (memory_type::DEVICE, 0, address),
            Side::Pinned | Side::Pageable => (memory_type::HOST, address, 0),
        };
        let pageable = (rows.side == Side::Pageable).then_some(rows);
        Ok((Memcpy3DSide { kind, host, device, array: 0, ..*given }, pageable))
    };
    let ((src, from), (dst, to)) = (side(&copy.src)?, side(&copy.dst)?);
    Ok(Sides { copy: Memcpy3D { src, dst, ..*copy }, pageable: [from, to], extent })
}

/// # Safety
/// As [`copy_2d`].
unsafe fn copy_3d(c: &Memcpy3D, how: How) -> error::Result {
    let extent = Extent { width: c.width, height: c.height, depth: c.depth };
    if extent.width == 0 || extent.height == 0 || extent.depth == 0 {
        return Ok(());
    }
    let (dst, src) = (given_3d(&c.dst).place(extent)?, given_3d(&c.src).place(extent)?);
    // SAFETY: the caller's promise.
    unsafe { copy(dst, src, extent, how) }
}

/// # Safety
/// `description` is NULL or valid.
unsafe fn read_3d(description: *const Blob8<200>) -> error::Result<Memcpy3D> {
    // SAFETY: the caller's promise; same size and alignment.
    unsafe { description.cast::<Memcpy3D>().as_ref() }.copied().ok_or(error::INVALID_VALUE)
}

/// One copy of a batch.
///
/// # Safety
/// As [`copy_2d`].
pub unsafe fn copy_in_batch(c: &Memcpy3D, stream: u64) -> error::Result {
    // SAFETY: the caller's promise.
    unsafe { copy_3d(c, How { stream, wait: false, peer: None }) }
}

/// CUDA_MEMCPY3D_PEER: the reserved words are contexts. They say nothing about arrays, whose contexts the driver knows.
///
/// # Safety
/// `description` is NULL or valid, and what it describes is as [`copy`] wants.
pub unsafe fn copy_peer(description: *const Blob8<200>, stream: u64, form: u32, wait: bool) -> error::Result {
    // SAFETY: the caller's promise.
    let c = unsafe { read_3d(description) }?;
    let context = |side: &Memcpy3DSide| match (side.kind, side.reserved) {
        (memory_type::ARRAY, _) | (_, 0) => Ok(0),
        (_, context) => handles::check_context(context).map(|()| context),
    };
    let peer = Some(Peer { form, dst: context(&c.dst)?, src: context(&c.src)? });
    // SAFETY: the caller's promise.
    unsafe { copy_3d(&c, How { stream, wait, peer }) }
}

pub unsafe fn cuMemcpy2D_v2(pCopy: *const Blob8<128>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(read_2d(pCopy)?, stream, true) }
}

pub unsafe fn cuMemcpy2DUnaligned_v2(pCopy: *const Blob8<128>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(read_2d(pCopy)?, stream, true) }
}

pub unsafe fn cuMemcpy2DAsync_v2(pCopy: *const Blob8<128>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(read_2d(pCopy)?, hStream, false) }
}

pub unsafe fn cuMemcpy3D_v2(pCopy: *const Blob8<200>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_3d(&read_3d(pCopy)?, How { stream, wait: true, peer: None }) }
}

pub unsafe fn cuMemcpy3DAsync_v2(pCopy: *const Blob8<200>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_3d(&read_3d(pCopy)?, How { stream: hStream, wait: false, peer: None }) }
}

call::only_in_old_contexts! {
    cuMemcpy2D(*const Blob8<96>);
    cuMemcpy2DUnaligned(*const Blob8<96>);
    cuMemcpy2DAsync(*const Blob8<96>, u64);
    cuMemcpy3D(*const Blob8<144>);
    cuMemcpy3DAsync(*const Blob8<144>, u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_once() {
        for e in [
            Extent { width: 3, height: 7, depth: 2 },
            Extent { width: BLOCK, height: 2, depth: 1 },
            Extent { width: BLOCK + 5, height: 2, depth: 1 },
            Extent { width: BLOCK / 3, height: 10, depth: 1 },
        ] {
            let mut bytes = 0;
            parts(e, |column, row, plane, width, rows| {
                assert!(column + width <= e.width && row + rows <= e.height && plane < e.depth);
                assert!(width * rows <= BLOCK && width * rows > 0);
                bytes += width * rows;
                Ok(())
            })
            .unwrap();
            assert_eq!(bytes, e.width * e.height * e.depth);
        }
    }
}
