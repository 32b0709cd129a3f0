//! Images: from what a program hands to `cuModuleLoadData` or `cuLibraryLoadData` to PTX text.
//!
//! The program gives a pointer without a length, so lengths come from the image itself. Each is checked against the
//! image around it, and the whole against what the process has mapped.

mod bytes;
mod compress;
mod fatbin;

use std::ffi::CStr;

use crate::model::CudaError;
use crate::model::allocation::is_mapped;
use crate::model::link::Parts;
use bytes::Bytes;

/// First word of a fatbin.
const FATBIN: u32 = 0xba55_ed50;
/// First word of the wrapper that nvcc puts around fatbins in host code.
const WRAPPER: u32 = 0x4662_43b1;
/// First word of an ELF file.
const ELF: u32 = 0x464c_457f;
/// Bytes of a wrapper: magic, version, a pointer to the data and one to a name or a list.
const WRAPPER_BYTES: u64 = 24;
/// The newest PTX that is understood, as in "9.0".
const NEWEST_PTX: (u32, u32) = (9, 0);
/// Fatbins at most in the list of a wrapper.
const MAX_LISTED: u64 = 4096;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It is nothing that is known.
    #[error("reading an image: neither PTX nor a fatbin nor an ELF file")]
    Unknown,
    /// It claims a size that it does not have.
    #[error("reading an image: {what} ends beyond the image")]
    Truncated {
        /// The part that ends too late.
        what: &'static str,
    },
    /// It has no PTX for this device.
    #[error(
        "reading an image: no PTX for compute capability 9.0 or lower, and softgpu cannot run SASS (found {found})"
    )]
    NoPtx {
        /// What it has instead.
        found: String,
    },
    /// An entry does not decompress.
    #[error("reading an image: decompressing an entry of {claimed} bytes: {reason}")]
    Compressed {
        /// Bytes that the entry claims to have.
        claimed: u64,
        /// What the decompressor said.
        reason: String,
    },
    /// The fatbins in its list do not link.
    #[error("linking an image: {0}")]
    Link(String),
    /// Its PTX is newer than 9.0.
    #[error("reading an image: PTX version {major}.{minor} is newer than 9.0")]
    TooNew {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
}

impl From<&ImageError> for CudaError {
    fn from(error: &ImageError) -> CudaError {
        match error {
            ImageError::NoPtx { .. } => CudaError::NoBinaryForGpu,
            ImageError::TooNew { .. } => CudaError::UnsupportedPtxVersion,
            ImageError::Unknown
            | ImageError::Truncated { .. }
            | ImageError::Compressed { .. }
            | ImageError::Link(_) => CudaError::InvalidImage,
        }
    }
}

/// The PTX of the image at `address`.
///
/// # Safety
/// `address` must be that of a whole image: PTX text that ends in NUL, a fatbin, a wrapper, or an ELF file.
pub unsafe fn ptx_at(address: u64) -> Result<String, ImageError> {
    // SAFETY: the caller answers for an image at `address`, and every image has four bytes or ends before.
    let source = match unsafe { magic(address) } {
        Some(FATBIN) => {
            // SAFETY: as above; the fatbin's own length says how far it goes.
            fatbin::best_ptx(&unsafe { fatbin_at(address) }?)?
        }
        // SAFETY: as above.
        Some(WRAPPER) => unsafe { wrapped(address) }?,
        Some(ELF) => return Err(ImageError::NoPtx { found: "an ELF file".into() }),
        // SAFETY: as above: what is none of these is text that ends in NUL.
        _ => unsafe { text_at(address) }?,
    };
    check_version(&source)?;
    Ok(source)
}

/// The PTX in a file's contents.
pub fn ptx_in(mut contents: Vec<u8>) -> Result<String, ImageError> {
    let magic = contents.first_chunk().copied().map(u32::from_le_bytes);
    let source = match magic {
        Some(FATBIN) => fatbin::best_ptx(&contents)?,
        Some(ELF) => return Err(ImageError::NoPtx { found: "an ELF file".into() }),
        Some(WRAPPER) => return Err(ImageError::Unknown),
        _ => {
            let end = contents.iter().position(|byte| *byte == 0).unwrap_or(contents.len());
            contents.truncate(end);
            as_ptx(contents)?
        }
    };
    check_version(&source)?;
    Ok(source)
}

/// # Safety
/// As for [`ptx_at`].
unsafe fn magic(address: u64) -> Option<u32> {
    let mut word = [0u8; 4];
    for (offset, byte) in (0..).zip(&mut word) {
        // SAFETY: a text ends at its NUL, which is looked for before going on; other images are longer.
        *byte = unsafe { pointer(address + offset).read() };
        if *byte == 0 {
            return None;
        }
    }
    Some(u32::from_le_bytes(word))
}

/// # Safety
/// As for [`ptx_at`], for a fatbin.
unsafe fn fatbin_at(address: u64) -> Result<Vec<u8>, ImageError> {
    // SAFETY: the caller answers for a fatbin, which has a header.
    let header = unsafe { copy_of(address, fatbin::HEADER_BYTES, "the header of a fatbin") }?;
    let length = fatbin::length(&header)?;
    // SAFETY: the caller answers for as many bytes as the header says.
    unsafe { copy_of(address, length, "a fatbin") }
}

/// # Safety
/// As for [`ptx_at`], for a wrapper.
unsafe fn wrapped(address: u64) -> Result<String, ImageError> {
    // SAFETY: the caller answers for a wrapper.
    let wrapper = unsafe { copy_of(address, WRAPPER_BYTES, "a wrapper") }?;
    let wrapper = Bytes::new(&wrapper, "a wrapper");
    let (version, data, list) = (wrapper.u32(4)?, wrapper.u64(8)?, wrapper.u64(16)?);
    // SAFETY: the wrapper's pointers are the caller's.
    let first = unsafe { fatbin_behind(data) };
    if version < 2 || first.is_ok() || list == 0 {
        return first;
    }
    // As the driver does where the linked fatbin has nothing for the device: it links those in the list.
    let mut parts = Parts::default();
    for index in 0..MAX_LISTED {
        // SAFETY: as above; the list ends in NULL.
        let pointer = unsafe { copy_of(list + index * 8, 8, "the list of a wrapper") }?;
        let fatbin = Bytes::new(&pointer, "the list of a wrapper").u64(0)?;
        if fatbin == 0 {
            break;
        }
        // SAFETY: as above.
        let source = unsafe { fatbin_behind(fatbin) }?;
        check_version(&source)?;
        let name = format!("fatbin {index} of the list");
        parts.add(source, &name).map_err(|(_, text)| ImageError::Link(text))?;
    }
    let linked = parts.complete().map_err(ImageError::Link)?;
    Ok(linked.to_string_lossy().into_owned())
}

/// # Safety
/// `address` must be 0 or that of an image.
unsafe fn fatbin_behind(address: u64) -> Result<String, ImageError> {
    // SAFETY: the caller answers for the image.
    match if address == 0 { None } else { unsafe { magic(address) } } {
        // SAFETY: as above.
        Some(FATBIN) => fatbin::best_ptx(&unsafe { fatbin_at(address) }?),
        Some(ELF) => Err(ImageError::NoPtx { found: "an ELF file".into() }),
        _ => Err(ImageError::Unknown),
    }
}

/// # Safety
/// `length` bytes at `address` must not be written meanwhile; that they are there is checked.
unsafe fn copy_of(address: u64, length: u64, what: &'static str) -> Result<Vec<u8>, ImageError> {
    if address == 0 || !is_mapped(address, length) {
        return Err(ImageError::Truncated { what });
    }
    let length = usize::try_from(length).map_err(|_| ImageError::Truncated { what })?;
    // SAFETY: the range is mapped, and the caller answers that nobody writes to it.
    Ok(unsafe { std::slice::from_raw_parts(pointer(address), length) }.to_vec())
}

/// # Safety
/// `address` must be that of a text that ends in NUL.
unsafe fn text_at(address: u64) -> Result<String, ImageError> {
    // SAFETY: the caller answers for the text.
    as_ptx(unsafe { CStr::from_ptr(pointer(address).cast()) }.to_bytes().to_vec())
}

fn as_ptx(text: Vec<u8>) -> Result<String, ImageError> {
    let text = String::from_utf8(text).map_err(|_| ImageError::Unknown)?;
    if text.contains(".version") { Ok(text) } else { Err(ImageError::Unknown) }
}

/// Refuses what says that it is newer than 9.0; everything else about the version is the parser's.
fn check_version(source: &str) -> Result<(), ImageError> {
    let version = source.split(".version").nth(1).and_then(|rest| rest.split_whitespace().next());
    let parts = version.and_then(|version| version.split_once('.'));
    let numbers = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match numbers {
        Some((major, minor)) if (major, minor) > NEWEST_PTX => Err(ImageError::TooNew { major, minor }),
        _ => Ok(()),
    }
}

fn pointer(address: u64) -> *const u8 {
    std::ptr::with_exposed_provenance(usize::try_from(address).unwrap_or(0))
}
