//! What a copy in two or three dimensions goes from or to: rows of memory, or a part of an array.

use crate::{
    array::{self, Shape},
    copy::{self, Side},
    error, memory,
};
use vgpu_spec::structure::{Memcpy3DSide, memory_type};

/// The driver's limit of a pitch (CU_DEVICE_ATTRIBUTE_MAX_PITCH).
const MAX_PITCH: usize = (1 << 31) - 1;

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

/// Rows of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    pub address: u64,
    pub side: Side,
    /// Bytes from row to row, and from plane to plane: a whole number of rows.
    pub pitch: usize,
    pub slice: usize,
}

impl Rows {
    /// The address of a row.
    pub fn at(&self, row: usize, plane: usize) -> u64 {
        self.address + (row * self.pitch + plane * self.slice) as u64
    }

    /// Whether the device certainly reaches all of it.
    fn certain(&self, e: Extent) -> bool {
        let last = (e.depth - 1) * self.slice + (e.height - 1) * self.pitch + e.width;
        self.side == Side::Pinned || (self.pitch <= MAX_PITCH && memory::known(self.address, last as u64))
    }
}

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    Memory(Rows),
    /// A side whose kind is ARRAY.
    Array(Memcpy3DSide),
}

impl Place {
    /// Arrays are the device's.
    pub fn side(&self) -> Side {
        match self {
            Place::Memory(rows) => rows.side,
            Place::Array(_) => Side::Device,
        }
    }

    /// The same place from a column (in bytes), row and plane on.
    pub fn part(&self, column: usize, row: usize, plane: usize) -> Place {
        match *self {
            Place::Memory(rows) => {
                Place::Memory(Rows { address: rows.at(row, plane) + column as u64, ..rows })
            }
            Place::Array(side) => {
                Place::Array(Memcpy3DSide { x: side.x + column, y: side.y + row, z: side.z + plane, ..side })
            }
        }
    }

    /// The place in the driver's form, with a context in its reserved word.
    pub fn described(&self, context: u64) -> Memcpy3DSide {
        match *self {
            Place::Memory(rows) => {
                let pinned = rows.side != Side::Device;
                let (kind, host, device) = if pinned {
                    (memory_type::HOST, rows.address, 0)
                } else {
                    (memory_type::DEVICE, 0, rows.address)
                };
                Memcpy3DSide {
                    kind,
                    host,
                    device,
                    reserved: context,
                    pitch: rows.pitch,
                    height: rows.slice / rows.pitch.max(1),
                    ..Memcpy3DSide::default()
                }
            }
            Place::Array(side) => Memcpy3DSide { reserved: context, ..side },
        }
    }

    /// Whether the extent certainly lies in it, so that nobody need wait to learn it.
    pub fn certain(&self, e: Extent) -> bool {
        match self {
            Place::Memory(rows) => rows.certain(e),
            Place::Array(side) => array::shape(side.array).is_ok_and(|shape| {
                shape.element != 0
                    && (side.x % shape.element, e.width % shape.element) == (0, 0)
                    && within(side, e, shape)
            }),
        }
    }

    /// Refuses what certainly lies beyond it, before a part of it is copied.
    pub fn check(&self, e: Extent) -> error::Result {
        let Place::Array(side) = self else { return Ok(()) };
        let shape = array::shape(side.array)?;
        if shape.element == 0 || within(side, e, shape) { Ok(()) } else { Err(error::INVALID_VALUE) }
    }
}

/// Whether a part of an array is within its shape. There is one level of detail.
fn within(side: &Memcpy3DSide, e: Extent, shape: Shape) -> bool {
    let fits = |at: usize, n: usize, size: usize| at.checked_add(n).is_some_and(|end| end <= size);
    side.lod == 0
        && fits(side.x, e.width, shape.width * shape.element)
        && fits(side.y, e.height, shape.height)
        && fits(side.z, e.depth, shape.depth)
}

/// One side as the program describes it.
pub struct Given {
    pub kind: u32,
    pub host: u64,
    pub device: u64,
    pub array: u64,
    pub x: usize,
    pub y: usize,
    pub z: usize,
    pub lod: usize,
    pub pitch: usize,
    pub height: usize,
}

impl Given {
    /// Where a copy of this extent begins.
    pub fn place(&self, extent: Extent) -> error::Result<Place> {
        if self.kind != memory_type::ARRAY {
            return self.rows(extent).map(Place::Memory);
        }
        array::check_copied(self.array)?;
        for (at, n) in [(self.x, extent.width), (self.y, extent.height), (self.z, extent.depth)] {
            at.checked_add(n).ok_or(error::INVALID_VALUE)?;
        }
        let (kind, array) = (memory_type::ARRAY, self.array);
        let (x, y, z, lod) = (self.x, self.y, self.z, self.lod);
        Ok(Place::Array(Memcpy3DSide { kind, array, x, y, z, lod, ..Memcpy3DSide::default() }))
    }

    fn rows(&self, extent: Extent) -> error::Result<Rows> {
        let (address, side) = match self.kind {
            memory_type::HOST => (self.host, copy::host_side(self.host)),
            memory_type::DEVICE => (self.device, Side::Device),
            memory_type::UNIFIED => (self.device, copy::side(self.device)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pitch: usize, height: usize) -> Given {
        Given {
            kind: memory_type::DEVICE,
            host: 0,
            device: 0x1000,
            array: 0,
            x: 4,
            y: 2,
            z: 1,
            lod: 0,
            pitch,
            height,
        }
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
    fn parts_of_places_are_offset_in_bytes_rows_and_planes() {
        let e = Extent { width: 8, height: 3, depth: 2 };
        let rows = given(16, 5).rows(e).unwrap();
        let Place::Memory(part) = Place::Memory(rows).part(2, 1, 1) else { panic!("not memory") };
        assert_eq!(part.address, rows.at(1, 1) + 2);
        let side = Memcpy3DSide { kind: memory_type::ARRAY, array: 9, x: 4, y: 1, ..Memcpy3DSide::default() };
        let Place::Array(part) = Place::Array(side).part(8, 2, 3) else { panic!("not an array") };
        assert_eq!((part.x, part.y, part.z, part.array), (12, 3, 3, 9));
    }

    #[test]
    fn what_reaches_beyond_an_array_is_not_within_it() {
        let shape = Shape { width: 16, height: 8, depth: 4, element: 4 };
        let e = Extent { width: 64, height: 8, depth: 4 };
        let whole = Memcpy3DSide { kind: memory_type::ARRAY, ..Memcpy3DSide::default() };
        assert!(within(&whole, e, shape));
        for side in [
            Memcpy3DSide { x: 4, ..whole },
            Memcpy3DSide { y: 1, ..whole },
            Memcpy3DSide { z: usize::MAX, ..whole },
            Memcpy3DSide { lod: 1, ..whole },
        ] {
            assert!(!within(&side, e, shape), "{side:?}");
        }
        assert!(within(&Memcpy3DSide { x: 4, ..whole }, Extent { width: 60, ..e }, shape));
    }

    #[test]
    fn memory_is_described_as_what_it_is() {
        let rows = Rows { address: 0x5000, side: Side::Pinned, pitch: 64, slice: 256 };
        let d = Place::Memory(rows).described(7);
        assert_eq!((d.kind, d.host, d.device, d.pitch, d.height, d.reserved), (1, 0x5000, 0, 64, 4, 7));
        let d = Place::Memory(Rows { side: Side::Device, ..rows }).described(0);
        assert_eq!((d.kind, d.host, d.device), (2, 0, 0x5000));
    }

    #[test]
    fn no_array_is_an_invalid_value() {
        let e = Extent { width: 8, height: 1, depth: 1 };
        let side = Given { kind: memory_type::ARRAY, ..given(16, 5) };
        assert_eq!(side.place(e).err(), Some(error::INVALID_VALUE));
    }
}
