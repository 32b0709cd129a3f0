//! Writes the code that is derived from the description of the driver API.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    for (name, text) in vgpu_spec::codegen::worker::generate()? {
        fs::write(Path::new(&out).join(name), text)?;
    }
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
