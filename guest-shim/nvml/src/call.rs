//! How a call enters the library, and the program's arguments once they are checked.

use crate::{
    abi::Versioned,
    error::{self, NvmlError},
    library::{self, Library},
};
use std::{
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    slice,
};
use vgpu_client::{
    stats::Totals,
    trace::{self, Ended},
};

/// Runs the body of a function that needs nvmlInit. Nothing unwinds into the program.
pub fn enter(name: &'static str, body: impl FnOnce(&Library) -> error::Result) -> u32 {
    enter_early(name, || body(&*library::current().ok_or(NvmlError::Uninitialized)?))
}

/// Runs the body of a function that works before nvmlInit as well.
pub fn enter_early(name: &'static str, body: impl FnOnce() -> error::Result) -> u32 {
    vgpu_client::record::call(name);
    let began = trace::enabled().then(|| trace::begin(Totals::default()));
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(NvmlError::Unknown));
    if let Some(began) = began {
        let result = error::code(result);
        // SAFETY: a static text.
        let text = unsafe { CStr::from_ptr(error::nvmlErrorString(result)) }.to_string_lossy();
        let error = (result != 0).then_some(&*text);
        let totals = Totals::default();
        began.end(&Ended { call: name, class: "nvml", result, error, totals }, |_| ());
        return result;
    }
    error::code(result)
}

/// A place for one result.
#[derive(Debug)]
pub struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// # Safety
    /// `place` is NULL or valid for a write, for the life of the value.
    pub unsafe fn new(place: *mut T) -> error::Result<Self> {
        NonNull::new(place).map(Out).ok_or(NvmlError::InvalidArgument)
    }

    pub fn set(self, value: T) {
        // SAFETY: as promised in `new`.
        unsafe { self.0.write(value) };
    }
}

/// A buffer for a text.
#[derive(Debug)]
pub struct Text {
    place: NonNull<c_char>,
    /// Bytes, the NUL's included.
    capacity: usize,
}

impl Text {
    /// # Safety
    /// `place` is NULL or has room for `capacity` bytes, for the life of the value.
    pub unsafe fn new(place: *mut c_char, capacity: u32) -> error::Result<Self> {
        let place = NonNull::new(place).ok_or(NvmlError::InvalidArgument)?;
        Ok(Text { place, capacity: usize::try_from(capacity).unwrap_or(usize::MAX) })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes `text` and a NUL, or nothing: NVML_ERROR_INSUFFICIENT_SIZE.
    pub fn set(self, text: &str) -> error::Result {
        if text.len() >= self.capacity {
            return Err(NvmlError::InsufficientSize);
        }
        self.set_cut(text.as_bytes());
        Ok(())
    }

    /// Writes as much of `text` as there is room for, and a NUL.
    pub fn set_cut(self, text: &[u8]) {
        let Some(room) = self.capacity.checked_sub(1) else { return };
        let count = text.len().min(room);
        let place = self.place.as_ptr().cast::<u8>();
        // SAFETY: `count` + 1 bytes are within the capacity promised in `new`.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), place, count);
            place.add(count).write(0);
        }
    }
}

/// An array of which the program says how much it holds, and is told how much was needed.
#[derive(Debug)]
pub struct List<T> {
    count: NonNull<u32>,
    place: *mut T,
}

impl<T> List<T> {
    /// # Safety
    /// `count` is NULL or valid; `place` is NULL or has room for `*count` values, for the life of the value.
    pub unsafe fn new(count: *mut u32, place: *mut T) -> error::Result<Self> {
        Ok(List { count: NonNull::new(count).ok_or(NvmlError::InvalidArgument)?, place })
    }

    /// Writes all of `values`, or only their count: NVML_ERROR_INSUFFICIENT_SIZE. Without values the array may be NULL.
    pub fn set(self, values: &[T]) -> error::Result
    where
        T: Copy,
    {
        // SAFETY: valid, as promised in `new`.
        let capacity = unsafe { self.count.read() };
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        // SAFETY: as above.
        unsafe { self.count.write(count) };
        if count > capacity {
            return Err(NvmlError::InsufficientSize);
        }
        if count == 0 {
            return Ok(());
        }
        if self.place.is_null() {
            return Err(NvmlError::InvalidArgument);
        }
        // SAFETY: there is room for `capacity` values, as promised in `new`.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.place, values.len()) };
        Ok(())
    }

    /// What [`List::set`] does without values.
    pub fn set_empty(self) {
        // SAFETY: valid, as promised in `new`.
        unsafe { self.count.write(0) };
    }
}

/// A structure that is read.
///
/// # Safety
/// `value` is NULL or valid for the life of the call.
pub unsafe fn input<'a, T>(value: *const T) -> error::Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { value.as_ref() }.ok_or(NvmlError::InvalidArgument)
}

/// NVML_ERROR_ARGUMENT_VERSION_MISMATCH for another version of a structure than the one that is known.
pub fn check_version<T: Versioned>(value: &T) -> error::Result {
    if value.version() == T::VERSION { Ok(()) } else { Err(NvmlError::ArgumentVersionMismatch) }
}

/// A structure that is read and written.
///
/// # Safety
/// `value` is NULL or valid for the life of the call.
pub unsafe fn in_out<'a, T>(value: *mut T) -> error::Result<&'a mut T> {
    // SAFETY: the caller's promise.
    unsafe { value.as_mut() }.ok_or(NvmlError::InvalidArgument)
}

/// An array that is read and written.
///
/// # Safety
/// `values` is NULL or valid for `count` values, for the life of the call.
pub unsafe fn array<'a, T>(values: *mut T, count: impl TryInto<usize>) -> error::Result<&'a mut [T]> {
    let count = count.try_into().map_err(|_| NvmlError::InvalidArgument)?;
    if values.is_null() || count > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(NvmlError::InvalidArgument);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { slice::from_raw_parts_mut(values, count) })
}

/// A string that is read.
///
/// # Safety
/// `text` is NULL or NUL-terminated, for the life of the call.
pub unsafe fn text<'a>(text: *const c_char) -> error::Result<&'a CStr> {
    if text.is_null() {
        return Err(NvmlError::InvalidArgument);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What `function` writes into an output.
    pub fn output<T: Default>(function: impl FnOnce(Out<T>) -> error::Result) -> error::Result<T> {
        let mut value = T::default();
        // SAFETY: a place that outlives the call.
        function(unsafe { Out::new(&raw mut value) }?)?;
        Ok(value)
    }

    /// What `function` writes into a buffer of `capacity` bytes.
    pub fn text_output(capacity: u32, function: impl FnOnce(Text) -> error::Result) -> error::Result<String> {
        let mut buffer = vec![b'x'; capacity as usize + 1];
        // SAFETY: a buffer that outlives the call.
        function(unsafe { Text::new(buffer.as_mut_ptr().cast(), capacity) }?)?;
        assert_eq!(buffer[capacity as usize], b'x', "written beyond the buffer");
        Ok(CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap().into())
    }

    #[test]
    fn null_is_an_invalid_argument() {
        // SAFETY: NULL is allowed.
        unsafe {
            assert_eq!(Out::<u32>::new(std::ptr::null_mut()).err(), Some(NvmlError::InvalidArgument));
            assert_eq!(Text::new(std::ptr::null_mut(), 9).err(), Some(NvmlError::InvalidArgument));
            assert_eq!(
                List::<u32>::new(std::ptr::null_mut(), std::ptr::null_mut()).err(),
                Some(NvmlError::InvalidArgument)
            );
            assert_eq!(array::<u32>(std::ptr::null_mut(), 1_i32).err(), Some(NvmlError::InvalidArgument));
            assert_eq!(text(std::ptr::null()).err(), Some(NvmlError::InvalidArgument));
        }
    }

    #[test]
    fn an_array_with_a_negative_or_endless_count_is_refused() {
        let mut value = 0_u64;
        for count in [-1_i64, i64::MAX] {
            // SAFETY: refused before anything is read.
            assert_eq!(unsafe { array(&raw mut value, count) }.err(), Some(NvmlError::InvalidArgument));
        }
    }

    #[test]
    fn a_text_needs_room_for_its_nul() {
        assert_eq!(text_output(4, |t| t.set("abc")), Ok("abc".into()));
        assert_eq!(text_output(3, |t| t.set("abc")), Err(NvmlError::InsufficientSize));
        assert_eq!(text_output(0, |t| t.set("")), Err(NvmlError::InsufficientSize));
        let cut = text_output(3, |t| {
            t.set_cut(b"abc");
            Ok(())
        });
        assert_eq!(cut, Ok("ab".into()));
    }

    #[test]
    fn a_list_that_is_too_small_tells_the_size() {
        let fill = |capacity: u32, place: Option<&mut [u32; 4]>, values: &[u32]| {
            let mut count = capacity;
            let place = place.map_or(std::ptr::null_mut(), |p| p.as_mut_ptr());
            // SAFETY: places that outlive the call.
            let result = unsafe { List::new(&raw mut count, place) }.unwrap().set(values);
            (result, count)
        };
        let mut room = [9; 4];
        assert_eq!(fill(0, None, &[]), (Ok(()), 0));
        assert_eq!(fill(3, None, &[]), (Ok(()), 0));
        assert_eq!(fill(0, None, &[5, 6]), (Err(NvmlError::InsufficientSize), 2));
        assert_eq!(fill(1, Some(&mut room), &[5, 6]), (Err(NvmlError::InsufficientSize), 2));
        assert_eq!(fill(2, None, &[5, 6]), (Err(NvmlError::InvalidArgument), 2));
        assert_eq!(room, [9; 4]);
        assert_eq!(fill(3, Some(&mut room), &[5, 6]), (Ok(()), 2));
        assert_eq!(room, [5, 6, 9, 9]);
    }
}
