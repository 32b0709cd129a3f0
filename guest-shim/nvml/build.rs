//! Writes the exports that are derived from the description of NVML, and names the library.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("exports.rs"), vgpu_spec::nvml::codegen::exports()?)?;
    // Programs look the library up by this name.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
