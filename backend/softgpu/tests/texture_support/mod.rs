//! What the tests of arrays, textures and surfaces share.
#![allow(dead_code, clippy::unwrap_used)]

use vgpu_softgpu::driver::copy_strided::{Memcpy3D, cuMemcpy3D_v2};
use vgpu_softgpu::driver::{array, surface, texture};
use vgpu_softgpu::model::array::Descriptor;
use vgpu_softgpu::model::texture::{Resource, Sampling, View};

use crate::common::{address, download, function, get, launch, load, synchronize, upload};

pub const U8: u32 = 0x01;
pub const U32: u32 = 0x03;
pub const S8: u32 = 0x08;
pub const HALF: u32 = 0x10;
pub const FLOAT: u32 = 0x20;

pub fn descriptor(size: [usize; 3], format: u32, channels: u32, flags: u32) -> Descriptor {
    Descriptor { width: size[0], height: size[1], depth: size[2], format, channels, flags }
}

pub fn create(descriptor: &Descriptor) -> Result<u64, u32> {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { array::cuArray3DCreate_v2(out, Some(descriptor)) })
}

/// An array with these texels.
pub fn filled<T>(descriptor: &Descriptor, texels: &[T]) -> u64 {
    let array = create(descriptor).unwrap();
    fill(array, descriptor, texels);
    array
}

/// The copy of a whole array from or to memory at `host`.
pub fn whole(array: u64, descriptor: &Descriptor, bytes: usize, host: u64, to_array: bool) -> Memcpy3D {
    let (height, depth) = (descriptor.height.max(1), descriptor.depth.max(1));
    let width = bytes / (height * depth);
    let mut copy = Memcpy3D { width, height, depth, ..Memcpy3D::default() };
    if to_array {
        (copy.src_type, copy.src_host, copy.dst_type, copy.dst_array) = (1, host, 3, array);
    } else {
        (copy.dst_type, copy.dst_host, copy.src_type, copy.src_array) = (1, host, 3, array);
    }
    copy
}

pub fn fill<T>(array: u64, descriptor: &Descriptor, texels: &[T]) {
    let copy = whole(array, descriptor, size_of_val(texels), address(texels), true);
    // SAFETY: the copy is of the slice's bytes.
    assert_eq!(unsafe { cuMemcpy3D_v2(Some(&copy)) }, 0);
}

pub fn contents<T: Clone + Default>(array: u64, descriptor: &Descriptor, count: usize) -> Vec<T> {
    let mut texels = vec![T::default(); count];
    let bytes = size_of_val(texels.as_slice());
    let copy = whole(array, descriptor, bytes, texels.as_mut_ptr().expose_provenance() as u64, false);
    // SAFETY: the copy is of the vector's bytes.
    assert_eq!(unsafe { cuMemcpy3D_v2(Some(&copy)) }, 0);
    texels
}

pub fn resource(kind: u32, words: &[u64]) -> Resource {
    let mut resource = Resource { kind, ..Resource::default() };
    resource.words[..words.len()].copy_from_slice(words);
    resource
}

pub fn try_texture(resource: &Resource, sampling: &Sampling, view: Option<&View>) -> Result<u64, u32> {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { texture::cuTexObjectCreate(out, Some(resource), Some(sampling), view) })
}

pub fn texture_of(array: u64, sampling: &Sampling) -> u64 {
    try_texture(&resource(0, &[array]), sampling, None).unwrap()
}

pub fn surface_of(array: u64) -> u64 {
    // SAFETY: the pointers are of live values.
    get(|out| unsafe { surface::cuSurfObjectCreate(out, Some(&resource(0, &[array]))) }).unwrap()
}

/// A module whose kernel `k(object, out, in)` loads four words of its lane into `%r0` to `%r3` and as `%f0` to `%f3`, runs
/// `body`, and stores `%f4` to `%f7`. `declarations` come before it.
pub fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n{declarations}\n\
         .visible .entry k(.param .u64 object, .param .u64 out, .param .u64 in)\n{{\n\
         .reg .pred %p<4>;\n.reg .b16 %h<8>;\n.reg .b32 %r<16>;\n.reg .f32 %f<16>;\n.reg .b64 %rd<8>;\n\
         ld.param.u64 %rd1, [object];\nld.param.u64 %rd2, [out];\nld.param.u64 %rd3, [in];\n\
         mov.u32 %r4, %tid.x;\nmul.wide.u32 %rd4, %r4, 16;\nadd.s64 %rd2, %rd2, %rd4;\n\
         add.s64 %rd3, %rd3, %rd4;\nld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%rd3];\n\
         mov.b32 %f0, %r0;\nmov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\nmov.b32 %f3, %r3;\n\
         {body}\nst.global.v4.f32 [%rd2], {{%f4, %f5, %f6, %f7}};\nret;\n}}\n"
    )
}

/// Runs [`kernel`] with a lane for each input, and gives what each lane stores.
pub fn run<T: Clone>(source: &str, object: u64, inputs: &[[T; 4]]) -> Result<Vec<[f32; 4]>, u32> {
    let to = upload(&vec![[0f32; 4]; inputs.len()]);
    let from = upload(inputs);
    let lanes = u32::try_from(inputs.len()).unwrap();
    match launch(function(load(source), "k"), 1, lanes, &[object, to, from]) {
        0 => {}
        error => return Err(error),
    }
    match synchronize() {
        0 => Ok(download(to, inputs.len())),
        error => Err(error),
    }
}

/// The first results of a fetch of `geometry` (`2d`, `level.2d`, …) at each place.
pub fn sample(texture: u64, geometry: &str, operands: &str, places: &[[f32; 4]]) -> Vec<f32> {
    let body = format!("tex.{geometry}.v4.f32.f32 {{%f4, %f5, %f6, %f7}}, [%rd1, {{{operands}}}];");
    let body = body.replace("}];", if geometry.starts_with("level") { "}], %f3;" } else { "}];" });
    run(&kernel("", &body), texture, places).unwrap().iter().map(|texel| texel[0]).collect()
}
