//! Options of the JIT compiler and linker (CUjit_option): values that go to the host, and places of the program's that get results.

use crate::error;
use std::{ffi::c_void, slice};

/// The most bytes of a log that fit in a reply.
const LOG_ROOM: usize = 96 << 10;

/// CUjit_option values with results.
mod option {
    pub const THREADS_PER_BLOCK: u32 = 1;
    pub const WALL_TIME: u32 = 2;
    pub const INFO_LOG_BUFFER: u32 = 3;
    pub const INFO_LOG_BUFFER_SIZE_BYTES: u32 = 4;
    pub const ERROR_LOG_BUFFER: u32 = 5;
    pub const ERROR_LOG_BUFFER_SIZE_BYTES: u32 = 6;
}

/// What a reply tells: the results of THREADS_PER_BLOCK and WALL_TIME, the lengths of the information and of the error log.
pub type Told = [u32; 4];

/// A log buffer of the program's.
#[derive(Default)]
struct Log {
    place: u64,
    room: usize,
    text: Vec<u8>,
    /// Where the program's value is, which becomes the length written.
    size_value: Option<*mut *mut c_void>,
}

impl Log {
    /// A buffer and its size come together, or not at all.
    fn prepare(&mut self) -> error::Result {
        if (self.place == 0) != self.size_value.is_none() {
            return Err(error::INVALID_VALUE);
        }
        self.text = vec![0; self.room.min(LOG_ROOM)];
        Ok(())
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        (!self.text.is_empty()).then_some(&mut self.text[..])
    }

    /// Writes text and NUL to the program's buffer, and the length that the driver told to its option's value.
    fn deliver(&self, told: u32) {
        let len = self.text.iter().position(|&b| b == 0).unwrap_or(self.text.len().saturating_sub(1));
        if !self.text.is_empty() {
            let place = std::ptr::with_exposed_provenance_mut::<u8>(self.place as usize);
            // SAFETY: the program's buffer of `room` bytes; `len` is below both.
            unsafe {
                std::ptr::copy_nonoverlapping(self.text.as_ptr(), place, len);
                place.add(len).write(0);
            }
            set(self.size_value, told);
        }
    }
}

/// Sets the value of an option with a result: an unsigned int or float in a pointer's place.
fn set(place: Option<*mut *mut c_void>, value: u32) {
    if let Some(place) = place {
        // SAFETY: an element of the program's array of values, which lives as long as the load or the link.
        unsafe { place.write(std::ptr::without_provenance_mut(value as usize)) };
    }
}

/// The options of a load or a link, taken apart.
#[derive(Default)]
pub struct Options {
    names: Vec<u32>,
    values: Vec<u64>,
    info: Log,
    errors: Log,
    wall_time: Option<*mut *mut c_void>,
    threads: Option<*mut *mut c_void>,
}

/// The options' part of a message and of its reply.
pub struct Parts<'a> {
    pub status: &'a mut u32,
    pub told: &'a mut Told,
    pub names: &'a [u32],
    pub values: &'a [u64],
    pub count: usize,
    pub info: Option<&'a mut [u8]>,
    pub info_room: usize,
    pub errors: Option<&'a mut [u8]>,
    pub error_room: usize,
}

impl Options {
    /// # Safety
    /// The arrays have `count` elements, and buffers are as their sizes say.
    pub unsafe fn new(count: usize, names: *mut u32, values: *mut *mut c_void) -> error::Result<Self> {
        let mut options = Options::default();
        if count == 0 {
            return Ok(options);
        }
        if names.is_null() || values.is_null() {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the caller's promise.
        let (names, list) =
            unsafe { (slice::from_raw_parts(names, count), slice::from_raw_parts(values, count)) };
        for (i, (&name, &value)) in names.iter().zip(list).enumerate() {
            // SAFETY: within the array.
            options.take(name, value.expose_provenance() as u64, unsafe { values.add(i) });
        }
        options.info.prepare()?;
        options.errors.prepare()?;
        Ok(options)
    }

    fn take(&mut self, name: u32, value: u64, place: *mut *mut c_void) {
        match name {
            option::INFO_LOG_BUFFER => self.info.place = value,
            option::ERROR_LOG_BUFFER => self.errors.place = value,
            // The values are unsigned int, in pointers.
            option::INFO_LOG_BUFFER_SIZE_BYTES => {
                (self.info.room, self.info.size_value) = (value as u32 as usize, Some(place));
            }
            option::ERROR_LOG_BUFFER_SIZE_BYTES => {
                (self.errors.room, self.errors.size_value) = (value as u32 as usize, Some(place));
            }
            _ => {
                match name {
                    option::WALL_TIME => self.wall_time = Some(place),
                    option::THREADS_PER_BLOCK => self.threads = Some(place),
                    _ => {}
                }
                self.names.push(name);
                self.values.push(value);
            }
        }
    }

    /// Whether the program wants logs or times.
    pub fn has_logs(&self) -> bool {
        self.wall_time.is_some() || self.info.size_value.is_some() || self.errors.size_value.is_some()
    }

    /// Options and values that go to the host, without the logs.
    pub fn numbers(&self) -> (&[u32], &[u64]) {
        (&self.names, &self.values)
    }

    /// Sends a message with the options and their buffers, and hands the results to the program: also after an error of the driver's,
    /// which `status` tells.
    pub fn ask(&mut self, send: impl FnOnce(Parts<'_>) -> error::Result) -> error::Result {
        let (mut status, mut told) = (0, Told::default());
        let (info_room, error_room) = (self.info.text.len(), self.errors.text.len());
        send(Parts {
            status: &mut status,
            told: &mut told,
            names: &self.names,
            values: &self.values,
            count: self.names.len(),
            info: self.info.buffer(),
            info_room,
            errors: self.errors.buffer(),
            error_room,
        })?;
        set(self.threads, told[0]);
        set(self.wall_time, told[1]);
        self.info.deliver(told[2]);
        self.errors.deliver(told[3]);
        if status == 0 { Ok(()) } else { Err(status) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_go_to_the_programs_buffers_and_values_and_stay_in_their_bounds() {
        let (mut info, mut errors) = ([b'#'; 8], [b'#'; 8]);
        let mut names = [3, 4, 5, 6, 2, 7];
        let number = |n: usize| std::ptr::without_provenance_mut::<c_void>(n);
        let mut values = [
            info.as_mut_ptr().cast(),
            number(6),
            errors.as_mut_ptr().cast(),
            number(4),
            number(0),
            number(3),
        ];
        // SAFETY: arrays of six elements and buffers that are larger than their sizes say.
        let mut options = unsafe { Options::new(6, names.as_mut_ptr(), values.as_mut_ptr()) }.unwrap();
        assert!(options.has_logs());
        let result = options.ask(|parts| {
            assert_eq!(
                (parts.names, parts.values, parts.info_room, parts.error_room),
                (&[2, 7][..], &[0, 3][..], 6, 4)
            );
            parts.info.unwrap()[..3].copy_from_slice(b"yes");
            parts.errors.unwrap().copy_from_slice(b"long");
            (*parts.status, *parts.told) = (218, [0, 77, 3, 4]);
            Ok(())
        });
        assert_eq!(result, Err(218));
        assert_eq!((&info, &errors), (b"yes\0####", b"lon\0####"));
        assert_eq!([values[1], values[3], values[4], values[5]].map(|v| v.addr()), [3, 4, 77, 3]);
    }

    #[test]
    fn options_without_arrays_are_refused() {
        let null = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { Options::new(1, null.0, null.1) }.err(), Some(error::INVALID_VALUE));
        // SAFETY: as above.
        assert!(unsafe { Options::new(0, null.0, null.1) }.is_ok_and(|o| !o.has_logs()));
    }
}
