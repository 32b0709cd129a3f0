//! A library, loaded as ggml loads its backends and cudart the driver: RTLD_NOW, RTLD_LOCAL.

use super::answer::{Answer, Step};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

/// A call failed, or a function is missing: the answer has it.
#[derive(Debug)]
pub struct Stop;

/// Names a code, by a function of the library.
pub type Namer = fn(&Loaded, i64) -> String;

/// A loaded library and what it answered so far.
pub struct Loaded {
    library: Library,
    pub answer: Answer,
    namer: Namer,
}

impl Loaded {
    /// A function of the library; `T` must be its type.
    pub fn get<T>(&mut self, name: &str) -> Result<Symbol<T>, Stop> {
        match self.symbol(name) {
            Ok(symbol) => Ok(symbol),
            Err(error) => {
                self.answer.load_error = Some(error);
                Err(Stop)
            }
        }
    }

    fn symbol<T>(&self, name: &str) -> Result<Symbol<T>, String> {
        // SAFETY: callers name the type that the library's header has for `name`.
        unsafe { self.library.get::<T>(name.as_bytes()) }.map_err(|error| words(&error))
    }

    /// The same, if it is not needed.
    pub fn find<T>(&self, name: &str) -> Option<Symbol<T>> {
        self.symbol(name).ok()
    }

    /// Notes what `call` returned.
    pub fn check(&mut self, call: &str, code: impl Into<i64>) -> Result<(), Stop> {
        let code = code.into();
        if code == 0 {
            return Ok(());
        }
        let name = (self.namer)(self, code);
        self.answer.failed = Some(Step { call: call.into(), code, name });
        Err(Stop)
    }

    /// The name of a code by a function of the form `const char *name(int code)`.
    pub fn name_by(&self, function: &str, code: i64) -> String {
        type Name = unsafe extern "C" fn(c_int) -> *const c_char;
        let Some(name) = self.find::<Name>(function) else { return String::new() };
        // SAFETY: the function takes any code and returns a text that lasts, or null.
        unsafe { c_text(name(c_int::try_from(code).unwrap_or(c_int::MAX))) }
    }
}

/// Loads the library at `path` and has `run` call it.
pub fn ask(path: &Path, namer: Namer, run: fn(&mut Loaded) -> Result<(), Stop>) -> Answer {
    let library = match load(path) {
        Ok(library) => library,
        Err(error) => return Answer { load_error: Some(error), ..Answer::default() },
    };
    let mut loaded = Loaded { library, answer: Answer::default(), namer };
    // What failed is in the answer.
    let _ = run(&mut loaded);
    loaded.answer
}

/// Whether a library loads, with everything that it imports.
pub fn probe(path: &Path) -> Answer {
    match load(path) {
        Ok(library) => {
            // Its destructors are not our business.
            std::mem::forget(library);
            Answer::default()
        }
        Err(error) => Answer { load_error: Some(error), ..Answer::default() },
    }
}

fn load(path: &Path) -> Result<Library, String> {
    // SAFETY: the library's constructors run, as in any program that uses it; this process is for that.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| words(&error))
}

/// The loader's words, which say what is missing.
fn words(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// A C text; empty for null.
///
/// # Safety
/// `at` is null or the address of a text that ends with a NUL.
pub unsafe fn c_text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

/// A C string of a constant text.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
