#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vgpu_fuzz::run("calls", bytes));
