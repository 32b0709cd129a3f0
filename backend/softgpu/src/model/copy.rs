//! Copies and fills: checked when they are asked for, done in a stream's order.

use std::sync::Arc;

use super::allocation::{Allocation, is_mapped};
use super::context::Context;
use super::graph::{self, Op};
use super::memory::MemoryMap;
use super::stream::Stream;
use super::work::Work;
use super::{CudaError, Result, state};

/// Pageable sources up to this size are copied aside at the call, larger ones are copied before it returns.
const STAGED_BYTES: u64 = 1 << 20;

/// What the program says about one side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory that a device may use.
    Device(u64),
    /// The program's memory, pinned or not.
    Host(u64),
    /// Either: the address tells.
    Unified(u64),
    /// Memory of an array.
    Array(u64),
}

impl Place {
    fn address(self) -> u64 {
        match self {
            Place::Device(address)
            | Place::Host(address)
            | Place::Unified(address)
            | Place::Array(address) => address,
        }
    }
}

/// Rows and planes: all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a row.
    pub width: u64,
    /// Rows of a plane.
    pub height: u64,
    /// Planes.
    pub depth: u64,
}

impl Shape {
    /// One row.
    pub fn row(width: u64) -> Shape {
        Shape { width, height: 1, depth: 1 }
    }

    fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }
}

/// One side of a copy: where it starts, and how far apart rows and planes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// The first byte.
    pub place: Place,
    /// Bytes from a row to the next.
    pub pitch: u64,
    /// Bytes from a plane to the next.
    pub plane: u64,
}

impl Side {
    /// A side of a copy without rows.
    pub fn linear(place: Place) -> Side {
        Side { place, pitch: 0, plane: 0 }
    }

    fn span(&self, shape: Shape) -> Result<u64> {
        let planes = (shape.depth - 1).checked_mul(self.plane);
        let rows = (shape.height - 1).checked_mul(self.pitch);
        let span =
            planes.zip(rows).and_then(|(planes, rows)| planes.checked_add(rows)?.checked_add(shape.width));
        span.filter(|span| self.place.address().checked_add(*span).is_some()).ok_or(CudaError::InvalidValue)
    }

    fn overlaps_itself(&self, shape: Shape) -> bool {
        (shape.height > 1 && self.pitch < shape.width) || (shape.depth > 1 && self.plane < shape.width)
    }

    /// The driver's range that the side lies in; none if it is the program's own unpinned memory.
    fn locate(&self, memory: &MemoryMap, span: u64) -> Result<Option<Arc<Allocation>>> {
        let address = self.place.address();
        if let Place::Array(_) = self.place {
            let found = state()?.array_memory.find(address, span);
            return found.map(Some).ok_or(CudaError::InvalidValue);
        }
        if let Some(allocation) = memory.find(address, span) {
            return Ok(Some(allocation));
        }
        // A range that starts in the driver's memory and leaves it is nobody's.
        let starts_inside = memory.find(address, 1).is_some_and(|range| range.is_device());
        match self.place {
            Place::Device(_) | Place::Array(_) => Err(CudaError::InvalidValue),
            _ if starts_inside || address == 0 => Err(CudaError::InvalidValue),
            Place::Unified(_) if !is_mapped(address, span) => Err(CudaError::InvalidValue),
            Place::Unified(_) | Place::Host(_) => Ok(None),
        }
    }
}

/// A checked copy.
#[derive(Clone, Debug)]
pub struct Copy {
    to: Side,
    from: Side,
    shape: Shape,
    to_range: Option<Arc<Allocation>>,
    from_range: Option<Arc<Allocation>>,
    /// The bytes of an unpinned source, taken at the call; rows are then without gaps.
    staged: Option<Vec<u8>>,
}

impl Copy {
    /// Checks a copy; none if there is nothing to copy.
    pub fn check(to: Side, from: Side, shape: Shape) -> Result<Option<Copy>> {
        let memory = &state()?.memory;
        if shape.is_empty() {
            return Ok(None);
        }
        if to.overlaps_itself(shape) || from.overlaps_itself(shape) {
            return Err(CudaError::InvalidValue);
        }
        let to_range = to.locate(memory, to.span(shape)?)?;
        let from_range = from.locate(memory, from.span(shape)?)?;
        Ok(Some(Copy { to, from, shape, to_range, from_range, staged: None }))
    }

    /// Copies before it returns, after what `stream` has been given.
    pub fn perform(self, context: &Context, stream: &Arc<Stream>) -> Result {
        context.perform(stream, Box::new(move |_| self.run()))
    }

    /// Copies in `stream`'s order. Memory that the program may change or read at once is done with when this returns.
    pub fn submit(mut self, context: &Context, stream: &Arc<Stream>) -> Result {
        if stream.captures() {
            // The program's memory is read and written at each launch.
            return graph::give(context, stream, Op::Copy(Box::new(self)));
        }
        if self.to_range.is_none() {
            return self.perform(context, stream);
        }
        if self.from_range.is_none() {
            if self.shape.width.saturating_mul(self.shape.height).saturating_mul(self.shape.depth)
                > STAGED_BYTES
            {
                return self.perform(context, stream);
            }
            self.staged = Some(self.stage());
        }
        context.submit(stream, Vec::new(), Work::Task(Box::new(move |_| self.run()))).map(drop)
    }

    fn stage(&self) -> Vec<u8> {
        let Shape { width, height, depth } = self.shape;
        let mut bytes = Vec::with_capacity(usize::try_from(width * height * depth).unwrap_or(0));
        for (row, length) in self.rows(&self.from) {
            // SAFETY: the caller of the exported function answers for the host memory that it names.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer(row), length) });
        }
        bytes
    }

    /// Destination, source and extent.
    pub fn sides(&self) -> (Side, Side, Shape) {
        (self.to, self.from, self.shape)
    }

    /// Copies now.
    pub fn run(self) {
        let width = usize::try_from(self.shape.width).unwrap_or(0);
        if let Some(staged) = &self.staged {
            for ((to, length), from) in self.rows(&self.to).zip(staged.chunks(width)) {
                // SAFETY: `to` was checked to lie in a range that `self` keeps alive; a chunk is one row long.
                unsafe { std::ptr::copy(from.as_ptr(), pointer(to).cast_mut(), length.min(from.len())) };
            }
            return;
        }
        for ((to, length), (from, _)) in self.rows(&self.to).zip(self.rows(&self.from)) {
            // SAFETY: both rows were checked to lie in ranges that `self` keeps alive, or are the program's own
            // memory, for which the caller of the exported function answers.
            unsafe { std::ptr::copy(pointer(from), pointer(to).cast_mut(), length) };
        }
    }

    /// The address and length of each row of a side; a copy without gaps has a single one.
    fn rows(&self, side: &Side) -> impl Iterator<Item = (u64, usize)> + use<> {
        let Shape { width, height, depth } = self.shape;
        let (base, pitch, plane) = (side.place.address(), side.pitch, side.plane);
        let length = usize::try_from(width).unwrap_or(0);
        (0..depth).flat_map(move |z| (0..height).map(move |y| (base + z * plane + y * pitch, length)))
    }
}

/// A checked fill: `height` rows of `width` elements.
#[derive(Clone, Debug)]
pub struct Fill {
    address: u64,
    pitch: u64,
    width: u64,
    height: u64,
    element: Element,
    _range: Arc<Allocation>,
}

/// The value that a fill repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// One byte.
    Byte(u8),
    /// Two.
    Half(u16),
    /// Four.
    Word(u32),
}

impl Element {
    fn size(self) -> u64 {
        match self {
            Element::Byte(_) => 1,
            Element::Half(_) => 2,
            Element::Word(_) => 4,
        }
    }
}

impl Fill {
    /// Checks a fill of `height` rows of `width` elements, `pitch` bytes apart; none if there is nothing to fill.
    pub fn check(
        address: u64,
        pitch: u64,
        width: u64,
        height: u64,
        element: Element,
    ) -> Result<Option<Fill>> {
        let memory = &state()?.memory;
        // As NVIDIA's driver, which counts bytes modulo 2⁶⁴.
        let bytes = width.wrapping_mul(element.size());
        let width = bytes / element.size();
        if width == 0 || height == 0 {
            return Ok(None);
        }
        let span = (height - 1).checked_mul(pitch).and_then(|rows| rows.checked_add(bytes));
        let span = span.ok_or(CudaError::InvalidValue)?;
        let misaligned =
            !address.is_multiple_of(element.size()) || (height > 1 && !pitch.is_multiple_of(element.size()));
        if misaligned || (height > 1 && pitch < bytes) {
            return Err(CudaError::InvalidValue);
        }
        let range = memory.find(address, span).ok_or(CudaError::InvalidValue)?;
        Ok(Some(Fill { address, pitch, width, height, element, _range: range }))
    }

    /// Fills before it returns.
    pub fn perform(self, context: &Context, stream: &Arc<Stream>) -> Result {
        context.perform(stream, Box::new(move |_| self.run()))
    }

    /// Fills in `stream`'s order.
    pub fn submit(self, context: &Context, stream: &Arc<Stream>) -> Result {
        graph::give(context, stream, Op::Fill(self))
    }

    /// Address, pitch, width in elements, height, value.
    pub fn parts(&self) -> (u64, u64, u64, u64, Element) {
        (self.address, self.pitch, self.width, self.height, self.element)
    }

    /// Fills now.
    pub fn run(self) {
        let width = usize::try_from(self.width).unwrap_or(0);
        for row in 0..self.height {
            let start = pointer(self.address + row * self.pitch).cast_mut();
            // SAFETY: the rows were checked to lie, aligned, in a range that `self` keeps alive.
            unsafe {
                match self.element {
                    Element::Byte(value) => std::ptr::write_bytes(start, value, width),
                    Element::Half(value) => fill(start.cast(), value, width),
                    Element::Word(value) => fill(start.cast(), value, width),
                }
            }
        }
    }
}

/// # Safety
/// `start` must be aligned and have room for `count` values.
unsafe fn fill<T: std::marker::Copy>(start: *mut T, value: T, count: usize) {
    for index in 0..count {
        // SAFETY: the caller answers for `count` values at `start`.
        unsafe { start.add(index).write(value) };
    }
}

fn pointer(address: u64) -> *const u8 {
    std::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0))
}
