//! Memory locations (CUmemLocation): a kind and, for a device, its ordinal, which is the program's on this side and the host's on the
//! other.

use crate::{device, error};
use vgpu_spec::plain::Blob4;

/// CU_MEM_LOCATION_TYPE_DEVICE.
pub const DEVICE: u32 = 1;
/// The last of them.
const LAST: u32 = 4;
/// CU_MEM_LOCATION_TYPE_HOST, _HOST_NUMA and _HOST_NUMA_CURRENT: the host's memory is not the guest's.
const HOST: std::ops::RangeInclusive<u32> = 2..=LAST;

/// The little-endian u32 at `at`; 0 beyond the end.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Sets the little-endian u32 at `at`, within the bytes.
pub fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Whether the bytes begin with a location, of a device or not.
pub fn is_one(bytes: &[u8]) -> bool {
    (DEVICE..=LAST).contains(&word(bytes, 0))
}

/// The program's ordinal of the device location at `at`.
///
/// # Errors
/// CUDA_ERROR_NOT_SUPPORTED for a location in host memory, CUDA_ERROR_INVALID_VALUE for what is none.
pub fn ordinal(bytes: &[u8], at: usize) -> error::Result<i32> {
    match word(bytes, at) {
        DEVICE => Ok(word(bytes, at + 4).cast_signed()),
        kind if HOST.contains(&kind) => Err(error::NOT_SUPPORTED),
        _ => Err(error::INVALID_VALUE),
    }
}

/// Turns the location at `at` from the program's into the host's.
pub fn to_host(bytes: &mut [u8], at: usize) -> error::Result {
    let host = device::host_ordinal(ordinal(bytes, at)?)?;
    set_word(bytes, at + 4, host.cast_unsigned());
    Ok(())
}

/// Turns a device location at `at` from the host's into the program's; one of a device that the program does not see stays.
pub fn to_program(bytes: &mut [u8], at: usize) {
    if word(bytes, at) == DEVICE
        && let Some(own) = device::own_ordinal(word(bytes, at + 4).cast_signed())
    {
        set_word(bytes, at + 4, own.cast_unsigned());
    }
}

/// Access descriptions (CUmemAccessDesc: location, flags) with the host's ordinals. They are read one by one, as the driver does: a count
/// that is too large ends at the first that is wrong. `none`: what is said of a place that is none.
///
/// # Safety
/// `list` is NULL or the program's array of `count`.
pub unsafe fn descriptions(list: *const Blob4<12>, count: usize, none: u32) -> error::Result<Vec<Blob4<12>>> {
    if list.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let mut found = Vec::new();
    for i in 0..count {
        // SAFETY: the caller's promise.
        let mut description = unsafe { list.wrapping_add(i).read_unaligned() };
        if !is_one(&description.0) {
            return Err(none);
        }
        to_host(&mut description.0, 0)?;
        found.push(description);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_are_places_for_memory() {
        let location = |kind: u32, id: u32| {
            let mut bytes = [0xee; 12];
            set_word(&mut bytes, 4, kind);
            set_word(&mut bytes, 8, id);
            ordinal(&bytes, 4)
        };
        assert_eq!(location(1, 3), Ok(3));
        for kind in 2..=4 {
            assert_eq!(location(kind, 0), Err(error::NOT_SUPPORTED), "{kind}");
        }
        for kind in [0, 5, u32::MAX] {
            assert_eq!(location(kind, 0), Err(error::INVALID_VALUE), "{kind}");
        }
    }

    #[test]
    fn a_count_beyond_the_descriptions_ends_at_the_first_that_is_none() {
        let list = [Blob4([0; 12])];
        // SAFETY: one description, which is refused before another is read.
        let read = |place, count, none| unsafe { descriptions(place, count, none) }.map(|all| all.len());
        assert_eq!(read(list.as_ptr(), 1 << 40, error::NOT_SUPPORTED), Err(error::NOT_SUPPORTED));
        assert_eq!(read(list.as_ptr(), 0, error::NOT_SUPPORTED), Ok(0));
        assert_eq!(read(std::ptr::null(), 0, error::NOT_SUPPORTED), Err(error::INVALID_VALUE));
    }

    #[test]
    fn words_beyond_the_end_are_zero_and_not_written() {
        let mut bytes = [1, 0, 0, 0, 2, 0, 0];
        assert_eq!((word(&bytes, 0), word(&bytes, 4)), (1, 0));
        set_word(&mut bytes, 4, 9);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0]);
    }
}
