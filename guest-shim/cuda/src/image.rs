//! Module images: what a program's bare pointer leads to, how long it is, and its way to the worker.

use crate::{client, error};
use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader, ProgramHeader, SectionHeader},
};
use std::{ffi::CStr, slice};
use vgpu_spec::wire::image as wire;

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

/// An image as it goes to the worker: its bytes, or several fat binaries behind a head that says where they lie.
#[derive(Debug, PartialEq, Eq)]
pub struct Image<'a> {
    head: Vec<u8>,
    /// What lies where.
    parts: Vec<(u64, &'a [u8])>,
}

impl<'a> Image<'a> {
    /// An image that is whole in itself.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Image { head: Vec::new(), parts: vec![(0, bytes)] }
    }

    /// A linked fat binary, then those that it was linked from.
    fn linked(fatbins: Vec<&'a [u8]>) -> error::Result<Self> {
        let lengths: Vec<u64> = fatbins.iter().map(|part| part.len() as u64).collect();
        let (head, places) = wire::layout(&lengths).map_err(|e| {
            vgpu_client::warn!("{e}");
            error::NOT_SUPPORTED
        })?;
        Ok(Image { head, parts: places.iter().map(|place| place.base).zip(fatbins).collect() })
    }

    /// Bytes in a window.
    fn len(&self) -> u64 {
        self.parts.iter().map(|(at, part)| at + part.len() as u64).max().unwrap_or(0)
    }

    /// Puts the image into a window for the length of `send`, which gets its address and length.
    pub fn share<T>(&self, send: impl FnOnce(u64, usize) -> error::Result<T>) -> error::Result<T> {
        let heap = &client::get()?.heap;
        let len = self.len();
        let address = heap.alloc(len, 256).map_err(|e| error::heap(&e))?;
        for (at, bytes) in std::iter::once((0, &self.head[..])).chain(self.parts.iter().copied()) {
            let place = std::ptr::with_exposed_provenance_mut::<u8>((address + at) as usize);
            // SAFETY: within a fresh block in a mapped window, which is as long as the image.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        }
        let result = send(address, len as usize);
        heap.free(address);
        result
    }
}

/// The image at `image`.
///
/// # Safety
/// `image` is NULL or points to a whole image: a wrapper, a fat binary, an ELF file, or PTX text.
pub unsafe fn find<'a>(image: *const u8) -> error::Result<Image<'a>> {
    // SAFETY: the caller's promise; an image has at least its magic.
    let is_wrapper = !image.is_null() && unsafe { image.cast::<u32>().read_unaligned() } == WRAPPER_MAGIC;
    if !is_wrapper {
        // SAFETY: the caller's promise.
        return unsafe { bytes_at(image) }.map(Image::whole);
    }
    // SAFETY: the magic says that this is a wrapper, whose data is an image.
    let (wrapper, data) = unsafe {
        let wrapper = image.cast::<Wrapper>().read_unaligned();
        let data = bytes_at(wrapper.data)?;
        (wrapper, data)
    };
    if wrapper.version != WRAPPER_WITH_LIST {
        return Ok(Image::whole(data));
    }
    // SAFETY: the version says that there is a list.
    let listed = unsafe { listed(wrapper.list) }?;
    if listed.is_empty() {
        return Ok(Image::whole(data));
    }
    Image::linked(std::iter::once(data).chain(listed).collect())
}

/// The fat binaries in the list of a wrapper.
///
/// # Safety
/// `list` is NULL or a list of fat binaries that ends with NULL.
unsafe fn listed<'a>(list: *const *const u8) -> error::Result<Vec<&'a [u8]>> {
    let mut fatbins = Vec::new();
    if list.is_null() {
        return Ok(fatbins);
    }
    // Beyond the most that go to the worker, one more tells that there are too many.
    for index in 0..=wire::MAX_PARTS {
        // SAFETY: no place behind the list's end has been reached.
        let fatbin = unsafe { list.add(index).read_unaligned() };
        if fatbin.is_null() {
            break;
        }
        // SAFETY: the list has whole fat binaries.
        fatbins.push(unsafe { bytes_at(fatbin) }?);
    }
    Ok(fatbins)
}

/// The bytes of an image that is no wrapper.
///
/// # Safety
/// As of [`find`].
unsafe fn bytes_at<'a>(image: *const u8) -> error::Result<&'a [u8]> {
    if image.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: an image has at least its magic; PTX shorter than this is none, and a NUL ends the comparison below.
    let magic = unsafe { image.cast::<u32>().read_unaligned() };
    match magic {
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

    fn fatbin(len: u8) -> Vec<u8> {
        let mut fatbin = vec![len; 40];
        fatbin[..4].copy_from_slice(&FATBIN_MAGIC.to_le_bytes());
        fatbin[6..8].copy_from_slice(&16_u16.to_le_bytes());
        fatbin[8..16].copy_from_slice(&u64::from(len).to_le_bytes());
        fatbin
    }

    fn len(image: *const u8) -> error::Result<u64> {
        // SAFETY: the tests give whole images, or junk of which only the magic is read.
        unsafe { find(image) }.map(|image| image.len())
    }

    #[test]
    fn sizes_come_from_the_images_own_headers() {
        let fatbin = fatbin(20);
        assert_eq!(len(fatbin.as_ptr()), Ok(36));
        let wrapper =
            Wrapper { magic: WRAPPER_MAGIC, version: 1, data: fatbin.as_ptr(), list: std::ptr::null() };
        assert_eq!(len((&raw const wrapper).cast()), Ok(36));
        assert_eq!(len(c".version 8.0".as_ptr().cast()), Ok(13));
        // SAFETY: NUL-terminated text, and text that fills its room.
        let texts = unsafe { [text(c".version 8.0".as_ptr().cast(), usize::MAX), text(b"// x".as_ptr(), 4)] };
        assert_eq!(texts.map(|t| t.map(<[u8]>::len)), [Ok(13), Ok(4)]);
        let junk = [1_u8, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(len(junk.as_ptr()), Err(error::INVALID_IMAGE));
        assert_eq!(len(std::ptr::null()), Err(error::INVALID_VALUE));
    }

    #[test]
    fn a_linked_image_brings_what_it_was_linked_from() {
        let [linked, first, second] = [fatbin(1), fatbin(2), fatbin(24)];
        let list = [first.as_ptr(), second.as_ptr(), std::ptr::null()];
        let wrapper =
            Wrapper { magic: WRAPPER_MAGIC, version: 2, data: linked.as_ptr(), list: list.as_ptr() };
        let address = (&raw const wrapper).cast();
        // SAFETY: a whole wrapper.
        let image = unsafe { find(address) }.unwrap();
        let places = wire::layout(&[17, 18, 40]).unwrap().1;
        assert_eq!(image.parts, [(64, &linked[..17]), (88, &first[..18]), (112, &second[..40])]);
        assert_eq!(
            image.parts.iter().map(|part| part.0).collect::<Vec<_>>(),
            places.iter().map(|p| p.base).collect::<Vec<_>>()
        );
        assert_eq!(image.len(), 152);
        for list in [std::ptr::null(), list[2..].as_ptr()] {
            let wrapper = Wrapper { magic: WRAPPER_MAGIC, version: 2, data: linked.as_ptr(), list };
            assert_eq!(len((&raw const wrapper).cast()), Ok(17), "nothing to link");
        }
        let bad = [first.as_ptr(), [1_u8; 16].as_ptr(), std::ptr::null()];
        let wrapper = Wrapper { magic: WRAPPER_MAGIC, version: 2, data: linked.as_ptr(), list: bad.as_ptr() };
        assert_eq!(len((&raw const wrapper).cast()), Err(error::INVALID_IMAGE));
    }

    #[test]
    fn the_size_of_an_elf_file_is_its_files() {
        let path = std::env::current_exe().unwrap();
        let bytes = std::fs::read(path).unwrap();
        let found = usize::try_from(len(bytes.as_ptr()).unwrap()).unwrap();
        assert!(found <= bytes.len() && found + 4096 > bytes.len(), "{found} of {}", bytes.len());
    }
}
