//! Compressed fatbin entries: zstd, as nvcc 13 makes them by default, and LZ4, as older ones do.

use std::io::Read;

use super::ImageError;

/// First word of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The most that an LZ4 block can grow: 255 bytes out of one.
const LZ4_GROWTH: u64 = 255;
/// The largest PTX that is taken out of an entry.
const MAX_BYTES: u64 = 1 << 30;

/// The `claimed` bytes that `packed` holds.
pub fn unpack(packed: &[u8], claimed: u64) -> Result<Vec<u8>, ImageError> {
    let fail = |reason: String| ImageError::Compressed { claimed, reason };
    if claimed > MAX_BYTES {
        return Err(fail(format!("more than {MAX_BYTES} bytes")));
    }
    let unpacked = if packed.starts_with(&ZSTD) { zstd(packed, claimed) } else { lz4(packed, claimed) };
    let unpacked = unpacked.map_err(fail)?;
    if u64::try_from(unpacked.len()) != Ok(claimed) {
        return Err(fail(format!("{} bytes came out", unpacked.len())));
    }
    Ok(unpacked)
}

fn zstd(packed: &[u8], claimed: u64) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| error.to_string())?;
    let mut unpacked = Vec::new();
    decoder.take(claimed + 1).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked)
}

fn lz4(packed: &[u8], claimed: u64) -> Result<Vec<u8>, String> {
    let possible = u64::try_from(packed.len()).unwrap_or(0).saturating_mul(LZ4_GROWTH).saturating_add(64);
    if claimed > possible {
        return Err(format!("{} bytes cannot hold them", packed.len()));
    }
    let claimed = usize::try_from(claimed).map_err(|error| error.to_string())?;
    lz4_flex::block::decompress(packed, claimed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_about_the_size_is_refused_before_anything_is_allocated() {
        assert!(unpack(&[0x10, b'a'], 1 << 29).is_err());
        assert!(unpack(&[0x10, b'a'], u64::MAX).is_err());
    }

    #[test]
    fn a_block_of_another_size_than_claimed_is_refused() {
        // One token: a literal of one byte.
        assert_eq!(unpack(&[0x10, b'a'], 1), Ok(b"a".to_vec()));
        assert!(unpack(&[0x10, b'a'], 2).is_err());
    }

    #[test]
    fn a_broken_frame_is_refused() {
        assert!(unpack(&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3], 10).is_err());
    }
}
