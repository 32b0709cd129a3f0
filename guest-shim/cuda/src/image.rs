//! Module images: what a program's bare pointer leads to, how long it is, and its way to the worker.

use crate::{client, error};
use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader, ProgramHeader, SectionHeader},
};
use std::{ffi::CStr, slice};

const WRAPPER_MAGIC: u32 = 0x4662_43B1;
const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// Wrapper version whose second pointer is a list of images to link.
const WRAPPER_WITH_LIST: u32 = 2;

/// What nvcc puts around a fat binary.
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    data: *const u8,
    list: *const *const u8,
}

/// The bytes of the image at `image`.
///
/// # Safety
/// `image` is NULL or points to a whole image: a wrapper, a fat binary, an ELF file, or PTX text.
pub unsafe fn find<'a>(image: *const u8) -> error::Result<&'a [u8]> {
    if image.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: an image has at least its magic; PTX shorter than this is none, and a NUL ends the comparison below.
    let magic = unsafe { image.cast::<u32>().read_unaligned() };
    match magic {
        WRAPPER_MAGIC => {
            // SAFETY: the magic says that this is a wrapper.
            let wrapper = unsafe { image.cast::<Wrapper>().read_unaligned() };
            // SAFETY: version 2 has a NULL-terminated list or NULL.
            let linked = wrapper.version == WRAPPER_WITH_LIST
                && unsafe { wrapper.list.as_ref() }.is_some_and(|p| !p.is_null());
            if linked {
                vgpu_client::warn!(
                    "loading an image: a wrapper with a list of images to link is not supported yet"
                );
                return Err(error::NOT_SUPPORTED);
            }
            // SAFETY: a wrapper's data is a fat binary.
            unsafe { find(wrapper.data) }
        }
        FATBIN_MAGIC => {
            // SAFETY: the magic says what it is, and the caller that it is whole.
            Ok(unsafe { slice::from_raw_parts(image, fatbin_len(image)?) })
        }
        _ if magic.to_le_bytes() == *b"\x7fELF" => {
            // SAFETY: as above.
            Ok(unsafe { slice::from_raw_parts(image, elf_len(image)?) })
        }
        _ if is_text(magic.to_le_bytes()) => {
            // SAFETY: what is nothing else is text, which ends with a NUL.
            Ok(unsafe { CStr::from_ptr(image.cast()) }.to_bytes_with_nul())
        }
        _ => Err(error::INVALID_IMAGE),
    }
}

/// Whether PTX could begin so: printable characters and white space.
fn is_text(start: [u8; 4]) -> bool {
    start.iter().all(|&b| (b' '..0x7f).contains(&b) || matches!(b, b'\t' | b'\n' | b'\r'))
}

/// # Safety
/// `image` points to a fat binary.
unsafe fn fatbin_len(image: *const u8) -> error::Result<usize> {
    // SAFETY: the header's 16 bytes: header size at 6, size of the rest at 8.
    let (header, rest) =
        unsafe { (image.add(6).cast::<u16>().read_unaligned(), image.add(8).cast::<u64>().read_unaligned()) };
    usize::try_from(rest).ok().and_then(|r| r.checked_add(usize::from(header))).ok_or(error::INVALID_IMAGE)
}

/// The end of what lies furthest: header tables, sections with bits, segments.
///
/// # Safety
/// `image` points to an ELF file.
unsafe fn elf_len(image: *const u8) -> error::Result<usize> {
    let header_len = size_of::<FileHeader64<Endianness>>();
    // SAFETY: an ELF file has its header.
    let bytes = unsafe { slice::from_raw_parts(image, header_len) };
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(|_| error::INVALID_IMAGE)?;
    let e = header.endian().map_err(|_| error::INVALID_IMAGE)?;
    let table = |offset: u64, count: u16, size: u16| offset.checked_add(u64::from(count) * u64::from(size));
    let tables = table(header.e_shoff(e), header.e_shnum(e), header.e_shentsize(e))
        .max(table(header.e_phoff(e), header.e_phnum(e), header.e_phentsize(e)))
        .and_then(|end| usize::try_from(end).ok())
        .ok_or(error::INVALID_IMAGE)?
        .max(header_len);
    // SAFETY: the header says that its tables reach so far.
    let bytes = unsafe { slice::from_raw_parts(image, tables) };
    let mut end = tables as u64;
    for section in header.section_headers(e, bytes).map_err(|_| error::INVALID_IMAGE)? {
        if let Some((offset, size)) = section.file_range(e) {
            end = end.max(offset.saturating_add(size));
        }
    }
    for segment in header.program_headers(e, bytes).map_err(|_| error::INVALID_IMAGE)? {
        let (offset, size) = segment.file_range(e);
        end = end.max(offset.saturating_add(size));
    }
    usize::try_from(end).map_err(|_| error::INVALID_IMAGE)
}

/// PTX of at most `room` bytes, up to its NUL: the driver does not look at the size of one that has it.
///
/// # Safety
/// `text` is NULL or points to text that ends with a NUL or has `room` bytes.
pub unsafe fn text<'a>(text: *const u8, room: usize) -> error::Result<&'a [u8]> {
    if text.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the caller's promise: nothing is read behind the NUL or the room.
    unsafe {
        let len = libc::strnlen(text.cast(), room);
        Ok(slice::from_raw_parts(text, room.min(len + 1)))
    }
}

/// Puts `image` into a window for the length of `send`, which gets its address.
pub fn share<T>(image: &[u8], send: impl FnOnce(u64) -> error::Result<T>) -> error::Result<T> {
    let heap = &client::get()?.heap;
    let address = heap.alloc(image.len() as u64, 256).map_err(|e| error::heap(&e))?;
    let place = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: a fresh block of that length in a mapped window.
    unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), place, image.len()) };
    let result = send(address);
    heap.free(address);
    result
}

/// Gets `len` bytes from the worker: `ask` has them written to a block of a window, whose address it is given.
pub fn fetch(len: usize, ask: impl FnOnce(u64) -> error::Result) -> error::Result<Vec<u8>> {
    let heap = &client::get()?.heap;
    let address = heap.alloc(len as u64, 256).map_err(|e| error::heap(&e))?;
    let result = ask(address).map(|()| {
        let place = std::ptr::with_exposed_provenance::<u8>(address as usize);
        // SAFETY: a block of that length in a mapped window, which the worker has written.
        unsafe { slice::from_raw_parts(place, len) }.to_vec()
    });
    heap.free(address);
    result
}

/// Reads a file as it is.
pub fn read_exactly(path: &CStr) -> error::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    if path.is_empty() {
        return Err(error::INVALID_VALUE);
    }
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    std::fs::read(path).map_err(|e| {
        vgpu_client::info!("reading {}: {e}", path.display());
        error::FILE_NOT_FOUND
    })
}

/// Reads a file with an image; text gets its NUL.
pub fn read(path: &CStr) -> error::Result<Vec<u8>> {
    let mut bytes = read_exactly(path)?;
    // Also makes room for the magic of an empty file.
    bytes.extend_from_slice(&[0; 8]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_from_the_images_own_headers() {
        let mut fatbin = [0_u8; 40];
        fatbin[..4].copy_from_slice(&FATBIN_MAGIC.to_le_bytes());
        fatbin[6..8].copy_from_slice(&16_u16.to_le_bytes());
        fatbin[8..16].copy_from_slice(&20_u64.to_le_bytes());
        // SAFETY: a whole fat binary of 36 bytes.
        assert_eq!(unsafe { find(fatbin.as_ptr()) }.map(<[u8]>::len), Ok(36));
        let wrapper =
            Wrapper { magic: WRAPPER_MAGIC, version: 1, data: fatbin.as_ptr(), list: std::ptr::null() };
        // SAFETY: a whole wrapper.
        assert_eq!(unsafe { find((&raw const wrapper).cast()) }.map(<[u8]>::len), Ok(36));
        // SAFETY: NUL-terminated text.
        assert_eq!(unsafe { find(c".version 8.0".as_ptr().cast()) }.map(<[u8]>::len), Ok(13));
        // SAFETY: NUL-terminated text, and text that fills its room.
        let texts = unsafe { [text(c".version 8.0".as_ptr().cast(), usize::MAX), text(b"// x".as_ptr(), 4)] };
        assert_eq!(texts.map(|t| t.map(<[u8]>::len)), [Ok(13), Ok(4)]);
        let junk = [1_u8, 2, 3, 4, 5, 6, 7, 8];
        // SAFETY: nothing beyond the magic is read.
        assert_eq!(unsafe { find(junk.as_ptr()) }, Err(error::INVALID_IMAGE));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { find(std::ptr::null()) }, Err(error::INVALID_VALUE));
    }

    #[test]
    fn the_size_of_an_elf_file_is_its_files() {
        let path = std::env::current_exe().unwrap();
        let bytes = std::fs::read(path).unwrap();
        // SAFETY: a whole ELF file.
        let found = unsafe { find(bytes.as_ptr()) }.unwrap();
        assert!(
            found.len() <= bytes.len() && found.len() + 4096 > bytes.len(),
            "{} of {}",
            found.len(),
            bytes.len()
        );
    }
}
