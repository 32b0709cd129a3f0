//! Little-endian numbers out of bytes that may be too short.

use super::ImageError;

/// Bytes of something named.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Bytes<'a> {
    /// The bytes of `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Bytes<'a> {
        Bytes { bytes, what }
    }

    /// `length` bytes at `offset`.
    pub fn at(self, offset: u64, length: u64) -> Result<&'a [u8], ImageError> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
        range.and_then(|range| self.bytes.get(range)).ok_or(ImageError::Truncated { what: self.what })
    }

    fn array<const N: usize>(self, offset: u64) -> Result<[u8; N], ImageError> {
        let length = u64::try_from(N).unwrap_or(u64::MAX);
        self.at(offset, length)?.try_into().map_err(|_| ImageError::Truncated { what: self.what })
    }

    /// Two bytes.
    pub fn u16(self, offset: u64) -> Result<u16, ImageError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(self, offset: u64) -> Result<u32, ImageError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(self, offset: u64) -> Result<u64, ImageError> {
        self.array(offset).map(u64::from_le_bytes)
    }
}
