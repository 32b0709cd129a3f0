//! What the built library exports.
#![allow(clippy::unwrap_used)]

mod support;

use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;

#[test]
fn every_described_function_is_exported_and_nothing_else() {
    let bytes = std::fs::read(support::path()).unwrap();
    let file = object::File::parse(&bytes[..]).unwrap();
    let exported: BTreeSet<String> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .filter_map(|symbol| symbol.name().ok().map(String::from))
        .collect();
    let mut described: BTreeSet<String> =
        vgpu_spec::nvml::functions().unwrap().into_iter().map(|function| function.name).collect();
    // By which the file is known to be ours.
    described.insert(vgpu_client::marker::SYMBOL.into());
    assert_eq!(exported, described);
}

#[test]
fn the_library_has_the_native_soname() {
    let bytes = std::fs::read(support::path()).unwrap();
    // The name is a string of the dynamic section; only there can it occur.
    let needle = b"\0libnvidia-ml.so.1\0";
    assert!(bytes.windows(needle.len()).any(|window| window == needle));
}

#[test]
fn functions_are_found_by_name_at_run_time() {
    let nvml = support::Nvml::open();
    for name in ["nvmlInit", "nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlErrorString", "nvmlGpmSampleGet"] {
        assert!(nvml.has(name), "{name}");
    }
    assert!(!nvml.has("nvmlNotThere"));
}
