//! Copies in two and three dimensions.
//!
//! What the device can reach is copied by it, row by row; pageable rows are packed into a block of a window first, or unpacked from
//! one afterwards.

use crate::{
    call, calls, capture,
    copy::{self, Side},
    error, graph_pageable, handles,
    staging::{BLOCK, Block},
};
use vgpu_spec::{
    plain::Blob8,
    structure::{Memcpy3D, Memcpy3DSide, memory_type},
};

/// Rows of one side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    address: u64,
    side: Side,
    /// Bytes from row to row, and from plane to plane.
    pitch: usize,
    slice: usize,
}

impl Rows {
    fn at(&self, row: usize, plane: usize) -> u64 {
        self.address + (row * self.pitch + plane * self.slice) as u64
    }
}

/// Bytes of a row, rows of a plane, planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

impl Extent {
    /// Bytes of all rows.
    pub fn bytes(self) -> Option<usize> {
        self.width.checked_mul(self.height)?.checked_mul(self.depth)
    }
}

/// One side as the program describes it.
struct Given {
    kind: u32,
    host: u64,
    device: u64,
    x: usize,
    y: usize,
    z: usize,
    pitch: usize,
    height: usize,
}

impl Given {
    fn rows(&self, extent: Extent) -> error::Result<Rows> {
        let (address, side) = match self.kind {
            memory_type::HOST => (self.host, copy::host_side(self.host)),
            memory_type::DEVICE => (self.device, Side::Device),
            memory_type::UNIFIED => (self.device, copy::side(self.device)),
            memory_type::ARRAY => return Err(error::NOT_SUPPORTED),
            _ => return Err(error::INVALID_VALUE),
        };
        let wide = self.x.checked_add(extent.width).ok_or(error::INVALID_VALUE)?;
        let pitch = if self.pitch == 0 { wide } else { self.pitch };
        let tall = self.y.checked_add(extent.height).ok_or(error::INVALID_VALUE)?;
        let height = if self.height == 0 { tall } else { self.height };
        let many_rows = extent.height > 1 || extent.depth > 1;
        if address == 0 || (many_rows && pitch < wide) || (extent.depth > 1 && height < tall) {
            return Err(error::INVALID_VALUE);
        }
        let slice = pitch.checked_mul(height).ok_or(error::INVALID_VALUE)?;
        let start = || {
            let offset =
                self.z.checked_mul(slice)?.checked_add(self.y.checked_mul(pitch)?)?.checked_add(self.x)?;
            let last = slice.checked_mul(extent.depth)?;
            let address = address.checked_add(offset as u64)?;
            address.checked_add(last as u64).map(|_| address)
        };
        Ok(Rows { address: start().ok_or(error::INVALID_VALUE)?, side, pitch, slice })
    }
}

fn host(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Lets the device copy.
fn post(dst: Rows, src: Rows, e: Extent, stream: u64) -> error::Result {
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

/// # Safety
/// Pageable sides are memory of the program, as large as the extent says.
unsafe fn copy(dst: Rows, src: Rows, e: Extent, stream: u64, wait: bool) -> error::Result {
    handles::check_stream(stream)?;
    if (dst.side == Side::Pageable || src.side == Side::Pageable) && capture::captures(stream)? {
        let Extent { width, height, depth } = e;
        let copy = Memcpy3D { src: described(src), dst: described(dst), width, height, depth };
        graph_pageable::capture(&copy, stream)?;
        return if wait { calls::cuStreamSynchronize(stream) } else { Ok(()) };
    }
    match (dst.side, src.side) {
        (Side::Pageable, Side::Pageable) => {
            calls::cuStreamSynchronize(stream)?;
            for plane in 0..e.depth {
                for row in 0..e.height {
                    // SAFETY: the caller's promise; rows may overlap.
                    unsafe { std::ptr::copy(host(src.at(row, plane)), host(dst.at(row, plane)), e.width) };
                }
            }
            Ok(())
        }
        (Side::Pageable, _) | (_, Side::Pageable) => {
            let block = Block::take()?;
            let from_host = src.side == Side::Pageable;
            parts(e, |column, row, plane, width, rows| {
                let packed =
                    Rows { address: block.address(), side: Side::Pinned, pitch: width, slice: width * rows };
                let part = |r: Rows| Rows { address: r.at(row, plane) + column as u64, ..r };
                let extent = Extent { width, height: rows, depth: 1 };
                let place = (column, row, plane);
                if from_host {
                    // SAFETY: the caller's promise; the part fits in the block.
                    unsafe { pack(src, block.address(), place, width, rows, true) };
                    post(part(dst), packed, extent, stream)?;
                } else {
                    post(packed, part(src), extent, stream)?;
                }
                calls::cuStreamSynchronize(stream)?;
                if !from_host {
                    // SAFETY: as above; the device has filled the block.
                    unsafe { pack(dst, block.address(), place, width, rows, false) };
                }
                Ok(())
            })
        }
        (to, from) => {
            post(dst, src, e, stream)?;
            let on_host = to == Side::Pinned || from == Side::Pinned;
            if wait && on_host { calls::cuStreamSynchronize(stream) } else { call::settle() }
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
            x: self.x,
            y: self.y,
            z: 0,
            pitch: self.pitch,
            height: 0,
        }
    }
}

/// # Safety
/// `description` is NULL or valid, and what it describes is as [`copy`] wants.
unsafe fn copy_2d(description: *const Blob8<128>, stream: u64, wait: bool) -> error::Result {
    const { assert!(size_of::<Copy2D>() == 128) };
    // SAFETY: the caller's promise; same size and alignment.
    let c = *unsafe { description.cast::<Copy2D>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    let extent = Extent { width: c.width, height: c.height, depth: 1 };
    if extent.width == 0 || extent.height == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { copy(c.dst.given().rows(extent)?, c.src.given().rows(extent)?, extent, stream, wait) }
}

fn given_3d(side: &Memcpy3DSide) -> Given {
    Given {
        kind: side.kind,
        host: side.host,
        device: side.device,
        x: side.x,
        y: side.y,
        z: side.z,
        pitch: side.pitch,
        height: side.height,
    }
}

/// Rows as a side of a copy.
fn described(rows: Rows) -> Memcpy3DSide {
    let (kind, host, device) = match rows.side {
        Side::Device => (memory_type::DEVICE, 0, rows.address),
        _ => (memory_type::HOST, rows.address, 0),
    };
    let height = rows.slice.checked_div(rows.pitch).unwrap_or(0);
    Memcpy3DSide { kind, host, device, pitch: rows.pitch, height, ..Memcpy3DSide::default() }
}

/// A copy with each side host or device memory.
pub struct Sides {
    pub copy: Memcpy3D,
    /// Source and destination, where they are pageable memory.
    pub pageable: [Option<Rows>; 2],
    pub extent: Extent,
}

/// What the sides of a copy are; refused if one is an array.
pub fn sides(copy: &Memcpy3D) -> error::Result<Sides> {
    let extent = Extent { width: copy.width, height: copy.height, depth: copy.depth };
    let side = |given: &Memcpy3DSide| -> error::Result<(Memcpy3DSide, Option<Rows>)> {
        let rows = given_3d(given).rows(extent)?;
        let address = if given.kind == memory_type::HOST { given.host } else { given.device };
        let (kind, host, device) = match rows.side {
            Side::Device => (memory_type::DEVICE, 0, address),
            Side::Pinned | Side::Pageable => (memory_type::HOST, address, 0),
        };
        let pageable = (rows.side == Side::Pageable).then_some(rows);
        Ok((Memcpy3DSide { kind, host, device, ..*given }, pageable))
    };
    let ((src, from), (dst, to)) = (side(&copy.src)?, side(&copy.dst)?);
    Ok(Sides { copy: Memcpy3D { src, dst, ..*copy }, pageable: [from, to], extent })
}

/// # Safety
/// As [`copy_2d`].
unsafe fn copy_3d(description: *const Blob8<200>, stream: u64, wait: bool) -> error::Result {
    // SAFETY: the caller's promise; same size and alignment.
    let c = *unsafe { description.cast::<Memcpy3D>().as_ref() }.ok_or(error::INVALID_VALUE)?;
    let extent = Extent { width: c.width, height: c.height, depth: c.depth };
    if extent.width == 0 || extent.height == 0 || extent.depth == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    unsafe { copy(given_3d(&c.dst).rows(extent)?, given_3d(&c.src).rows(extent)?, extent, stream, wait) }
}

pub unsafe fn cuMemcpy2D_v2(pCopy: *const Blob8<128>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(pCopy, stream, true) }
}

pub unsafe fn cuMemcpy2DUnaligned_v2(pCopy: *const Blob8<128>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(pCopy, stream, true) }
}

pub unsafe fn cuMemcpy2DAsync_v2(pCopy: *const Blob8<128>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_2d(pCopy, hStream, false) }
}

pub unsafe fn cuMemcpy3D_v2(pCopy: *const Blob8<200>, stream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_3d(pCopy, stream, true) }
}

pub unsafe fn cuMemcpy3DAsync_v2(pCopy: *const Blob8<200>, hStream: u64) -> error::Result {
    // SAFETY: the program's pointers.
    unsafe { copy_3d(pCopy, hStream, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pitch: usize, height: usize) -> Given {
        Given { kind: memory_type::DEVICE, host: 0, device: 0x1000, x: 4, y: 2, z: 1, pitch, height }
    }

    #[test]
    fn rows_start_at_the_described_offset() {
        let e = Extent { width: 8, height: 3, depth: 2 };
        let rows = given(16, 5).rows(e).unwrap();
        assert_eq!(rows, Rows { address: 0x1000 + 80 + 32 + 4, side: Side::Device, pitch: 16, slice: 80 });
        assert_eq!(rows.at(1, 1), rows.address + 96);
        assert_eq!(given(11, 5).rows(e), Err(error::INVALID_VALUE), "a pitch below the row");
        assert_eq!(given(16, 4).rows(e), Err(error::INVALID_VALUE), "planes that overlap");
        assert_eq!(given(usize::MAX / 2, 5).rows(e), Err(error::INVALID_VALUE));
        assert_eq!(Given { kind: 9, ..given(16, 5) }.rows(e), Err(error::INVALID_VALUE));
    }

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
