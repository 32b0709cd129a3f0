//! libcuda.so.1 and a call of any of its functions.

use std::{ffi::CString, ptr};

/// A call's arguments, by the x86-64 calling convention: integers and pointers, floats, and a structure of 64 bytes by value.
#[derive(Default, Clone)]
pub struct Call {
    pub integers: Vec<u64>,
    pub floats: [f32; 2],
    /// Goes on the stack; then all integers fit into registers.
    pub big: Option<[u64; 8]>,
}

/// Most words that a call gets; no function of the API has more parameters.
const WORDS: usize = 20;

// Words that the function does not take lie unread in registers and on the caller's stack.
type Any = unsafe extern "C" fn(
    f32,
    f32,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
) -> u32;

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

    /// Calls the function at `address`; what it returns.
    pub fn call(&self, address: usize, call: &Call) -> u32 {
        let mut w = [0u64; WORDS];
        let from = if call.big.is_some() { 6 } else { WORDS };
        for (slot, value) in w[..from].iter_mut().zip(&call.integers) {
            *slot = *value;
        }
        if let Some(big) = call.big {
            w[6..14].copy_from_slice(&big);
        }
        // SAFETY: the address is of dlsym, so a function with this convention; bad arguments are this program's purpose, and a
        // process of its own bears what comes of them.
        unsafe {
            let f: Any = std::mem::transmute::<*const (), Any>(ptr::with_exposed_provenance(address));
            f(
                call.floats[0],
                call.floats[1],
                w[0],
                w[1],
                w[2],
                w[3],
                w[4],
                w[5],
                w[6],
                w[7],
                w[8],
                w[9],
                w[10],
                w[11],
                w[12],
                w[13],
                w[14],
                w[15],
                w[16],
                w[17],
                w[18],
                w[19],
            )
        }
    }

    /// Calls a function by name with integers; 500 (CUDA_ERROR_NOT_FOUND) if there is none of that name.
    pub fn cu(&self, name: &str, words: &[u64]) -> u32 {
        match self.symbol(name) {
            Some(address) => self.call(address, &Call { integers: words.to_vec(), ..Call::default() }),
            None => 500,
        }
    }
}
