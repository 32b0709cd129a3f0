//! Memory that calls are given: each piece at the start of 64 KiB that end at an inaccessible page, so that a driver that believes a
//! huge length crashes at once and the same way each time. Nothing is given back: processes are short.

use std::ptr;

/// Bytes of each piece.
pub const PIECE: usize = 64 << 10;

/// A piece of memory.
#[derive(Debug, Clone, Copy)]
pub struct Piece(pub u64);

impl Piece {
    /// All bytes `fill`.
    pub fn filled(fill: u8) -> Piece {
        // SAFETY: an anonymous mapping of new addresses.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PIECE + 4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(address != libc::MAP_FAILED, "out of memory");
        // SAFETY: both within the new mapping.
        unsafe {
            libc::mprotect(address.cast::<u8>().add(PIECE).cast(), 4096, libc::PROT_NONE);
            if fill != 0 {
                ptr::write_bytes(address.cast::<u8>(), fill, PIECE);
            }
        }
        Piece(address as u64)
    }

    /// Begins with `bytes`, the rest 0.
    pub fn with(bytes: &[u8]) -> Piece {
        let piece = Piece::filled(0);
        piece.write(0, bytes);
        piece
    }

    pub fn write(self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= PIECE);
        // SAFETY: within this mapping, which stays.
        unsafe {
            ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                ptr::with_exposed_provenance_mut::<u8>(self.0 as usize + at),
                bytes.len(),
            );
        }
    }

    pub fn read(self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= PIECE);
        let mut bytes = vec![0; len];
        // SAFETY: within this mapping, which stays.
        unsafe {
            ptr::copy_nonoverlapping(
                ptr::with_exposed_provenance::<u8>(self.0 as usize + at),
                bytes.as_mut_ptr(),
                len,
            );
        }
        bytes
    }

    pub fn word(self, at: usize) -> u64 {
        u64::from_ne_bytes(self.read(at, 8).try_into().unwrap_or_default())
    }
}

/// A structure's bytes, written field by field.
pub struct Fields(pub Vec<u8>);

impl Fields {
    pub fn new(len: usize) -> Fields {
        Fields(vec![0; len])
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Fields {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self
    }

    pub fn u32(self, at: usize, value: u32) -> Fields {
        self.put(at, &value.to_ne_bytes())
    }

    pub fn u64(self, at: usize, value: u64) -> Fields {
        self.put(at, &value.to_ne_bytes())
    }

    pub fn bytes(self, at: usize, bytes: &[u8]) -> Fields {
        self.put(at, bytes)
    }
}
