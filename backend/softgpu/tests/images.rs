//! Images: good ones, bad ones, and those that nvcc makes, if it is found (`NVCC`, or on the path).

#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::process::Command;

use common::*;
use vgpu_softgpu::driver::{library, module};

const INVALID_VALUE: u32 = 1;
const INVALID_IMAGE: u32 = 200;
const NO_BINARY: u32 = 209;
const INVALID_PTX: u32 = 218;

const CUDA_SOURCE: &str = r#"
__device__ int counter = 40;
extern "C" __global__ void bump(int *to) { to[threadIdx.x] = ++counter; }
"#;

#[test]
fn what_is_no_image_is_refused() {
    start();
    assert_eq!(try_load(b"hello world"), Err(INVALID_IMAGE));
    assert_eq!(try_load(b""), Err(INVALID_IMAGE));
    assert_eq!(try_load(b"\x01\x02\x03\x04\x05"), Err(INVALID_IMAGE));
    assert_eq!(try_load(b"\x7fELF\x02\x01\x01"), Err(NO_BINARY));
    assert_eq!(try_load(b"\x50\xed\x55\xba\x01\x00\x10\x00\0\0\0\0\0\0\0\0"), Err(NO_BINARY));
    // SAFETY: NULL is checked.
    assert_eq!(get(|out| unsafe { module::cuModuleLoadData(out, 0) }), Err(INVALID_VALUE));
}

#[test]
fn a_fatbin_that_lies_about_its_size_is_refused() {
    start();
    let mut image = b"\x50\xed\x55\xba\x01\x00\x10\x00".to_vec();
    image.extend_from_slice(&(1u64 << 45).to_le_bytes());
    assert_eq!(try_load(&image), Err(INVALID_IMAGE));
}

#[test]
fn ptx_of_another_version_or_for_another_device_is_refused() {
    start();
    assert_eq!(try_load(KERNELS.replace("8.0", "99.0").as_bytes()), Err(222));
    assert_eq!(
        try_load(KERNELS.replace("8.0", "8.7").replace("sm_80", "sm_100").as_bytes()),
        Err(INVALID_PTX)
    );
}

#[test]
fn bad_ptx_fills_the_error_log() {
    start();
    let image = c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k( { ret; }";
    let mut log = [0x7f as c_char; 256];
    let options = [5u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
    let image = address(image.to_bytes_with_nul());
    let values_at = values.as_mut_ptr();
    // SAFETY: the log is as long as its size says.
    let code = get(|out| unsafe { module::cuModuleLoadDataEx(out, image, 2, options.as_ptr(), values_at) });
    assert_eq!(code, Err(INVALID_PTX));
    // SAFETY: the log ends in NUL.
    let text = unsafe { CStr::from_ptr(log.as_ptr()) }.to_str().unwrap();
    assert!(text.contains("line 4"), "{text:?}");
    assert_eq!(values[1].addr(), text.len());
}

fn nvcc() -> Option<PathBuf> {
    let nvcc = std::env::var_os("NVCC").map_or_else(|| PathBuf::from("nvcc"), PathBuf::from);
    Command::new(&nvcc).arg("--version").output().ok().filter(|output| output.status.success())?;
    Some(nvcc)
}

/// What nvcc makes of the source with these arguments; none if there is no nvcc.
fn compile(name: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let Some(nvcc) = nvcc() else {
        println!("skipped: no nvcc on the path or in NVCC");
        return None;
    };
    let folder = std::env::temp_dir().join(format!("softgpu-images-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (source, image) = (folder.join("source.cu"), folder.join("image"));
    std::fs::write(&source, CUDA_SOURCE).unwrap();
    let output = Command::new(nvcc).args(arguments).arg("-o").args([&image, &source]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let image = std::fs::read(image).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Some(image)
}

fn expect_bump(module: u64) {
    let place = upload(&[0i32]);
    assert_eq!(launch(function(module, "bump"), 1, 1, &[place]), 0);
    assert_eq!(download::<i32>(place, 1), [41]);
}

#[test]
fn fatbins_of_nvcc_load_whatever_their_compression() {
    start();
    for mode in ["none", "default", "speed", "size", "balance"] {
        let compression = format!("-compress-mode={mode}");
        let arguments = ["-fatbin", &compression, "-gencode", "arch=compute_90,code=[sm_90,compute_90]"];
        let Some(image) = compile(mode, &arguments) else { return };
        expect_bump(try_load(&image).unwrap());
    }
}

#[test]
fn ptx_of_nvcc_loads() {
    start();
    let Some(image) = compile("ptx", &["-ptx", "-arch=compute_80"]) else { return };
    expect_bump(try_load(&image).unwrap());
}

#[test]
fn a_fatbin_of_machine_code_alone_is_refused() {
    start();
    let Some(image) = compile("cubin", &["-fatbin", "-gencode", "arch=compute_90,code=sm_90"]) else {
        return;
    };
    assert_eq!(try_load(&image), Err(NO_BINARY));
}

#[test]
fn the_wrapper_of_host_code_loads_as_a_library() {
    start();
    let Some(image) = compile("wrapper", &["-fatbin", "-gencode", "arch=compute_75,code=compute_75"]) else {
        return;
    };
    let mut wrapper = 0x4662_43b1u32.to_le_bytes().to_vec();
    wrapper.extend_from_slice(&1u32.to_le_bytes());
    wrapper.extend_from_slice(&address(&image).to_le_bytes());
    wrapper.extend_from_slice(&0u64.to_le_bytes());
    let (none, values) = (std::ptr::null(), std::ptr::null_mut());
    // SAFETY: the wrapper points to a fatbin, and there are no options.
    unsafe {
        let library = get(|out| {
            library::cuLibraryLoadData(out, address(&wrapper), none, values, 0, none, std::ptr::null(), 0)
        });
        expect_bump(get(|out| library::cuLibraryGetModule(out, library.unwrap())).unwrap());
    }
}
