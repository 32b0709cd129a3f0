//! The built library as programs see it: loaded by name, functions found by symbol.

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The `cdylib` that was built together with this test.
fn library() -> Option<PathBuf> {
    let folder = std::env::current_exe().ok()?.parent()?.to_path_buf();
    let places = [folder.join("libvgpu_softgpu.so"), folder.parent()?.join("libvgpu_softgpu.so")];
    places.into_iter().find(|place| place.exists())
}

struct Library(*mut c_void);

impl Library {
    fn open() -> Library {
        let path = library().expect("the library was built with its tests");
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in NUL.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        // SAFETY: after a failure there is a text.
        assert!(!handle.is_null(), "{:?}", unsafe { CStr::from_ptr(libc::dlerror()) });
        Library(handle)
    }

    /// # Safety
    /// `T` must be the type of the function.
    unsafe fn get<T: Copy>(&self, name: &CStr) -> T {
        // SAFETY: the handle is open.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!symbol.is_null(), "{name:?}");
        // SAFETY: the caller answers for the type.
        unsafe { std::mem::transmute_copy(&symbol) }
    }
}

#[test]
fn a_program_adds_vectors_through_the_symbols() {
    let library = Library::open();
    let source = CString::new(common::KERNELS).unwrap();
    let n = 100u32;
    let (a, b, mut c) = (vec![1.5f32; 100], vec![2.0f32; 100], vec![0f32; 100]);
    // SAFETY: the types are those of cuda.h, and the pointers are of live values.
    unsafe {
        let init: unsafe extern "C" fn(u32) -> u32 = library.get(c"cuInit");
        let create: unsafe extern "C" fn(*mut u64, *const c_void, u32, i32) -> u32 =
            library.get(c"cuCtxCreate_v4");
        let load: unsafe extern "C" fn(*mut u64, *const c_void) -> u32 = library.get(c"cuModuleLoadData");
        let find: unsafe extern "C" fn(*mut u64, u64, *const i8) -> u32 = library.get(c"cuModuleGetFunction");
        let alloc: unsafe extern "C" fn(*mut u64, usize) -> u32 = library.get(c"cuMemAlloc_v2");
        let up: unsafe extern "C" fn(u64, *const c_void, usize) -> u32 = library.get(c"cuMemcpyHtoD_v2");
        let down: unsafe extern "C" fn(*mut c_void, u64, usize) -> u32 = library.get(c"cuMemcpyDtoH_v2");
        type Launch = unsafe extern "C" fn(
            u64,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u64,
            *mut *mut c_void,
            *mut *mut c_void,
        ) -> u32;
        let launch: Launch = library.get(c"cuLaunchKernel");

        let (mut context, mut module, mut add) = (0, 0, 0);
        let (mut da, mut db, mut dc) = (0u64, 0u64, 0u64);
        assert_eq!(init(0), 0);
        assert_eq!(create(&mut context, std::ptr::null(), 0, 0), 0);
        assert_eq!(load(&mut module, source.as_ptr().cast()), 0);
        assert_eq!(find(&mut add, module, c"add".as_ptr().cast()), 0);
        for place in [&mut da, &mut db, &mut dc] {
            assert_eq!(alloc(place, 400), 0);
        }
        assert_eq!(up(da, a.as_ptr().cast(), 400), 0);
        assert_eq!(up(db, b.as_ptr().cast(), 400), 0);
        let mut count = n;
        let mut params =
            [(&raw mut da).cast(), (&raw mut db).cast(), (&raw mut dc).cast(), (&raw mut count).cast()];
        assert_eq!(launch(add, 4, 1, 1, 32, 1, 1, 0, 0, params.as_mut_ptr(), std::ptr::null_mut()), 0);
        assert_eq!(down(c.as_mut_ptr().cast(), dc, 400), 0);
    }
    assert_eq!(c, vec![3.5f32; 100]);
}
