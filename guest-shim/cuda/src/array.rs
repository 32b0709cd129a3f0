//! Arrays. Their shapes are asked for once and kept in the handle table, so that copies need not wait to learn whether they are right.

use crate::{call, calls, capture, device, error, handles};
use vgpu_spec::{
    handle::Kind,
    plain::{Blob4, Blob8},
    structure::{Array3DDescriptor, array_map},
};

/// CU_MEM_OPERATION_TYPE_MAP and _UNMAP are the driver's to tell apart; a mask names one device.
const DEVICES: u32 = 32;
/// Mappings of sparse arrays in one message.
const MAPS: usize = 64;

fn descriptor(blob: &Blob8<40>) -> Array3DDescriptor {
    // SAFETY: 40 bytes of numbers, of which any are values.
    unsafe { (&raw const *blob).cast::<Array3DDescriptor>().read() }
}

/// The extent of an array in elements, and an element's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    /// 0 for a format whose elements are not plain texels (planes, blocks).
    pub element: usize,
}

/// Bits of each extent, and the bit that says that there is one.
const BITS: u32 = 20;
const KNOWN: u64 = 1 << 63;

impl Shape {
    fn of(d: &Array3DDescriptor) -> Self {
        let element = element_size(d.format, d.channels);
        Shape { width: d.width, height: d.height.max(1), depth: d.depth.max(1), element }
    }

    /// Bytes of all elements, if these are plain texels.
    pub fn bytes(self) -> Option<usize> {
        let row = self.element.checked_mul(self.width).filter(|&row| row != 0)?;
        row.checked_mul(self.height)?.checked_mul(self.depth)
    }

    fn words(self) -> Option<(u64, u64)> {
        let extents = [self.width, self.height, self.depth].map(|v| v as u64);
        if extents.iter().any(|&v| v >> BITS != 0) {
            return None;
        }
        let packed = extents[0] | extents[1] << BITS | extents[2] << (2 * BITS);
        Some((packed, KNOWN | self.element as u64))
    }

    fn from_words(packed: u64, element: u64) -> Self {
        let part = |at: u32| (packed >> at & ((1 << BITS) - 1)) as usize;
        Shape {
            width: part(0),
            height: part(BITS),
            depth: part(2 * BITS),
            element: (element & !KNOWN) as usize,
        }
    }
}

/// Bytes of an element of a CUarray_format; 0 for one whose elements are not plain texels.
fn element_size(format: u32, channels: u32) -> usize {
    let channel = match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        // The normalized ones have their channels in the format.
        0xc0 | 0xc6 => return 1,
        0xc1 | 0xc3 | 0xc7 | 0xc9 => return 2,
        0xc2 | 0xc4 | 0xc8 | 0xca | 0x50 => return 4,
        0xc5 | 0xcb => return 8,
        _ => return 0,
    };
    channel * channels as usize
}

/// The shape of a live array.
pub fn shape(array: u64) -> error::Result<Shape> {
    let (packed, element) = handles::words(Kind::Array, array)?;
    if element & KNOWN != 0 {
        return Ok(Shape::from_words(packed, element));
    }
    let mut blob = Blob8::default();
    calls::cuArray3DGetDescriptor_v2(&mut blob, array)?;
    let shape = Shape::of(&descriptor(&blob));
    if let Some((packed, element)) = shape.words() {
        handles::set_word(array, 0, packed);
        handles::set_word(array, 1, element);
    }
    Ok(shape)
}

pub unsafe fn cuArrayDestroy(hArray: u64) -> error::Result {
    handles::check_array(hArray)?;
    let mut ended = 0;
    calls::vgpuArrayDestroy(hArray, &mut ended)?;
    if ended != 0 {
        handles::remove(hArray);
    }
    Ok(())
}

pub unsafe fn cuMipmappedArrayDestroy(hMipmappedArray: u64) -> error::Result {
    handles::check_mipmappedarray(hMipmappedArray)?;
    calls::cuMipmappedArrayDestroy(hMipmappedArray)?;
    handles::remove(hMipmappedArray);
    Ok(())
}

/// Refuses what is no array, where that is an invalid value: in copies and some queries.
pub fn check_copied(array: u64) -> error::Result {
    handles::check_array(array).map_err(|_| error::INVALID_VALUE)
}

fn mipmapped_value(mipmapped: u64) -> error::Result {
    handles::check_mipmappedarray(mipmapped).map_err(|_| error::INVALID_VALUE)
}

pub unsafe fn cuArrayGetMemoryRequirements(
    memoryRequirements: *mut Blob8<32>,
    array: u64,
    device: i32,
) -> error::Result {
    check_copied(array)?;
    // SAFETY: the program's pointer.
    let place = unsafe { memoryRequirements.as_mut() }.ok_or(error::INVALID_VALUE)?;
    // The driver does not look at the device.
    calls::cuArrayGetMemoryRequirements(place, array, device::host_ordinal(device).unwrap_or(0))
}

pub unsafe fn cuMipmappedArrayGetMemoryRequirements(
    memoryRequirements: *mut Blob8<32>,
    mipmap: u64,
    device: i32,
) -> error::Result {
    mipmapped_value(mipmap)?;
    // SAFETY: the program's pointer.
    let place = unsafe { memoryRequirements.as_mut() }.ok_or(error::INVALID_VALUE)?;
    calls::cuMipmappedArrayGetMemoryRequirements(place, mipmap, device::host_ordinal(device).unwrap_or(0))
}

pub unsafe fn cuArrayGetSparseProperties(sparseProperties: *mut Blob8<48>, array: u64) -> error::Result {
    check_copied(array)?;
    // SAFETY: the program's pointer.
    let place = unsafe { sparseProperties.as_mut() }.ok_or(error::INVALID_VALUE)?;
    calls::cuArrayGetSparseProperties(place, array)
}

pub unsafe fn cuMipmappedArrayGetSparseProperties(
    sparseProperties: *mut Blob8<48>,
    mipmap: u64,
) -> error::Result {
    mipmapped_value(mipmap)?;
    // SAFETY: the program's pointer.
    let place = unsafe { sparseProperties.as_mut() }.ok_or(error::INVALID_VALUE)?;
    calls::cuMipmappedArrayGetSparseProperties(place, mipmap)
}

call::only_in_old_contexts! {
    cuArrayCreate(*mut u64, *const Blob4<16>);
    cuArray3DCreate(*mut u64, *const Blob4<24>);
}

pub unsafe fn cuArrayGetDescriptor(_: *mut Blob4<16>, hArray: u64) -> error::Result {
    handles::check_array(hArray)?;
    Err(error::INVALID_CONTEXT)
}

pub unsafe fn cuArray3DGetDescriptor(_: *mut Blob4<24>, hArray: u64) -> error::Result {
    handles::check_array(hArray)?;
    Err(error::INVALID_CONTEXT)
}

/// The host's bits for the program's devices.
fn host_devices(mask: u32) -> error::Result<u32> {
    let mut host = 0;
    for ordinal in (0..DEVICES).filter(|bit| mask >> bit & 1 != 0) {
        let there = device::host_ordinal(ordinal.cast_signed()).map_err(|_| error::INVALID_VALUE)?;
        host |= 1_u32.checked_shl(there.cast_unsigned()).ok_or(error::INVALID_VALUE)?;
    }
    Ok(host)
}

/// Maps in parts: the driver refuses a list at the first mapping that is wrong, without reading what comes after it.
pub unsafe fn cuMemMapArrayAsync(mapInfoList: *const Blob8<96>, count: u32, hStream: u64) -> error::Result {
    handles::check_stream(hStream)?;
    if mapInfoList.is_null() || count == 0 {
        return Err(error::INVALID_VALUE);
    }
    capture::refuse_capturing(hStream)?;
    for first in (0..count as usize).step_by(MAPS) {
        let len = MAPS.min(count as usize - first);
        // SAFETY: the program's array of `count`, of which this is a part.
        let part = unsafe { call::slice(mapInfoList.add(first), len) }.ok_or(error::INVALID_VALUE)?;
        let mut part = part.to_vec();
        for map in &mut part {
            let devices = host_devices(array_map::DEVICES.get(&map.0) as u32)?;
            array_map::DEVICES.set(&mut map.0, devices.into());
        }
        calls::cuMemMapArrayAsync(&part, part.len() as u32, hStream)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_survives_in_two_words() {
        for shape in [
            Shape { width: 131_072, height: 65_536, depth: 1, element: 16 },
            Shape { width: 1, height: 1, depth: 16_384, element: 0 },
        ] {
            let (packed, element) = shape.words().unwrap();
            assert_eq!(Shape::from_words(packed, element), shape);
        }
        assert!(Shape { width: 1 << 20, height: 1, depth: 1, element: 1 }.words().is_none());
    }

    #[test]
    fn only_plain_texels_have_bytes() {
        let shape = Shape { width: 64, height: 16, depth: 2, element: 4 };
        assert_eq!(shape.bytes(), Some(8192));
        assert_eq!(Shape { element: 0, ..shape }.bytes(), None);
        assert_eq!(Shape { width: usize::MAX / 4, ..shape }.bytes(), None, "more than an address reaches");
    }

    #[test]
    fn elements_have_the_bytes_of_their_channels() {
        assert_eq!(element_size(0x20, 4), 16);
        assert_eq!(element_size(0x10, 2), 4);
        assert_eq!(element_size(0x08, 1), 1);
        assert_eq!(element_size(0xc5, 4), 8);
        assert_eq!(element_size(0x91, 4), 0, "blocks");
    }
}
