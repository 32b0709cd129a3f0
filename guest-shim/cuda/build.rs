//! Writes the code that is derived from the description of the driver API, and names the library.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    for (name, text) in vgpu_spec::codegen::shim::generate()? {
        fs::write(Path::new(&out).join(name), text)?;
    }
    // Programs and cudart look the library up by this name.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
