//! Module images.

use std::collections::HashMap;
use std::sync::Arc;

use vgpu_backend::worker::api::image::{Image, Wrapper};
use vgpu_softgpu::{exec::Program, image, ptx};
use vgpu_spec::wire::image as wire;
use vgpu_tests::kernels::KERNELS;

/// The worker's check, before the driver gets the image.
pub fn run(bytes: &[u8]) {
    if let Ok(image) = Image::check(bytes.to_vec()) {
        let wrapper = Wrapper::around(&image);
        assert!(!image.is_linked() || wrapper.is_some(), "several fat binaries need a wrapper");
    }
}

/// softgpu's way from an image to a program.
pub fn run_ptx(bytes: &[u8]) {
    let Ok(source) = image::ptx_in(bytes.to_vec()) else { return };
    let Ok(module) = ptx::Module::parse(&source) else { return };
    let place = |(number, variable): (usize, &ptx::Variable)| {
        (variable.name.clone(), 0x1000_0000 * (number as u64 + 1))
    };
    let addresses: HashMap<String, u64> = module.variables().iter().enumerate().map(place).collect();
    let _ = Program::link(Arc::new(module), &addresses);
}

/// A fat binary with one entry of PTX.
fn fatbin(ptx: &[u8]) -> Vec<u8> {
    let (payload, padded) = (ptx.len() as u64, ptx.len().next_multiple_of(8));
    let mut entry = Vec::new();
    entry.extend(1_u16.to_le_bytes());
    entry.extend(0x101_u16.to_le_bytes());
    entry.extend(64_u32.to_le_bytes());
    entry.extend((padded as u64).to_le_bytes());
    // Compressed bytes, options, version and target, then what is not looked at.
    entry.extend([0_u32, 0].iter().flat_map(|w| w.to_le_bytes()));
    entry.extend([0_u16, 8, 80, 0].iter().flat_map(|w| w.to_le_bytes()));
    entry.resize(56, 0);
    entry.extend(payload.to_le_bytes());
    entry.extend_from_slice(ptx);
    entry.resize(64 + padded, 0);
    let mut bytes = 0xba55_ed50_u32.to_le_bytes().to_vec();
    bytes.extend([1_u16, 16].iter().flat_map(|w| w.to_le_bytes()));
    bytes.extend((entry.len() as u64).to_le_bytes());
    bytes.extend(entry);
    bytes
}

/// The smallest ELF file that has a section.
fn elf() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2_u16, 190].iter().flat_map(|w| w.to_le_bytes()));
    bytes.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers.
    bytes.extend([0_u64, 0, 64].iter().flat_map(|w| w.to_le_bytes()));
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64_u16, 56, 0, 64, 1, 0].iter().flat_map(|w| w.to_le_bytes()));
    bytes.resize(128, 0);
    bytes
}

fn linked(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
    let (mut bytes, places) = wire::layout(&lengths).ok()?;
    for (part, place) in parts.iter().zip(places) {
        bytes.resize(usize::try_from(place.base).ok()?, 0);
        bytes.extend_from_slice(part);
    }
    Some(bytes)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let ptx = KERNELS.to_bytes_with_nul();
    let (small, binary) = (b".version 8.0\n.target sm_80\n.address_size 64\n\0".to_vec(), fatbin(ptx));
    let linked = linked(&[&fatbin(&small), &fatbin(&small)]);
    [small, ptx.to_vec(), binary, elf()].into_iter().chain(linked).collect()
}
