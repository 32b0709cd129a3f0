//! From message to call: derived, with these helpers.

use super::{
    error::{self, CudaError, Outcome, check},
    thread::Thread,
};
use std::ffi::CStr;
use vgpu_spec::{
    plain::{self, Plain},
    wire::args::Reader,
};

include!(concat!(env!("OUT_DIR"), "/dispatch.rs"));

/// Appends results to a reply.
pub struct Results<'a>(pub &'a mut Vec<u8>);

impl Results<'_> {
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Variable data: length, bytes, padding.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}

/// The most bytes of an array result: what fits in a reply.
const MAX_ROOM: usize = vgpu_spec::wire::lane::MAX_MESSAGE;

/// A number of a narrow type.
fn narrow<T: TryFrom<u64>>(value: u64) -> Result<T, CudaError> {
    T::try_from(value).map_err(|_| error::INVALID_VALUE)
}

/// A NUL-terminated string argument.
fn text(bytes: Option<&[u8]>) -> Result<&CStr, CudaError> {
    CStr::from_bytes_with_nul(bytes.ok_or(error::INVALID_VALUE)?).map_err(|_| error::INVALID_VALUE)
}

/// An array argument.
fn array<T: Plain>(bytes: Option<&[u8]>) -> Result<Option<Vec<T>>, CudaError> {
    bytes.map(|b| plain::values(b).ok_or(error::INVALID_VALUE)).transpose()
}

/// An array of handles, each turned into the driver's by `real`.
fn handles(
    bytes: Option<&[u8]>,
    real: impl FnMut(u64) -> Result<u64, CudaError>,
) -> Result<Option<Vec<u64>>, CudaError> {
    let Some(numbers) = array::<u64>(bytes)? else { return Ok(None) };
    numbers.into_iter().map(real).collect::<Result<_, _>>().map(Some)
}

/// A count of results of `size` bytes that the guest asks room for, if a reply can hold them.
fn bounded(count: usize, size: usize) -> Result<usize, CudaError> {
    if count > MAX_ROOM / size { Err(error::INVALID_VALUE) } else { Ok(count) }
}

/// Checks that the driver, told of `count` elements, finds as many.
fn enough<T>(values: Option<&[T]>, count: usize, optional: bool) -> Outcome {
    match values {
        Some(values) if values.len() >= count => Ok(()),
        None if optional || count == 0 => Ok(()),
        _ => Err(error::INVALID_VALUE),
    }
}

fn pointer<T>(values: Option<&[T]>) -> *const T {
    values.map_or(std::ptr::null(), <[T]>::as_ptr)
}

/// Room for `count` results.
#[allow(dead_code)] // as long as no derived call has an array result
fn room<T: Plain>(count: usize) -> Result<Vec<T>, CudaError> {
    bounded(count, size_of::<T>())?;
    Ok(vec![T::default(); count])
}

/// Results that are cut to the room that the guest gave.
pub fn cut(mut bytes: Vec<u8>, room: usize) -> Vec<u8> {
    bytes.truncate(room);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_data_are_refused() {
        assert_eq!(enough(Some(&[1, 2]), 2, false), Ok(()));
        assert_eq!(enough(Some(&[1, 2]), 3, false), Err(error::INVALID_VALUE));
        assert_eq!(enough::<u32>(None, 1, false), Err(error::INVALID_VALUE));
        assert_eq!(enough::<u32>(None, 1, true), Ok(()));
        assert!(room::<u64>(usize::MAX).is_err());
    }
}
