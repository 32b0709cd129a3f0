//! Functions and kernels: name and parameter layout are kept from the look-up, so that a launch asks nothing.
//!
//! Words in the handle table: address of the [`Info`], and the module (function), the kernel (function of a kernel) or the library
//! (kernel).

use crate::{call::put, calls, error, handles};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_void},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use vgpu_spec::handle::Kind;

/// What is known of a function or kernel. Never freed: a launch reads it without a lock, and there are few.
pub struct Info {
    pub name: CString,
    /// Offset and size of each parameter, in bytes.
    pub layout: Vec<(u32, u32)>,
    /// Bytes of all parameters together.
    pub size: usize,
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as the program set it; 0 if it did not.
    dynamic_shared: AtomicU32,
}

/// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
const MAX_DYNAMIC_SHARED: u32 = 8;

impl Info {
    /// Takes a layout as the worker sends it: offset and size, u32 each.
    pub fn new(name: &CStr, bytes: &[u8]) -> &'static Self {
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let layout: Vec<(u32, u32)> =
            bytes.chunks_exact(8).map(|c| (number(&c[..4]), number(&c[4..]))).collect();
        let size = layout.iter().map(|&(offset, size)| offset as usize + size as usize).max().unwrap_or(0);
        Box::leak(Box::new(Info { name: name.to_owned(), layout, size, dynamic_shared: AtomicU32::new(0) }))
    }

    /// The most dynamic shared memory that a launch may ask for, where a device gives `usual` without asking.
    #[inline]
    pub fn dynamic_shared_limit(&self, usual: u32) -> u32 {
        match self.dynamic_shared.load(Ordering::Relaxed) {
            0 => usual,
            set => set.max(usual),
        }
    }

    /// Remembers an attribute that the driver took.
    pub fn attribute_set(&self, attribute: u32, value: i32) {
        if attribute == MAX_DYNAMIC_SHARED {
            self.dynamic_shared.store(u32::try_from(value).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// The word of the handle table.
    pub fn word(&'static self) -> u64 {
        (&raw const *self).expose_provenance() as u64
    }
}

/// What is known of a live function or kernel.
#[inline]
pub fn info(callable: u64) -> error::Result<&'static Info> {
    let kind = if handles::is(Kind::Kernel, callable) { Kind::Kernel } else { Kind::Function };
    let (word, _) = handles::words(kind, callable)?;
    let address = std::ptr::with_exposed_provenance::<Info>(word as usize);
    // SAFETY: the first word of functions and kernels is always the address of a leaked Info, or 0.
    unsafe { address.as_ref() }.ok_or(error::INVALID_HANDLE)
}

/// The layout of parameter `index`.
///
/// # Safety
/// The places are NULL or valid for a write.
pub unsafe fn parameter(info: &Info, index: usize, offset: *mut usize, size: *mut usize) -> error::Result {
    let &(at, len) = info.layout.get(index).ok_or(error::INVALID_VALUE)?;
    // SAFETY: the caller's promise; `size` may be NULL.
    unsafe {
        put(offset, at as usize)?;
        if let Some(place) = size.as_mut() {
            *place = len as usize;
        }
    }
    Ok(())
}

/// Measured on the real driver: a kernel given here is CUDA_ERROR_INVALID_HANDLE.
pub unsafe fn cuFuncGetParamInfo(
    func: u64,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> error::Result {
    not_null(func)?;
    handles::words(Kind::Function, func)?;
    // SAFETY: the program's pointers.
    unsafe { parameter(info(func)?, paramIndex, paramOffset, paramSize) }
}

pub unsafe fn cuFuncGetName(name: *mut *mut c_void, hfunc: u64) -> error::Result {
    not_null(hfunc)?;
    handles::words(Kind::Function, hfunc)?;
    // SAFETY: the program's pointer.
    unsafe { name_of(name, hfunc) }
}

/// The name of a function or kernel.
///
/// # Safety
/// `name` is NULL or valid for a write.
pub unsafe fn name_of(name: *mut *mut c_void, callable: u64) -> error::Result {
    let text = info(callable)?.name.as_ptr();
    // SAFETY: the caller's promise; the text is never freed.
    unsafe { put(name, text.cast_mut().cast()) }
}

/// Measured on driver 580: the functions that read what is known of a function or kernel refuse NULL as a value, other wrong handles
/// as handles.
pub fn not_null(callable: u64) -> error::Result {
    if callable == 0 { Err(error::INVALID_VALUE) } else { Ok(()) }
}

/// (function, attribute) → value, of attributes that do not change. Kernels are left out: theirs depend on the context.
static ATTRIBUTES: Mutex<Option<HashMap<(u64, u32), i32>>> = Mutex::new(None);
/// From here on attributes can be set by the program (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES).
const FIRST_SETTABLE: u32 = MAX_DYNAMIC_SHARED;

/// Forgets the attributes of functions that end; the others are asked again.
pub fn forget_attributes() {
    *ATTRIBUTES.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// An attribute, asked once.
pub fn attribute(callable: u64, id: u32) -> error::Result<i32> {
    handles::check_callable(callable)?;
    let fixed = id < FIRST_SETTABLE && handles::is(Kind::Function, callable);
    let known = || {
        let all = ATTRIBUTES.lock().unwrap_or_else(PoisonError::into_inner);
        all.as_ref()?.get(&(callable, id)).copied()
    };
    if let Some(value) = fixed.then(known).flatten() {
        return Ok(value);
    }
    let mut value = 0;
    calls::cuFuncGetAttribute(&mut value, id, callable)?;
    if fixed {
        let mut all = ATTRIBUTES.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_or_insert_with(HashMap::new).insert((callable, id), value);
    }
    Ok(value)
}

pub unsafe fn cuFuncGetAttribute(pi: *mut i32, attrib: u32, hfunc: u64) -> error::Result {
    if pi.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let value = attribute(hfunc, attrib)?;
    // SAFETY: checked above; the program's pointer.
    unsafe { put(pi, value) }
}

/// Splits names, each with its NUL, as the worker sends them.
pub fn names(bytes: &[u8]) -> impl Iterator<Item = &CStr> {
    bytes.split_inclusive(|&b| b == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok())
}

/// All names of which `ask(first, place, len)` gives as many as fit, from number `first` on.
pub fn all_names(
    count: u32,
    ask: impl Fn(u32, &mut [u8], &mut u64) -> error::Result,
) -> error::Result<Vec<CString>> {
    let mut all: Vec<CString> = Vec::new();
    let mut bytes = vec![0; crate::module::LAYOUT_ROOM];
    while all.len() < count as usize {
        let mut len = 0;
        ask(u32::try_from(all.len()).map_err(|_| error::UNKNOWN)?, &mut bytes, &mut len)?;
        let page = bytes.get(..usize::try_from(len).unwrap_or(0)).ok_or(error::UNKNOWN)?;
        let before = all.len();
        all.extend(names(page).map(CStr::to_owned));
        if all.len() == before {
            return Err(error::UNKNOWN);
        }
    }
    all.truncate(count as usize);
    Ok(all)
}

pub unsafe fn cuFuncSetAttribute(hfunc: u64, attrib: u32, value: i32) -> error::Result {
    handles::check_callable(hfunc)?;
    calls::cuFuncSetAttribute(hfunc, attrib, value)?;
    info(hfunc)?.attribute_set(attrib, value);
    Ok(())
}

pub unsafe fn cuFuncGetModule(hmod: *mut u64, hfunc: u64) -> error::Result {
    not_null(hfunc)?;
    let (_, owner) = handles::words(Kind::Function, hfunc)?;
    let module = if handles::is(Kind::Kernel, owner) {
        let (_, library) = handles::words(Kind::Kernel, owner)?;
        crate::library::module(library)?
    } else {
        owner
    };
    // SAFETY: the program's pointer.
    unsafe { put(hmod, module) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_until_all_are_there() {
        let pages: [(u32, &[u8]); 2] = [(0, b"one\0two\0"), (2, b"three\0")];
        let ask = |first: u32, place: &mut [u8], len: &mut u64| {
            let (_, page) = pages.iter().find(|p| p.0 == first).ok_or(9_u32)?;
            place[..page.len()].copy_from_slice(page);
            *len = page.len() as u64;
            Ok(())
        };
        let want: Vec<CString> = [c"one", c"two", c"three"].map(CStr::to_owned).to_vec();
        assert_eq!(all_names(3, ask), Ok(want.clone()));
        assert_eq!(all_names(2, ask), Ok(want[..2].to_vec()));
        assert_eq!(all_names(1, |_, _, _| Ok(())), Err(error::UNKNOWN), "no progress");
    }

    #[test]
    fn a_layout_gives_offsets_sizes_and_the_whole_size() {
        let bytes: Vec<u8> = [0_u32, 8, 8, 4, 16, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
        let info = Info::new(c"kernel", &bytes);
        assert_eq!(info.layout, [(0, 8), (8, 4), (16, 8)]);
        assert_eq!(info.size, 24);
        let (mut offset, mut size) = (0, 0);
        // SAFETY: places of our own.
        assert_eq!(unsafe { parameter(info, 1, &raw mut offset, &raw mut size) }, Ok(()));
        assert_eq!((offset, size), (8, 4));
        // SAFETY: places of our own.
        assert_eq!(unsafe { parameter(info, 3, &raw mut offset, &raw mut size) }, Err(1));
        assert_eq!(Info::new(c"empty", &[]).size, 0);
    }
}
