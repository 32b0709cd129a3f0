//! Linking at run time. Inputs come through a window; a link's logs are this worker's own buffers, whose text goes back with each reply.
#![allow(non_snake_case)]

use super::{
    error::{CudaError, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED, check},
    image::Image,
    jit::{Options, Told},
    thread::Thread,
};
use std::{ffi::CStr, ffi::c_void, sync::PoisonError};

/// CU_JIT_INPUT_CUBIN, _PTX and _FATBINARY: images, of which the driver may trust the lengths that they claim.
const IMAGES: std::ops::RangeInclusive<u32> = 0..=2;
/// CU_JIT_INPUT_OBJECT, _LIBRARY and _NVVM: read by their given size.
const LAST_INPUT: u32 = 5;
/// The largest input.
const MAX_LEN: usize = 1 << 30;

/// What lives as long as a link.
pub struct Link {
    /// Holds the log buffers, into which the driver writes.
    options: Options,
    /// The finished image in the driver's memory: address and bytes.
    output: Option<(usize, usize)>,
}

/// As [`Told`], with the size of the image behind the results.
type Completed = (u32, Vec<u32>, usize, Vec<u8>, Vec<u8>);

impl Thread {
    fn link<T>(
        &self,
        real: u64,
        body: impl FnOnce(&mut Link) -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        let mut links = self.session.links.lock().unwrap_or_else(PoisonError::into_inner);
        body(links.get_mut(&real).ok_or(INVALID_HANDLE)?)
    }
}

/// Begins a link.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLinkCreate(
    t: &mut Thread,
    _: usize,
    state: u64,
    names: Option<Vec<u32>>,
    values: Option<Vec<u64>>,
    _n: usize,
    info: usize,
    _: usize,
    errors: usize,
    _: usize,
) -> Result<Told, CudaError> {
    let create = t.driver.cuLinkCreate_v2.ok_or(NOT_SUPPORTED)?;
    let mut options = Options::new(names, values, info, errors)?;
    let mut real = 0_u64;
    // SAFETY: a place for the handle; the options and their buffers live as long as the link.
    let status = unsafe { create(options.count()?, options.names(), options.values(), &raw mut real) };
    let told = options.told(status);
    if status == 0 {
        let mut links = t.session.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(real, Link { options, output: None });
        drop(links);
        t.insert_linkstate(state, real)?;
    }
    Ok(told)
}

/// Adds an input.
#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuLinkAdd(
    t: &mut Thread,
    _: usize,
    real: u64,
    kind: u32,
    address: u64,
    len: usize,
    name: &CStr,
    names: Option<Vec<u32>>,
    values: Option<Vec<u64>>,
    _n: usize,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
) -> Result<Told, CudaError> {
    let add = t.driver.cuLinkAddData_v2.ok_or(NOT_SUPPORTED)?;
    let mut options = Options::new(names, values, 0, 0)?;
    let input = if IMAGES.contains(&kind) {
        t.image(address, len)?
    } else if kind <= LAST_INPUT && len <= MAX_LEN && t.client.windows.contains(address, len as u64) {
        Image::copy_unchecked(address, len)
    } else {
        return Err(INVALID_VALUE);
    };
    let data = input.as_ptr().cast_mut().cast::<c_void>();
    let count = options.count()?;
    t.link(real, |link| {
        // SAFETY: a live link of this client; a private copy of the input, `len` bytes long and NUL-terminated; a name and options
        // that outlive the call.
        let status =
            unsafe { add(real, kind, data, len, name.as_ptr(), count, options.names(), options.values()) };
        Ok(link.options.told(status))
    })
}

/// Links; also gives the image's size.
pub fn vgpuLinkComplete(
    t: &mut Thread,
    _: usize,
    real: u64,
    _: usize,
    _: usize,
    _: usize,
    _: usize,
) -> Result<Completed, CudaError> {
    let complete = t.driver.cuLinkComplete.ok_or(NOT_SUPPORTED)?;
    t.link(real, |link| {
        let (mut image, mut len) = (std::ptr::null_mut(), 0_usize);
        // SAFETY: a live link of this client, and places that outlive the call.
        let status = unsafe { complete(real, &raw mut image, &raw mut len) };
        if status == 0 {
            link.output = Some((image.expose_provenance(), len));
        }
        let (status, results, info, errors) = link.options.told(status);
        Ok((status, results, len, info, errors))
    })
}

/// Copies the finished image, `len` bytes, to `address` in a window.
pub fn vgpuLinkRead(t: &mut Thread, real: u64, address: u64, len: usize) -> Result<(), CudaError> {
    if !t.client.windows.contains(address, len as u64) {
        return Err(INVALID_VALUE);
    }
    t.link(real, |link| {
        let (image, _) = link.output.filter(|output| output.1 == len).ok_or(INVALID_VALUE)?;
        let from = std::ptr::with_exposed_provenance::<u8>(image);
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: the driver's image of that length lives as long as the link; the destination lies in a mapped window.
        unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
        Ok(())
    })
}

/// Ends a link.
pub fn cuLinkDestroy(t: &mut Thread, real: u64) -> Result<(), CudaError> {
    let destroy = t.driver.cuLinkDestroy.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live link of this client, just taken out of the table.
    let result = check(unsafe { destroy(real) });
    // Only now: until its end the driver may write to the log buffers.
    t.session.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&real);
    result
}
