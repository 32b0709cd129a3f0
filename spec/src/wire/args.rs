//! Arguments and results: sequences of 8-byte little-endian slots.
//!
//! Variable data is one slot with its length in bytes ([`NULL`] for a NULL pointer), then the bytes, padded with zeros to a
//! whole slot. Messages of a lane (after header and dependencies) and replies (after the header) are both made of these.

use thiserror::Error;

/// Bytes of a slot.
pub const SLOT: usize = 8;
/// Length slot of variable data that is a NULL pointer: no bytes follow.
pub const NULL: u64 = u64::MAX;

/// Bytes that `len` bytes of variable data take, length slot and padding included. Saturates.
pub const fn bytes_len(len: usize) -> usize {
    match len.checked_next_multiple_of(SLOT) {
        Some(padded) => padded.saturating_add(SLOT),
        None => usize::MAX,
    }
}

/// What is wrong with encoded arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ArgsError {
    #[error("reading arguments: {needed} bytes wanted, {left} left")]
    Short { needed: u64, left: usize },
    #[error("reading arguments: {left} bytes too many")]
    TooLong { left: usize },
    #[error("reading arguments: an array of {len} bytes is not made of whole elements")]
    Ragged { len: usize },
    #[error("reading arguments: {value:#x} does not fit in 32 bits")]
    Wide { value: u64 },
    #[error("reading arguments: NULL where data is required")]
    Null,
    #[error("writing arguments: {needed} bytes wanted, {left} left")]
    Full { needed: usize, left: usize },
}

/// Reads slots from the front of some bytes. Never panics, whatever the bytes; allocates nothing.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which should be a private copy when they come from the guest.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses if there are fewer than `slots` more.
    #[inline]
    pub fn at_least(&self, slots: usize) -> Result<(), ArgsError> {
        let needed = slots * SLOT;
        if self.rest.len() < needed { Err(self.short(needed as u64)) } else { Ok(()) }
    }

    /// The next slot.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, ArgsError> {
        let (slot, rest) = self.rest.split_first_chunk::<SLOT>().ok_or(self.short(SLOT as u64))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*slot))
    }

    /// The next slot, which must fit in 32 bits.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, ArgsError> {
        let value = self.u64()?;
        u32::try_from(value).map_err(|_| ArgsError::Wide { value })
    }

    /// The next slot as a signed number ([`Writer::i32`] extends the sign).
    pub fn i32(&mut self) -> Result<i32, ArgsError> {
        let value = self.u64()?;
        i32::try_from(value.cast_signed()).map_err(|_| ArgsError::Wide { value })
    }

    /// Variable data; `None` for a NULL pointer. Padding is skipped unread.
    pub fn bytes(&mut self) -> Result<Option<&'a [u8]>, ArgsError> {
        let len = self.u64()?;
        if len == NULL {
            return Ok(None);
        }
        let short = self.short(len);
        let len = usize::try_from(len).map_err(|_| short)?;
        let padded = len.checked_next_multiple_of(SLOT).ok_or(short)?;
        let (data, rest) = self.rest.split_at_checked(padded).ok_or(short)?;
        self.rest = rest;
        data.get(..len).map(Some).ok_or(short)
    }

    /// Variable data that may not be NULL.
    pub fn required(&mut self) -> Result<&'a [u8], ArgsError> {
        self.bytes()?.ok_or(ArgsError::Null)
    }

    /// Variable data that is an array of 64-bit numbers; `None` for a NULL pointer.
    pub fn u64s(&mut self) -> Result<Option<Slots<'a>>, ArgsError> {
        match self.bytes()? {
            None => Ok(None),
            Some(data) => match data.as_chunks::<SLOT>() {
                (slots, []) => Ok(Some(Slots(slots.iter()))),
                _ => Err(ArgsError::Ragged { len: data.len() }),
            },
        }
    }

    /// Ends the reading: bytes that nobody asked for are an error.
    pub fn finish(self) -> Result<(), ArgsError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(ArgsError::TooLong { left }),
        }
    }

    fn short(&self, needed: u64) -> ArgsError {
        ArgsError::Short { needed, left: self.rest.len() }
    }
}

/// The numbers of an array, see [`Reader::u64s`].
#[derive(Debug, Clone)]
pub struct Slots<'a>(std::slice::Iter<'a, [u8; SLOT]>);

impl Iterator for Slots<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0.next().map(|slot| u64::from_le_bytes(*slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Slots<'_> {}

/// Writes slots into a buffer of fixed size. What does not fit is not written, and [`Writer::finish`] says so: callers need
/// not check each step.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    used: usize,
    error: Option<ArgsError>,
}

impl<'a> Writer<'a> {
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Writer { buffer, used: 0, error: None }
    }

    /// Bytes written.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes that still fit; 0 after an overflow.
    pub fn left(&self) -> usize {
        if self.error.is_some() { 0 } else { self.buffer.len() - self.used }
    }

    /// One slot.
    #[inline]
    pub fn u64(&mut self, value: u64) {
        if let Some(slot) = self.take(SLOT) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Several slots: all, or none.
    #[inline]
    pub fn slots<const N: usize>(&mut self, values: [u64; N]) {
        if let Some(space) = self.take(N * SLOT) {
            let (slots, _) = space.as_chunks_mut::<SLOT>();
            slots.iter_mut().zip(values).for_each(|(slot, value)| *slot = value.to_le_bytes());
        }
    }

    /// One slot, zero-extended.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.u64(u64::from(value));
    }

    /// One slot, sign-extended.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.u64(i64::from(value).cast_unsigned());
    }

    /// Variable data.
    pub fn bytes(&mut self, data: &[u8]) {
        if let Some(space) = self.reserve(data.len()) {
            space.copy_from_slice(data);
        }
    }

    /// Variable data, or NULL.
    pub fn option(&mut self, data: Option<&[u8]>) {
        match data {
            Some(data) => self.bytes(data),
            None => self.null(),
        }
    }

    /// Variable data that is a NULL pointer.
    pub fn null(&mut self) {
        self.u64(NULL);
    }

    /// Variable data that is an array of 64-bit numbers.
    pub fn u64s(&mut self, values: &[u64]) {
        if let Some(space) = self.reserve(values.len().saturating_mul(SLOT)) {
            for (slot, value) in space.chunks_exact_mut(SLOT).zip(values) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// Space for `len` bytes of variable data, for the caller to fill (its content is whatever was there before); `None` if it
    /// does not fit.
    pub fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        let space = self.take(bytes_len(len))?;
        let (slot, data) = space.split_at_mut(SLOT);
        slot.copy_from_slice(&(len as u64).to_le_bytes());
        let (data, padding) = data.split_at_mut(len);
        padding.fill(0);
        Some(data)
    }

    /// Bytes written in all, or the first overflow.
    pub fn finish(self) -> Result<usize, ArgsError> {
        match self.error {
            None => Ok(self.used),
            Some(error) => Err(error),
        }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&mut [u8]> {
        let left = self.left();
        if self.error.is_some() || len > left {
            self.error.get_or_insert(ArgsError::Full { needed: len, left });
            return None;
        }
        let start = self.used;
        self.used += len;
        self.buffer.get_mut(start..self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(buffer: &mut [u8]) -> usize {
        let mut writer = Writer::new(buffer);
        writer.slots([u64::MAX - 1, -7_i64 as u64]);
        writer.bytes(b"hello");
        writer.null();
        writer.u64s(&[3, 4]);
        writer.bytes(b"");
        writer.u32(9);
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = [0xaa; 128];
        let len = sample(&mut buffer);
        assert_eq!(len, 8 + 8 + bytes_len(5) + 8 + bytes_len(16) + bytes_len(0) + 8);
        let mut reader = Reader::new(&buffer[..len]);
        assert_eq!(reader.u64(), Ok(u64::MAX - 1));
        assert_eq!(reader.i32(), Ok(-7));
        assert_eq!(reader.bytes(), Ok(Some(&b"hello"[..])));
        assert_eq!(reader.bytes(), Ok(None));
        assert_eq!(reader.u64s().unwrap().unwrap().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(reader.bytes(), Ok(Some(&b""[..])));
        assert_eq!(reader.u32(), Ok(9));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn padding_is_written_as_zeros() {
        let mut buffer = [0xaa; 16];
        let mut writer = Writer::new(&mut buffer);
        writer.bytes(b"abc");
        assert_eq!(writer.finish(), Ok(16));
        assert_eq!(buffer, *b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0");
    }

    #[test]
    fn truncated_input_is_an_error_at_every_length() {
        let mut buffer = [0; 128];
        let len = sample(&mut buffer);
        let read = |bytes: &[u8]| -> Result<(), ArgsError> {
            let mut reader = Reader::new(bytes);
            reader.u64()?;
            reader.i32()?;
            reader.bytes()?;
            reader.bytes()?;
            reader.u64s()?;
            reader.bytes()?;
            reader.u32()?;
            reader.finish()
        };
        for short in 0..len {
            assert!(
                matches!(read(&buffer[..short]), Err(ArgsError::Short { .. })),
                "accepted {short} of {len}"
            );
        }
        assert_eq!(read(&buffer[..len]), Ok(()));
        assert_eq!(read(&buffer[..len + 1]), Err(ArgsError::TooLong { left: 1 }));
    }

    #[test]
    fn lengths_near_the_ends_of_the_number_range_are_refused() {
        for len in [9, u64::MAX - 1, u64::MAX - 7, u64::MAX - 8, 1 << 63] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0; 8]);
            assert_eq!(Reader::new(&bytes).bytes(), Err(ArgsError::Short { needed: len, left: 8 }), "{len}");
        }
        assert_eq!(bytes_len(usize::MAX), usize::MAX);
    }

    #[test]
    fn numbers_and_arrays_of_the_wrong_width_are_refused() {
        let wide = (1_u64 << 32).to_le_bytes();
        assert_eq!(Reader::new(&wide).u32(), Err(ArgsError::Wide { value: 1 << 32 }));
        assert_eq!(Reader::new(&wide).i32(), Err(ArgsError::Wide { value: 1 << 32 }));
        let mut buffer = [0; 16];
        Writer::new(&mut buffer).bytes(b"seven b");
        assert_eq!(Reader::new(&buffer).u64s().unwrap_err(), ArgsError::Ragged { len: 7 });
    }

    #[test]
    fn overflow_is_kept_and_nothing_is_written_after_it() {
        let mut buffer = [0; 16];
        let mut writer = Writer::new(&mut buffer);
        writer.u64(1);
        writer.bytes(b"x");
        writer.u64(2);
        assert_eq!(writer.finish(), Err(ArgsError::Full { needed: 16, left: 8 }));
        assert_eq!(buffer[8..], [0; 8]);
    }
}
