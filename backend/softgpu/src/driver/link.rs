//! Linking at run time. The linked image is PTX text again.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::jit_options::JitOptions;
use super::{Out, name_at, put};
use crate::image;
use crate::model::handle::{self, Kind};
use crate::model::link::Link;
use crate::model::{CudaError, Result, current, state};

/// `CU_JIT_INPUT_PTX`.
const PTX: u32 = 1;
/// `CU_JIT_INPUT_FATBINARY`.
const FATBINARY: u32 = 2;
/// `CU_JIT_INPUT_NVVM`, the last one.
const LAST_INPUT: u32 = 5;

/// Where the logs of a link go.
fn options(link: &Link) -> Result<JitOptions<'static>> {
    let (names, values, count) = link.options();
    let (names, values) =
        (std::ptr::with_exposed_provenance(names), std::ptr::with_exposed_provenance_mut(values));
    // SAFETY: the program keeps options and buffers for the life of the link, as cuLinkCreate asks.
    unsafe { JitOptions::new(names, values, count) }
}

fn complain(link: &Link, options: &JitOptions<'_>, text: &str) {
    options.set_capacities(link.capacities());
    options.write_logs(text);
}

fn find(handle: u64) -> Result<Arc<Link>> {
    state()?.links.get(handle)
}

fn add(handle: u64, kind: u32, contents: Vec<u8>, name: &str) -> Result {
    let link = find(handle)?;
    let options = options(&link)?;
    let mut parts = link.parts();
    if kind > LAST_INPUT || contents.is_empty() || parts.is_complete() {
        return Err(CudaError::InvalidValue);
    }
    if kind != PTX && kind != FATBINARY {
        complain(&link, &options, "softgpu links PTX only");
        return Err(parts.refuse(CudaError::InvalidImage));
    }
    let source = image::ptx_in(contents).map_err(|error| {
        complain(&link, &options, &error.to_string());
        CudaError::from(&error)
    })?;
    parts.add(source, name).map_err(|(code, text)| {
        complain(&link, &options, &text);
        code
    })
}

driver_api! {
    /// Begins a link. The options' buffers are written until its end.
    fn cuLinkCreate_v2(count: u32, options: *const u32, values: *mut *mut c_void, out: Out<'_, u64>) {
        current::working_context()?;
        let addresses = (options.expose_provenance(), values.expose_provenance(), count);
        // SAFETY: the caller keeps options and buffers for the life of the link.
        let known = unsafe { JitOptions::new(options, values, count) }?;
        let link = Arc::new(Link::new(addresses, known.capacities()));
        known.write_logs("");
        let handle = handle::new_handle(Kind::Link);
        put(out, handle)?;
        state()?.links.insert(handle, link);
        Ok(())
    }

    /// Adds PTX or a fatbin with PTX.
    fn cuLinkAddData_v2(
        link: u64, kind: u32, data: *const u8, size: usize, name: *const c_char,
        _count: u32, _options: *const u32, _values: *mut *mut c_void
    ) {
        if data.is_null() {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the caller answers for the data and the name.
        let (contents, name) =
            unsafe { (std::slice::from_raw_parts(data, size).to_vec(), name_at(name).unwrap_or("an input")) };
        add(link, kind, contents, name)
    }

    /// Adds a file.
    fn cuLinkAddFile_v2(
        link: u64, kind: u32, path: *const c_char, _count: u32, _options: *const u32, _values: *mut *mut c_void
    ) {
        find(link)?;
        // SAFETY: the caller answers for the string.
        let path = unsafe { name_at(path) }?;
        add(link, kind, std::fs::read(path).map_err(|_| CudaError::FileNotFound)?, path)
    }

    /// Links: the image lives as long as the link.
    fn cuLinkComplete(link: u64, image: Out<'_, u64>, size: Out<'_, usize>) {
        let link = find(link)?;
        let options = options(&link)?;
        let mut parts = link.parts();
        if parts.is_complete() {
            return Err(CudaError::InvalidHandle);
        }
        let Some(image) = image else { return Err(CudaError::InvalidValue) };
        parts.usable()?;
        let text = parts.complete().map_err(|error| {
            complain(&link, &options, &error);
            CudaError::Unknown
        })?;
        super::put_if_wanted(size, text.as_bytes_with_nul().len());
        image.write(text.as_ptr().expose_provenance() as u64);
        Ok(())
    }

    /// Ends a link.
    fn cuLinkDestroy(link: u64) {
        state()?.links.remove(link).map(|_| ())
    }
}
