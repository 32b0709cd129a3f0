//! libcuda.so.1 and a call of any of its functions.

use crate::crash::{self, WORDS};
use std::ffi::CString;

/// A call's arguments, by the x86-64 calling convention: integers and pointers, floats, and a structure of 64 bytes by value.
#[derive(Default, Clone)]
pub struct Call {
    pub integers: Vec<u64>,
    pub floats: [f32; 2],
    /// Goes on the stack; then all integers fit into registers.
    pub big: Option<[u64; 8]>,
}

/// What a fixture's call counts as when it crashed: no code of CUDA.
const CRASHED: u32 = 0xffff_ffff;

/// The driver library, loaded for the life of the process.
pub struct Driver(*mut libc::c_void);

impl Driver {
    /// Loads libcuda.so.1, NVIDIA's or ours.
    ///
    /// # Errors
    /// The loader's message.
    pub fn open() -> Result<Driver, String> {
        // SAFETY: a constant name; the library's constructors are the driver's.
        let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            Err("loading libcuda.so.1: it does not load".into())
        } else {
            Ok(Driver(handle))
        }
    }

    /// A symbol's address.
    pub fn symbol(&self, name: &str) -> Option<usize> {
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is of dlopen, the name ends with NUL.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address as usize)
    }

    /// Calls the function at `address`; what it returns, or None if it crashed.
    pub fn call(&self, address: usize, call: &Call) -> Option<u32> {
        let mut words = [0u64; WORDS];
        let from = if call.big.is_some() { 6 } else { WORDS };
        for (slot, value) in words[..from].iter_mut().zip(&call.integers) {
            *slot = *value;
        }
        if let Some(big) = call.big {
            words[6..14].copy_from_slice(&big);
        }
        crash::call(address, &words, call.floats)
    }

    /// Calls a function by name with integers; 500 (CUDA_ERROR_NOT_FOUND) if there is none of that name.
    pub fn cu(&self, name: &str, words: &[u64]) -> u32 {
        match self.symbol(name) {
            Some(address) => {
                self.call(address, &Call { integers: words.to_vec(), ..Call::default() }).unwrap_or(CRASHED)
            }
            None => 500,
        }
    }
}
