//! Linking at run time: inputs go to the host's linker as they are added; the image that it makes is kept here until the state ends.

use crate::{
    call::{self, put},
    calls, context, error, handles,
    image::{self, Image},
    jit::Options,
};
use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_void},
    sync::{Mutex, PoisonError},
};
use vgpu_spec::handle::Kind;

/// CU_JIT_INPUT_PTX.
const PTX: u32 = 1;

/// A link under way.
struct Link {
    /// The options of its creation, with the program's log buffers, which are written whenever there is something to tell.
    options: Options,
    /// The finished image: the program gets a pointer into it.
    output: Vec<u8>,
}

// SAFETY: the pointers in the options are the program's, which keeps their buffers for the life of the link; they are only used while
// the table is locked.
unsafe impl Send for Link {}

static LINKS: Mutex<Option<HashMap<u64, Link>>> = Mutex::new(None);

/// Runs `body` on a live link, and brings its logs up to date.
fn with<T>(state: u64, body: impl FnOnce(&mut Link) -> error::Result<T>) -> error::Result<T> {
    handles::check_linkstate(state)?;
    let mut all = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let link = all.as_mut().and_then(|all| all.get_mut(&state)).ok_or(error::INVALID_HANDLE)?;
    body(link)
}

pub unsafe fn cuLinkCreate_v2(
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
    stateOut: *mut u64,
) -> error::Result {
    if stateOut.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's options.
    let mut options = unsafe { Options::new(numOptions as usize, options, optionValues) }?;
    let state = handles::create_with(Kind::LinkState, 0, context::current())?;
    let created = options.ask(|o| {
        calls::vgpuLinkCreate(
            o.status,
            o.told,
            state,
            o.names,
            o.values,
            o.count,
            o.info,
            o.info_room,
            o.errors,
            o.error_room,
        )
    });
    if let Err(status) = created {
        handles::remove(state);
        return Err(status);
    }
    let link = Link { options, output: Vec::new() };
    LINKS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(HashMap::new).insert(state, link);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(stateOut, state) }
}

pub unsafe fn cuLinkCreate(
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
    stateOut: *mut u64,
) -> error::Result {
    // SAFETY: as there.
    unsafe { cuLinkCreate_v2(numOptions, options, optionValues, stateOut) }
}

fn add(state: u64, kind: u32, bytes: &[u8], name: Option<&CStr>, options: &Options) -> error::Result {
    if options.has_logs() {
        // The logs and times of a link are those that it was made with.
        return Err(error::INVALID_VALUE);
    }
    let (names, values) = options.numbers();
    with(state, |link| {
        Image::whole(bytes).share(|address, len| {
            link.options.ask(|o| {
                calls::vgpuLinkAdd(
                    o.status,
                    o.told,
                    state,
                    kind,
                    address,
                    len,
                    name.unwrap_or(c""),
                    names,
                    values,
                    names.len(),
                    o.info,
                    o.info_room,
                    o.errors,
                    o.error_room,
                )
            })
        })
    })
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLinkAddData_v2(
    state: u64,
    type_: u32,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    handles::check_linkstate(state)?;
    if size == 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's data, name and options.
    let (bytes, name, options) = unsafe {
        let bytes = match type_ {
            PTX => image::text(data.cast::<u8>(), size)?,
            _ => call::slice(data.cast::<u8>(), size).ok_or(error::INVALID_VALUE)?,
        };
        (bytes, call::text(name), Options::new(numOptions as usize, options, optionValues)?)
    };
    add(state, type_, bytes, name, &options)
}

#[allow(clippy::too_many_arguments)] // the driver API's parameters
pub unsafe fn cuLinkAddData(
    state: u64,
    type_: u32,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    // SAFETY: as there.
    unsafe { cuLinkAddData_v2(state, type_, data, size, name, numOptions, options, optionValues) }
}

pub unsafe fn cuLinkAddFile_v2(
    state: u64,
    type_: u32,
    path: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    handles::check_linkstate(state)?;
    // SAFETY: the program's text and options.
    let (path, options) = unsafe {
        let path = call::text(path).ok_or(error::INVALID_VALUE)?;
        (path, Options::new(numOptions as usize, options, optionValues)?)
    };
    add(state, type_, &image::read_exactly(path)?, Some(path), &options)
}

pub unsafe fn cuLinkAddFile(
    state: u64,
    type_: u32,
    path: *const c_char,
    numOptions: u32,
    options: *mut u32,
    optionValues: *mut *mut c_void,
) -> error::Result {
    // SAFETY: as there.
    unsafe { cuLinkAddFile_v2(state, type_, path, numOptions, options, optionValues) }
}

/// What is no link cannot be linked (measured).
pub unsafe fn cuLinkComplete(state: u64, cubinOut: *mut *mut c_void, sizeOut: *mut usize) -> error::Result {
    handles::check_linkstate(state).map_err(|e| if state == 0 { e } else { error::UNKNOWN })?;
    if cubinOut.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let (address, len) = with(state, |link| {
        let mut len = 0;
        link.options.ask(|o| {
            calls::vgpuLinkComplete(
                o.status,
                o.told,
                &mut len,
                state,
                o.info,
                o.info_room,
                o.errors,
                o.error_room,
            )
        })?;
        link.output = image::fetch(len, |address| calls::vgpuLinkRead(state, address, len))?;
        Ok((link.output.as_ptr(), len))
    })?;
    // SAFETY: the program's pointers; the size may not be wanted. The image lives as long as the link.
    unsafe {
        put(cubinOut, address.cast_mut().cast())?;
        if let Some(place) = sizeOut.as_mut() {
            *place = len;
        }
    }
    Ok(())
}

pub unsafe fn cuLinkDestroy(state: u64) -> error::Result {
    handles::check_linkstate(state)?;
    let result = calls::cuLinkDestroy(state);
    if let Some(all) = LINKS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        all.remove(&state);
    }
    handles::remove(state);
    result
}
