//! Functions and kernels: name and parameter layout are kept from the look-up, so that a launch asks nothing.
//!
//! Words in the handle table: address of the [`Info`], and the module (function), the kernel (function of a kernel) or the library
//! (kernel).

pub use crate::legacy_launch::{cuFuncSetBlockShape, cuFuncSetSharedSize};
use crate::{call::put, calls, error, handles, legacy_launch::Legacy};
use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_void},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};
use vgpu_spec::handle::Kind;

/// The parameters of a function or kernel.
#[derive(PartialEq)]
pub struct Parameters {
    /// Offset and size of each, in bytes.
    pub layout: Vec<(u32, u32)>,
    /// Bytes of all together.
    pub size: usize,
}

impl Parameters {
    /// Takes a layout as the worker sends it: offset and size, u32 each.
    fn new(bytes: &[u8]) -> Self {
        let number = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let layout: Vec<(u32, u32)> =
            bytes.chunks_exact(8).map(|c| (number(&c[..4]), number(&c[4..]))).collect();
        let size = layout.iter().map(|&(offset, size)| offset as usize + size as usize).max().unwrap_or(0);
        Parameters { layout, size }
    }
}

/// What is known of a function or kernel. Never freed: a launch reads it without a lock, and there are few.
pub struct Info {
    pub name: CString,
    parameters: OnceLock<Parameters>,
    /// The kernel to ask for the parameters, if they are not known: without a working context the driver gives kernels, but not these.
    kernel: u64,
    /// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as the program set it; 0 if it did not.
    dynamic_shared: AtomicU32,
    /// What the launch functions of CUDA 3 and before have set.
    pub legacy: Mutex<Legacy>,
}

/// The most bytes of a layout: the room that the messages have.
pub const LAYOUT_ROOM: usize = 32768;
/// The most bytes of a name.
const NAME_ROOM: usize = 4096;
/// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
const MAX_DYNAMIC_SHARED: u32 = 8;

impl Info {
    /// With a layout as the worker sends it.
    pub fn new(name: &CStr, layout: &[u8]) -> &'static Self {
        Self::leak(name, OnceLock::from(Parameters::new(layout)), 0)
    }

    /// Of a kernel that is asked for its parameters when they are needed.
    pub fn without_parameters(name: &CStr, kernel: u64) -> &'static Self {
        Self::leak(name, OnceLock::new(), kernel)
    }

    fn leak(name: &CStr, parameters: OnceLock<Parameters>, kernel: u64) -> &'static Self {
        Box::leak(Box::new(Info {
            name: name.to_owned(),
            parameters,
            kernel,
            dynamic_shared: AtomicU32::new(0),
            legacy: Mutex::default(),
        }))
    }

    /// The parameters, which are asked for where they are not known.
    #[inline]
    pub fn parameters(&self) -> error::Result<&Parameters> {
        self.parameters.get().map_or_else(|| self.ask(), Ok)
    }

    #[cold]
    fn ask(&self) -> error::Result<&Parameters> {
        let (_, layout) = describe(self.kernel)?;
        Ok(self.parameters.get_or_init(|| Parameters::new(&layout)))
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

/// Name and layout of a function or kernel, as the worker knows them.
pub fn describe(callable: u64) -> error::Result<(CString, Vec<u8>)> {
    let (mut name, mut layout, mut len) = (vec![0; NAME_ROOM], vec![0; LAYOUT_ROOM], 0);
    calls::vgpuDescribeCallable(callable, &mut name, NAME_ROOM, &mut layout, LAYOUT_ROOM, &mut len)?;
    layout.truncate(usize::try_from(len).unwrap_or(0));
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok((name.to_owned(), layout))
}

/// The layout of parameter `index`.
///
/// # Safety
/// The places are NULL or valid for a write.
pub unsafe fn parameter(info: &Info, index: usize, offset: *mut usize, size: *mut usize) -> error::Result {
    let &(at, len) = info.parameters()?.layout.get(index).ok_or(error::INVALID_VALUE)?;
    // SAFETY: the caller's promise; `size` may be NULL.
    unsafe {
        put(offset, at as usize)?;
        if let Some(place) = size.as_mut() {
            *place = len as usize;
        }
    }
    Ok(())
}

/// Measured on the real driver: where others say that a handle is invalid, these say that NULL is an invalid value.
pub fn not_null(callable: u64) -> error::Result {
    if callable == 0 { Err(error::INVALID_VALUE) } else { Ok(()) }
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
    // SAFETY: as there.
    unsafe { put_name(name, hfunc) }
}

/// # Safety
/// The place is NULL or valid for a write.
pub unsafe fn put_name(name: *mut *mut c_void, hfunc: u64) -> error::Result {
    let text = info(hfunc)?.name.as_ptr();
    // SAFETY: the program's pointer; the text is never freed.
    unsafe { put(name, text.cast_mut().cast()) }
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

/// The most numbers in a message.
const ENDED: usize = 4096;

/// Tells the worker which functions and kernels ended with their module or library.
pub fn ended(numbers: &[u64]) {
    for part in numbers.chunks(ENDED) {
        let _ = calls::vgpuFunctionsEnded(part, part.len());
    }
}

/// The number of a function: `ask` offers one to the worker, which says which one the driver's function has.
pub fn number(owner: u64, ask: impl FnOnce(&mut u64, u64) -> error::Result) -> error::Result<u64> {
    let offered = handles::create_with(Kind::Function, 0, owner)?;
    let mut number = 0;
    let asked = ask(&mut number, offered);
    if asked.is_err() || number != offered {
        handles::remove(offered);
    }
    asked?;
    handles::adopt(number);
    Ok(number)
}

/// Gives a function owner and what is known of it, unless the same is known: what was set for it stays then. Something else is known
/// where the driver uses a handle again whose number nobody ended: that of a function which only a graph's node named.
pub fn set_info(function: u64, owner: u64, new: &'static Info) -> error::Result {
    let (_, known_owner) = handles::words(Kind::Function, function)?;
    let same =
        info(function).is_ok_and(|old| old.name == new.name && old.parameters.get() == new.parameters.get());
    if !same {
        handles::set_word(function, 0, new.word());
    }
    if !same || known_owner == 0 {
        handles::set_word(function, 1, owner);
    }
    Ok(())
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
    let mut bytes = vec![0; LAYOUT_ROOM];
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
        let Parameters { layout, size } = info.parameters().unwrap();
        assert_eq!(layout, &[(0, 8), (8, 4), (16, 8)]);
        assert_eq!(*size, 24);
        let (mut offset, mut size) = (0, 0);
        // SAFETY: places of our own.
        assert_eq!(unsafe { parameter(info, 1, &raw mut offset, &raw mut size) }, Ok(()));
        assert_eq!((offset, size), (8, 4));
        // SAFETY: places of our own.
        assert_eq!(unsafe { parameter(info, 3, &raw mut offset, &raw mut size) }, Err(1));
        assert_eq!(Info::new(c"empty", &[]).parameters().unwrap().size, 0);
    }
}
