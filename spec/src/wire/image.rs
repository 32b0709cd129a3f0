//! An image of several fat binaries, as it lies in a window: what nvcc's wrapper of version 2 leads to (programs compiled with `-rdc=true`).
//!
//! [`LinkedHeader`], then `count` × [`Range`] from the image's start, then the fat binaries. The first is the linked one; the others are what
//! the driver links itself where the first has no code for the device.

use super::{Range, split};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`LinkedHeader::magic`].
pub const LINKED_MAGIC: u64 = u64::from_le_bytes(*b"vgpulink");
/// The most fat binaries of an image: the linked one and one for each translation unit.
pub const MAX_PARTS: usize = 4096;
/// Fat binaries lie at multiples of this.
const ALIGN: u64 = 8;

/// Starts an image of several fat binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkedHeader {
    /// [`LINKED_MAGIC`].
    pub magic: u64,
    /// Fat binaries, the linked one included.
    pub count: u32,
    pub reserved: u32,
}

/// What is wrong with an image of several fat binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkedError {
    #[error("reading an image of several fat binaries: {0} of them are none, or more than {MAX_PARTS}")]
    Count(usize),
    #[error("reading an image of several fat binaries: it ends within its header")]
    Header,
    #[error(
        "reading an image of several fat binaries: {base:#x}+{len:#x} does not lie in it, or not at a multiple of {ALIGN}"
    )]
    Part { base: u64, len: u64 },
}

/// Whether `image` starts as one of several fat binaries.
pub fn is_linked(image: &[u8]) -> bool {
    image.starts_with(LINKED_MAGIC.as_bytes())
}

/// The head of an image of fat binaries of these lengths, and where each lies.
pub fn layout(lengths: &[u64]) -> Result<(Vec<u8>, Vec<Range>), LinkedError> {
    let count = u32::try_from(lengths.len()).map_err(|_| LinkedError::Count(lengths.len()))?;
    if count == 0 || lengths.len() > MAX_PARTS {
        return Err(LinkedError::Count(lengths.len()));
    }
    let mut at = (size_of::<LinkedHeader>() + lengths.len() * size_of::<Range>()) as u64;
    let mut parts = Vec::with_capacity(lengths.len());
    for &len in lengths {
        let end = at.checked_add(len).and_then(|end| end.checked_next_multiple_of(ALIGN));
        parts.push(Range { base: at, len });
        at = end.ok_or(LinkedError::Part { base: at, len })?;
    }
    let mut head = LinkedHeader { magic: LINKED_MAGIC, count, reserved: 0 }.as_bytes().to_vec();
    head.extend_from_slice(parts.as_bytes());
    Ok((head, parts))
}

/// Where the fat binaries of `image` lie, each within it and behind its head.
pub fn parts(image: &[u8]) -> Result<Vec<Range>, LinkedError> {
    let (header, mut rest) = split::<LinkedHeader>(image).ok_or(LinkedError::Header)?;
    let count = header.count as usize;
    if header.magic != LINKED_MAGIC {
        return Err(LinkedError::Header);
    }
    if count == 0 || count > MAX_PARTS {
        return Err(LinkedError::Count(count));
    }
    let head = (size_of::<LinkedHeader>() + count * size_of::<Range>()) as u64;
    let room = Range { base: head, len: (image.len() as u64).saturating_sub(head) };
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let (part, behind) = split::<Range>(rest).ok_or(LinkedError::Header)?;
        if !room.contains(part.base, part.len) || !part.base.is_multiple_of(ALIGN) {
            return Err(LinkedError::Part { base: part.base, len: part.len });
        }
        parts.push(part);
        rest = behind;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(lengths: &[u64]) -> Vec<u8> {
        let (mut image, parts) = layout(lengths).unwrap();
        let end = parts.iter().filter_map(Range::end).max().unwrap();
        image.resize(end as usize, 0xAA);
        image
    }

    #[test]
    fn what_is_laid_out_is_found_again() {
        let image = image(&[5, 8, 0, 3]);
        assert!(is_linked(&image));
        let found = parts(&image).unwrap();
        assert_eq!(found, layout(&[5, 8, 0, 3]).unwrap().1);
        assert_eq!(found.iter().map(|part| part.base - 80).collect::<Vec<_>>(), [0, 8, 16, 16]);
        assert!(!is_linked(b"vgpu") && !is_linked(&[]));
    }

    #[test]
    fn a_part_outside_the_image_or_in_its_head_is_refused() {
        let whole = image(&[8, 8]);
        let with = |base: u64, len: u64| {
            let mut image = whole.clone();
            image[32..48].copy_from_slice(Range { base, len }.as_bytes());
            parts(&image)
        };
        assert!(with(48, 16).is_ok(), "parts may meet");
        for (base, len) in [(48, 17), (40, 8), (0, 8), (52, 8), (64, 1), (u64::MAX - 7, 8), (48, u64::MAX)] {
            assert_eq!(with(base, len), Err(LinkedError::Part { base, len }));
        }
    }

    #[test]
    fn a_count_that_the_image_does_not_have_is_refused() {
        let mut image = image(&[8, 8]);
        for (count, error) in [
            (0, LinkedError::Count(0)),
            (MAX_PARTS as u32 + 1, LinkedError::Count(MAX_PARTS + 1)),
            (u32::MAX, LinkedError::Count(u32::MAX as usize)),
        ] {
            image[8..12].copy_from_slice(&u32::to_le_bytes(count));
            assert_eq!(parts(&image), Err(error));
        }
        image[8..12].copy_from_slice(&4096_u32.to_le_bytes());
        assert!(parts(&image).is_err());
        assert_eq!(parts(&image[..15]), Err(LinkedError::Header));
        assert!(layout(&[]).is_err() && layout(&vec![1; MAX_PARTS + 1]).is_err());
        assert!(layout(&[u64::MAX, 8]).is_err());
    }
}
