//! Fatbins: a header, then entries with a header and a payload each.
//!
//! Learnt from files that nvcc 13.0 makes. All numbers are little-endian; offsets in bytes.
//!
//! Header: 0 magic u32, 4 version u16, 6 length of the header u16, 8 length of all entries u64.
//! Entry: 0 kind u16 (1 PTX, 2 ELF), 4 length of its header u32, 8 length of the payload with padding u64,
//! 16 length of a compressed payload u32, 24 minor and 26 major version u16, 28 architecture u32 (90 for sm_90),
//! 40 flags u64 (0x2000 LZ4, 0x8000 zstd, 0x100000 for "a" and 0x200000 for "f" architectures),
//! 56 length before compression u64 (0: not compressed).

use super::bytes::Bytes;
use super::{ImageError, compress};

/// Bytes of the header.
pub const HEADER_BYTES: u64 = 16;
/// Bytes of an entry's header that are read.
const ENTRY_BYTES: u64 = 64;
/// The entry's kind for PTX.
const KIND_PTX: u16 = 1;
/// Runs on this architecture only.
const FLAG_ARCHITECTURE_SPECIFIC: u64 = 0x10_0000;
/// Runs on this family of architectures only.
const FLAG_FAMILY_SPECIFIC: u64 = 0x20_0000;
/// What the device is.
const ARCHITECTURE: u32 = 90;

/// The length of the fatbin with this header.
pub fn length(header: &[u8]) -> Result<u64, ImageError> {
    let bytes = Bytes::new(header, "the header of a fatbin");
    let length = u64::from(bytes.u16(6)?).checked_add(bytes.u64(8)?);
    length.ok_or(ImageError::Truncated { what: "a fatbin" })
}

#[derive(Debug)]
struct Entry<'a> {
    kind: u16,
    architecture: u32,
    flags: u64,
    unpacked: u64,
    payload: &'a [u8],
}

impl Entry<'_> {
    /// How well it fits the device; none if not at all.
    fn rank(&self) -> Option<(u32, bool)> {
        let is_specific = self.flags & (FLAG_ARCHITECTURE_SPECIFIC | FLAG_FAMILY_SPECIFIC) != 0;
        let fits =
            if is_specific { self.architecture == ARCHITECTURE } else { self.architecture <= ARCHITECTURE };
        (self.kind == KIND_PTX && fits).then_some((self.architecture, is_specific))
    }

    fn source(&self) -> Result<String, ImageError> {
        let mut text = match self.unpacked {
            0 => self.payload.to_vec(),
            unpacked => compress::unpack(self.payload, unpacked)?,
        };
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        text.truncate(end);
        super::as_ptx(text)
    }

    fn describe(&self) -> String {
        let kind = match self.kind {
            1 => "PTX",
            2 => "SASS",
            _ => "other code",
        };
        format!("{kind} for sm_{}", self.architecture)
    }
}

/// The PTX of the highest architecture that the device can run.
pub fn best_ptx(fatbin: &[u8]) -> Result<String, ImageError> {
    let entries = entries(fatbin)?;
    match entries.iter().filter(|entry| entry.rank().is_some()).max_by_key(|entry| entry.rank()) {
        Some(entry) => entry.source(),
        None => {
            let found: Vec<String> = entries.iter().map(Entry::describe).collect();
            Err(ImageError::NoPtx {
                found: if found.is_empty() { "nothing".into() } else { found.join(", ") },
            })
        }
    }
}

fn entries(fatbin: &[u8]) -> Result<Vec<Entry<'_>>, ImageError> {
    let bytes = Bytes::new(fatbin, "a fatbin");
    let all = bytes.at(u64::from(bytes.u16(6)?), bytes.u64(8)?)?;
    let mut entries = Vec::new();
    let mut rest = all;
    // Less than an entry's header is padding.
    while u64::try_from(rest.len()).is_ok_and(|length| length >= ENTRY_BYTES) {
        let (entry, behind) = split_entry(rest)?;
        entries.extend(entry);
        rest = behind;
    }
    Ok(entries)
}

/// The entry at the start of `rest`, none if it is only padding, and what comes behind it.
fn split_entry(rest: &[u8]) -> Result<(Option<Entry<'_>>, &[u8]), ImageError> {
    let truncated = ImageError::Truncated { what: "an entry of a fatbin" };
    let bytes = Bytes::new(rest, "an entry of a fatbin");
    let (kind, header, padded) = (bytes.u16(0)?, u64::from(bytes.u32(4)?), bytes.u64(8)?);
    if kind == 0 && header == 0 && padded == 0 {
        return Ok((None, &[]));
    }
    if header < ENTRY_BYTES {
        return Err(truncated);
    }
    let (packed, unpacked) = (u64::from(bytes.u32(16)?), bytes.u64(56)?);
    let payload = bytes.at(header, if unpacked != 0 && packed != 0 { packed } else { padded })?;
    let entry = Entry { kind, architecture: bytes.u32(28)?, flags: bytes.u64(40)?, unpacked, payload };
    let length = header.checked_add(padded).and_then(|length| usize::try_from(length).ok());
    let behind = length.and_then(|length| rest.get(length..)).ok_or(truncated)?;
    Ok((Some(entry), behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = ".version 8.0 .target sm_90";

    fn entry(kind: u16, architecture: u32, flags: u64, unpacked: u64, payload: &[u8]) -> Vec<u8> {
        let mut entry = vec![0u8; 64];
        entry[0..2].copy_from_slice(&kind.to_le_bytes());
        entry[4..8].copy_from_slice(&64u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        entry[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        entry[28..32].copy_from_slice(&architecture.to_le_bytes());
        entry[40..48].copy_from_slice(&flags.to_le_bytes());
        entry[56..64].copy_from_slice(&unpacked.to_le_bytes());
        entry.extend_from_slice(payload);
        entry
    }

    fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
        let body = entries.concat();
        let mut fatbin = 0xba55_ed50u32.to_le_bytes().to_vec();
        fatbin.extend_from_slice(&1u16.to_le_bytes());
        fatbin.extend_from_slice(&16u16.to_le_bytes());
        fatbin.extend_from_slice(&(body.len() as u64).to_le_bytes());
        fatbin.extend_from_slice(&body);
        fatbin
    }

    fn text(name: &str) -> Vec<u8> {
        format!("{SOURCE} // {name}").into_bytes()
    }

    #[test]
    fn the_highest_ptx_that_the_device_can_run_is_chosen() {
        let image = fatbin(&[
            entry(1, 75, 0, 0, &text("75")),
            entry(1, 100, 0, 0, &text("100")),
            entry(1, 90, 0, 0, &text("90")),
            entry(1, 80, 0, 0, &text("80")),
            entry(2, 90, 0, 0, b"\x7fELF"),
        ]);
        assert!(best_ptx(&image).unwrap().ends_with("// 90"));
    }

    #[test]
    fn ptx_for_one_architecture_only_is_preferred_on_it_and_skipped_elsewhere() {
        let image = fatbin(&[
            entry(1, 90, 0, 0, &text("90")),
            entry(1, 90, 0x10_0000, 0, &text("90a")),
            entry(1, 80, 0x10_0000, 0, &text("80a")),
        ]);
        assert!(best_ptx(&image).unwrap().ends_with("// 90a"));
        let image = fatbin(&[entry(1, 80, 0x10_0000, 0, &text("80a"))]);
        assert!(matches!(best_ptx(&image), Err(ImageError::NoPtx { .. })));
    }

    #[test]
    fn a_fatbin_of_machine_code_says_what_it_has() {
        let image = fatbin(&[entry(2, 90, 0, 0, b"\x7fELF")]);
        assert_eq!(best_ptx(&image), Err(ImageError::NoPtx { found: "SASS for sm_90".into() }));
    }

    #[test]
    fn an_entry_that_ends_beyond_the_image_is_refused() {
        let mut image = fatbin(&[entry(1, 90, 0, 0, &text("90"))]);
        image[16 + 8..16 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(best_ptx(&image), Err(ImageError::Truncated { .. })));
        image[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(best_ptx(&image), Err(ImageError::Truncated { .. })));
        assert!(length(&image).is_err());
    }

    #[test]
    fn no_prefix_of_a_fatbin_and_no_changed_byte_makes_the_reader_panic() {
        let image = fatbin(&[entry(1, 90, 0x2000, 300, &text("90")), entry(2, 90, 0, 0, b"\x7fELF")]);
        for end in 0..image.len() {
            let _ = best_ptx(&image[..end]);
        }
        for at in 0..image.len() {
            let mut changed = image.clone();
            changed[at] ^= 0xff;
            let _ = best_ptx(&changed);
        }
    }

    #[test]
    fn an_lz4_entry_is_unpacked() {
        let packed =
            [&[(SOURCE.len() as u8).min(15) << 4, (SOURCE.len() - 15) as u8], SOURCE.as_bytes()].concat();
        let image = fatbin(&[entry(1, 90, 0x2000, SOURCE.len() as u64, &packed)]);
        assert_eq!(best_ptx(&image).as_deref(), Ok(SOURCE));
    }
}
