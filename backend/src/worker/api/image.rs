//! Module images from the guest: a private copy whose own lengths fit it, so that the driver's parser, which is told no length,
//! stays within it.

use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, elf::FileHeader64};
use std::ffi::c_void;
use std::ptr::null;
use vgpu_spec::wire::{Range, image as wire};

/// Magic of a bare fat binary.
const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// Magic of the wrapper in which nvcc puts a pointer to one.
const WRAPPER_MAGIC: u32 = 0x4662_43B1;
/// What device code calls to print (CUDA C++ Programming Guide, formatted output).
const PRINTS: &[u8] = b"vprintf";
/// The largest image that is taken.
const MAX_LEN: usize = 4 << 30;

/// Why an image is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    #[error("loading an image: {0} bytes are more than the limit")]
    TooLarge(usize),
    #[error("loading an image: its first bytes {0:02x?} are no fat binary, ELF or PTX")]
    Unknown(Vec<u8>),
    #[error("loading an image: {what} reaches to {end}, beyond its {len} bytes")]
    Truncated { what: &'static str, end: u64, len: usize },
    #[error("loading an image: its ELF headers are malformed: {0}")]
    Elf(String),
    #[error(transparent)]
    Linked(#[from] wire::LinkedError),
}

/// What a checked image is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// ELF or PTX.
    Plain,
    Fatbin,
    /// A linked fat binary, then those that it was linked from: where each starts.
    Linked(Vec<usize>),
}

/// A checked image.
pub struct Image {
    bytes: Vec<u8>,
    form: Form,
}

impl Image {
    /// Copies `len` bytes at `address`, which the caller has found to lie in a window, and checks them.
    pub fn copy(address: u64, len: usize) -> Result<Self, ImageError> {
        if len > MAX_LEN {
            return Err(ImageError::TooLarge(len));
        }
        let mut bytes = Vec::with_capacity(len + 8);
        // SAFETY: the range lies in a mapped window. The guest may write it meanwhile: whatever is read is read once, here.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        Self::check(bytes)
    }

    /// Copies `len` bytes at `address`, which the caller has found to lie in a window, for a parser that is told the length.
    pub fn copy_unchecked(address: u64, len: usize) -> Self {
        let mut bytes = vec![0; len + 8];
        // SAFETY: the range lies in a mapped window; what is read is read once, here. There is room for it.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), len) };
        Image { bytes, form: Form::Plain }
    }

    /// Checks a private copy.
    pub fn check(mut bytes: Vec<u8>) -> Result<Self, ImageError> {
        let form = if wire::is_linked(&bytes) {
            Form::Linked(check_linked(&bytes)?)
        } else if is_fatbin(&bytes) {
            check_fatbin(&bytes)?;
            Form::Fatbin
        } else {
            check_plain(&bytes)?;
            Form::Plain
        };
        // PTX ends with a NUL; the others do not mind.
        bytes.resize(bytes.len() + 8, 0);
        Ok(Image { bytes, form })
    }

    /// Whether no kernel of it can print: what a kernel prints with is a function of the driver's, which PTX and ELF name. A fat binary
    /// is compressed as a rule, so nothing is known of one.
    pub fn is_silent(&self) -> bool {
        self.form == Form::Plain && memchr::memmem::find(&self.bytes, PRINTS).is_none()
    }

    /// Whether it has several fat binaries, so that the driver must be given a wrapper.
    pub fn is_linked(&self) -> bool {
        matches!(self.form, Form::Linked(_))
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn is_fatbin(bytes: &[u8]) -> bool {
    word(bytes, 0) == Some(FATBIN_MAGIC)
}

/// Checks each fat binary within its own part, and returns where they start.
fn check_linked(bytes: &[u8]) -> Result<Vec<usize>, ImageError> {
    let outside = |part: Range| wire::LinkedError::Part { base: part.base, len: part.len };
    let mut starts = Vec::new();
    for part in wire::parts(bytes)? {
        let start = usize::try_from(part.base).map_err(|_| outside(part))?;
        let end = part.end().and_then(|end| usize::try_from(end).ok());
        let fatbin = end.and_then(|end| bytes.get(start..end)).ok_or(outside(part))?;
        if !is_fatbin(fatbin) {
            return Err(unknown(fatbin));
        }
        check_fatbin(fatbin)?;
        starts.push(start);
    }
    Ok(starts)
}

fn check_plain(bytes: &[u8]) -> Result<(), ImageError> {
    if bytes.starts_with(b"\x7fELF") {
        return check_elf(bytes);
    }
    if is_text(bytes) { Ok(()) } else { Err(unknown(bytes)) }
}

fn unknown(bytes: &[u8]) -> ImageError {
    ImageError::Unknown(bytes.iter().take(8).copied().collect())
}

fn within(what: &'static str, start: u64, size: u64, len: usize) -> Result<u64, ImageError> {
    match start.checked_add(size) {
        Some(end) if end <= len as u64 => Ok(end),
        end => Err(ImageError::Truncated { what, end: end.unwrap_or(u64::MAX), len }),
    }
}

/// Header: magic u32, version u16, header size u16, size of the rest u64. Entries: kind u16, version u16, header size u32, payload
/// size u64, and more that does not say lengths.
fn check_fatbin(bytes: &[u8]) -> Result<(), ImageError> {
    let short = |end| ImageError::Truncated { what: "the fat binary's header", end, len: bytes.len() };
    let header = u64::from(word(bytes, 4).ok_or(short(16))? >> 16);
    let size = long(bytes, 8).ok_or(short(16))?;
    let end = within("the fat binary", header, size, bytes.len())?;
    let mut at = header;
    while at < end {
        let start = usize::try_from(at).map_err(|_| short(at))?;
        let header = word(bytes, start + 4).ok_or(short(at + 16))?;
        let payload = long(bytes, start + 8).ok_or(short(at + 16))?;
        let next = within("a fat binary's entry", at, u64::from(header), bytes.len())?;
        let next = within("a fat binary's entry", next, payload, bytes.len())?;
        if next <= at {
            return Err(short(at));
        }
        at = next;
    }
    Ok(())
}

fn check_elf(bytes: &[u8]) -> Result<(), ImageError> {
    let elf = |e: object::read::Error| ImageError::Elf(e.to_string());
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(elf)?;
    let endian = header.endian().map_err(elf)?;
    for section in header.section_headers(endian, bytes).map_err(elf)? {
        section.data(endian, bytes).map_err(elf)?;
    }
    for segment in header.program_headers(endian, bytes).map_err(elf)? {
        segment.data(endian, bytes).map_err(|()| ImageError::Elf("a segment lies outside".into()))?;
    }
    Ok(())
}

/// PTX is text up to its NUL, and has a `.version` directive.
fn is_text(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let text = &bytes[..end];
    text.iter().all(|&b| b >= b' ' || matches!(b, b'\t' | b'\n' | b'\r'))
        && text.windows(8).any(|w| w == b".version")
}

/// `__fatBinC_Wrapper_t` (fatbinary_section.h).
#[repr(C)]
struct Header {
    magic: u32,
    version: u32,
    data: *const u8,
    /// Version 1: unused. Version 2: the fat binaries that `data` was linked from, then NULL.
    list: *const *const u8,
}

/// The wrapper that the driver wants around a fat binary.
pub struct Wrapper {
    // In boxes: what points to them stays right when this moves.
    header: Box<Header>,
    _list: Box<[*const u8]>,
}

// SAFETY: what it points to is its own, or an image's bytes, which nobody writes.
unsafe impl Send for Wrapper {}

impl Wrapper {
    /// A wrapper if `image` is a bare fat binary, or several; it points into `image`.
    pub fn around(image: &Image) -> Option<Self> {
        let at = |start: &usize| image.as_ptr().wrapping_add(*start);
        let list: Box<[*const u8]> = match &image.form {
            Form::Plain => return None,
            Form::Fatbin => Box::default(),
            Form::Linked(starts) => starts.iter().skip(1).map(at).chain([null()]).collect(),
        };
        let (version, data, place) = match &image.form {
            Form::Linked(starts) => (2, starts.first().map_or(null(), at), list.as_ptr()),
            _ => (1, image.as_ptr(), null()),
        };
        let header = Box::new(Header { magic: WRAPPER_MAGIC, version, data, list: place });
        Some(Wrapper { header, _list: list })
    }

    pub fn as_ptr(&self) -> *mut c_void {
        (&raw const *self.header).cast_mut().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatbin(claimed: u64, payload: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&FATBIN_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&1_u16.to_le_bytes());
        bytes.extend_from_slice(&16_u16.to_le_bytes());
        bytes.extend_from_slice(&claimed.to_le_bytes());
        bytes.extend_from_slice(&0x0101_0002_u32.to_le_bytes());
        bytes.extend_from_slice(&64_u32.to_le_bytes());
        bytes.extend_from_slice(&payload.to_le_bytes());
        bytes.resize(16 + 64 + 32, 0);
        bytes
    }

    #[test]
    fn a_fat_binary_that_lies_about_its_size_is_refused() {
        assert!(Image::check(fatbin(96, 32)).is_ok());
        for (claimed, payload) in [(97, 32), (u64::MAX, 32), (96, 33), (96, u64::MAX), (96, u64::MAX - 79)] {
            let result = Image::check(fatbin(claimed, payload)).err();
            assert!(matches!(result, Some(ImageError::Truncated { .. })), "{claimed} {payload}: {result:?}");
        }
    }

    #[test]
    fn unknown_formats_are_refused() {
        for bytes in [vec![], vec![1, 2, 3], b"hello".to_vec(), WRAPPER_MAGIC.to_le_bytes().to_vec()] {
            assert!(matches!(Image::check(bytes).err(), Some(ImageError::Unknown(_))));
        }
        assert!(matches!(Image::check(b"\x7fELFxxxxxxxx".to_vec()).err(), Some(ImageError::Elf(_))));
        assert!(Image::check(b"// x\n.version 8.0\n.target sm_70\n".to_vec()).is_ok());
    }

    #[test]
    fn images_that_may_print_are_told_from_those_that_cannot() {
        let silent = |bytes: &[u8]| Image::check(bytes.to_vec()).unwrap().is_silent();
        assert!(silent(b".version 8.0\n.visible .entry k(){ret;}"));
        assert!(!silent(b".version 8.0\n.extern .func (.param .b32 r) vprintf(.param .b64 f);"));
        assert!(!silent(&fatbin(96, 32)));
    }

    #[test]
    fn each_fat_binary_of_a_linked_image_is_checked_within_its_part() {
        let (good, lying) = (fatbin(96, 32), fatbin(97, 32));
        let linked = |parts: &[&[u8]]| {
            let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
            let (mut bytes, places) = wire::layout(&lengths).unwrap();
            for (part, place) in parts.iter().zip(places) {
                bytes.resize(place.base as usize, 0);
                bytes.extend_from_slice(part);
            }
            bytes
        };
        let image = Image::check(linked(&[&good, &good, &good])).unwrap();
        assert!(image.is_linked());
        let wrapper = Wrapper::around(&image).unwrap();
        // SAFETY: the wrapper and its list of two and a NULL live.
        let (header, list) = unsafe {
            let header = wrapper.as_ptr().cast::<Header>().read();
            (wrapper.as_ptr().cast::<Header>().read(), std::slice::from_raw_parts(header.list, 3))
        };
        assert_eq!((header.magic, header.version), (WRAPPER_MAGIC, 2));
        let starts = [64, 176, 288].map(|start| image.as_ptr().wrapping_add(start));
        assert_eq!((header.data, list), (starts[0], &[starts[1], starts[2], null()][..]));

        for parts in [[&good[..], &lying], [&lying, &good]] {
            assert!(matches!(Image::check(linked(&parts)).err(), Some(ImageError::Truncated { .. })));
        }
        for part in [&b"\x7fELFxxxxxxxx"[..], b".version 8.0", b""] {
            assert!(matches!(Image::check(linked(&[&good, part])).err(), Some(ImageError::Unknown(_))));
        }
        let mut cut = linked(&[&good, &good]);
        cut.pop();
        assert!(matches!(Image::check(cut).err(), Some(ImageError::Linked(_))));
        let plain = Image::check(good).unwrap();
        assert!(!plain.is_linked() && Wrapper::around(&plain).is_some());
    }
}
