//! What the tests of the interpreter share: memory that counts as the device's, and launches.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use vgpu_softgpu::exec::{self, Fault, Launch, Memory, Program};
use vgpu_softgpu::ptx::{self, Module};

/// Buffers of 64-bit words that a kernel may access; everything else is illegal.
#[derive(Default)]
pub struct Device {
    buffers: Vec<Box<[u64]>>,
}

impl Memory for Device {
    fn accessible(&self, addr: u64, len: u64) -> bool {
        self.buffers.iter().any(|buffer| {
            let start = buffer.as_ptr().expose_provenance() as u64;
            addr >= start && addr.checked_add(len).is_some_and(|end| end <= start + buffer.len() as u64 * 8)
        })
    }
}

impl Device {
    /// Makes a buffer with these contents, padded to whole words, and returns its address.
    pub fn buffer(&mut self, bytes: &[u8]) -> u64 {
        let mut words = vec![0u64; bytes.len().div_ceil(8).max(1)];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(all);
        }
        self.buffers.push(words.into_boxed_slice());
        self.buffers.last_mut().unwrap().as_mut_ptr().expose_provenance() as u64
    }

    pub fn words(&mut self, values: &[u32]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.buffer(&bytes)
    }

    pub fn read(&self, address: u64, length: usize) -> Vec<u8> {
        assert!(self.accessible(address, length as u64));
        (0..length)
            .map(|i| {
                let place = std::ptr::with_exposed_provenance::<u8>(address as usize + i);
                // SAFETY: the address was found to lie in a buffer; no kernel runs now.
                unsafe { place.read_volatile() }
            })
            .collect()
    }

    pub fn read_u32(&self, address: u64, count: usize) -> Vec<u32> {
        let bytes = self.read(address, count * 4);
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn read_u64(&self, address: u64, count: usize) -> Vec<u64> {
        let bytes = self.read(address, count * 8);
        bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// Parses, places variables, and links.
pub fn load(device: &mut Device, source: &str) -> Program {
    let module = Arc::new(Module::parse(source).unwrap());
    let mut addresses = HashMap::new();
    for variable in module.variables() {
        let mut bytes = variable.init.clone();
        bytes.resize(bytes.len() + 16, 0);
        addresses.insert(variable.name.clone(), device.buffer(&bytes));
    }
    for variable in module.variables() {
        for ptx::Relocation { offset, symbol, addend } in &variable.relocations {
            let place = addresses[&variable.name] + offset;
            let place = std::ptr::with_exposed_provenance_mut::<u64>(place as usize);
            // SAFETY: the buffer was made above for this variable and nothing else uses it yet.
            unsafe { place.write_unaligned(addresses[symbol].wrapping_add(*addend)) };
        }
    }
    Program::link(module, &addresses).unwrap()
}

/// Packs parameters of 8 bytes each.
pub fn params(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Launches and returns what was printed.
pub fn launch(
    device: &Device,
    program: &Program,
    kernel: &str,
    grid: u32,
    block: u32,
    params: &[u8],
) -> Result<String, Fault> {
    let launch =
        Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 4096, params, sm_count: 4 };
    let mut text = Vec::new();
    exec::run(program, kernel, &launch, device, &mut |bytes| text.extend_from_slice(bytes))?;
    Ok(String::from_utf8(text).unwrap())
}

/// A module with one kernel `k` whose body is `body`, with `count` parameters of 64 bits named `p0`, `p1`, ….
pub fn kernel(count: usize, body: &str) -> String {
    let params: Vec<String> = (0..count).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<64>;\n.reg .b64 %rd<64>;\n\
         .reg .f32 %f<32>;\n.reg .f64 %fd<32>;\n{body}\nret;\n}}\n",
        params.join(", ")
    )
}

/// A small generator of test values; the same sequence in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Values with many corner cases among them.
    pub fn word(&mut self) -> u32 {
        let corners = [0, 1, 2, 31, 32, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff, 0x8000, 0x3f80_0000];
        match self.next() % 4 {
            0 => corners[(self.next() % corners.len() as u64) as usize],
            1 => (self.next() >> 40) as u32 & 0xff,
            _ => (self.next() >> 16) as u32,
        }
    }
}
