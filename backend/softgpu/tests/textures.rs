//! Texture objects and references: what kernels fetch.
#![allow(clippy::unwrap_used)]

mod common;
mod texture_support;

use std::ffi::CString;

use common::{alloc, get, in_own_process, load, start, upload};
use texture_support::{
    FLOAT, HALF, S8, U8, U32, create, descriptor, fill, filled, kernel, resource, run, sample, texture_of,
    try_texture,
};
use vgpu_softgpu::driver::array::Descriptor2D;
use vgpu_softgpu::driver::{array, memory, module, texture, texture_reference};
use vgpu_softgpu::model::texture::{Resource, Sampling, View};

fn clamped() -> Sampling {
    Sampling { address: [1; 3], ..Sampling::default() }
}

#[test]
fn the_width_of_linear_textures_is_limited_by_texels_and_bytes() {
    start();
    // SAFETY: the pointers are of live values.
    let width = |format, channels, device| {
        get(|out| unsafe { texture::cuDeviceGetTexture1DLinearMaxWidth(out, format, channels, device) })
    };
    assert_eq!(width(U8, 1, 0), Ok(1 << 30));
    assert_eq!(width(FLOAT, 1, 0), Ok(1 << 30));
    assert_eq!(width(FLOAT, 4, 0), Ok(1 << 28));
    assert_eq!(width(FLOAT, 3, 0), Err(1));
    assert_eq!(width(FLOAT, 1, 77), Err(101));
}

fn at_x(places: &[f32]) -> Vec<[f32; 4]> {
    places.iter().map(|x| [*x, 0.0, 0.0, 0.0]).collect()
}

#[test]
fn point_filtering_takes_the_texel_that_the_coordinate_lies_in() {
    start();
    let shape = descriptor([4, 2, 0], FLOAT, 1, 0);
    let texels: Vec<f32> = (0..8).map(|n| n as f32).collect();
    let texture = texture_of(filled(&shape, &texels), &clamped());
    let places = [[0.0, 0.0, 0.0, 0.0], [1.99, 1.0, 0.0, 0.0], [-3.0, 0.5, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0]];
    assert_eq!(sample(texture, "2d", "%f0, %f1", &places), [0.0, 5.0, 0.0, 7.0]);
}

#[test]
fn linear_filtering_mixes_neighbours_with_weights_of_eight_bits() {
    start();
    let texels = [0f32, 65_536.0, 131_072.0, 0.0];
    let array = filled(&descriptor([4, 0, 0], FLOAT, 1, 0), &texels);
    let texture = texture_of(array, &Sampling { filter: 1, ..clamped() });
    let places = at_x(&[0.5, 0.75, 1.0, 0.5 + 1.0 / 256.0, 0.5 + 1.0 / 1024.0, 0.2, 3.9]);
    let expected = [0.0, 16_384.0, 32_768.0, 256.0, 0.0, 0.0, 0.0];
    assert_eq!(sample(texture, "1d", "%f0", &places), expected);
}

#[test]
fn each_address_mode_has_its_own_values_beyond_the_edges() {
    start();
    let array = filled(&descriptor([4, 0, 0], FLOAT, 1, 0), &[10f32, 20.0, 40.0, 80.0]);
    let places = at_x(&[-0.3, 1.3, 2.1]);
    let seen = |mode, flags| {
        let border = [7.0; 4];
        sample(
            texture_of(array, &Sampling { address: [mode; 3], flags, border, ..Sampling::default() }),
            "1d",
            "%f0",
            &places,
        )
    };
    assert_eq!(seen(0, 2), [40.0, 20.0, 10.0]);
    assert_eq!(seen(1, 2), [10.0, 80.0, 80.0]);
    assert_eq!(seen(2, 2), [20.0, 40.0, 10.0]);
    assert_eq!(seen(3, 2), [7.0, 7.0, 7.0]);
    // Without normalized coordinates there is no wrapping.
    assert_eq!(seen(0, 0), [10.0, 20.0, 40.0]);
}

#[test]
fn small_integers_are_fractions_unless_asked_for_as_integers() {
    start();
    let array = filled(&descriptor([2, 0, 0], U8, 1, 0), &[0u8, 255]);
    assert_eq!(sample(texture_of(array, &clamped()), "1d", "%f0", &at_x(&[0.0, 1.0])), [0.0, 1.0]);
    let array = filled(&descriptor([2, 0, 0], S8, 1, 0), &[-128i8, -3]);
    let texture = texture_of(array, &Sampling { flags: 1, ..clamped() });
    let body = "tex.1d.v4.s32.f32 {%r4, %r5, %r6, %r7}, [%rd1, {%f0}]; mov.b32 %f4, %r4;";
    let seen = run(&kernel("", body), texture, &at_x(&[0.0, 1.0])).unwrap();
    assert_eq!(seen.iter().map(|texel| texel[0].to_bits().cast_signed()).collect::<Vec<_>>(), [-128, -3]);
}

#[test]
fn halves_come_as_floats() {
    start();
    let array = filled(&descriptor([2, 0, 0], HALF, 1, 0), &[0x3400u16, 0xc200]);
    assert_eq!(sample(texture_of(array, &clamped()), "1d", "%f0", &at_x(&[0.0, 1.0])), [0.25, -3.0]);
}

#[test]
fn layers_and_faces_are_chosen_by_number_and_direction() {
    start();
    let texels: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let array = filled(&descriptor([2, 2, 3], FLOAT, 1, 1), &texels);
    let layer = |number: u32, x: f32| [f32::from_bits(number), x, 1.0, 0.0];
    let places = [layer(0, 1.0), layer(2, 0.0), layer(9, 1.0)];
    let seen = sample(texture_of(array, &clamped()), "a2d", "%r0, %f1, %f2, %f2", &places);
    assert_eq!(seen, [3.0, 10.0, 11.0]);
    let faces: Vec<f32> = (0..6).map(|n| n as f32).collect();
    let array = filled(&descriptor([1, 1, 6], FLOAT, 1, 4), &faces);
    let directions =
        [[1.0, 0.2, 0.1, 0.0], [-2.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, -1.0, 0.0]];
    let seen = sample(texture_of(array, &clamped()), "cube", "%f0, %f1, %f2, %f2", &directions);
    assert_eq!(seen, [0.0, 1.0, 2.0, 5.0]);
}

#[test]
fn levels_are_chosen_and_mixed() {
    start();
    let shape = descriptor([4, 4, 0], FLOAT, 1, 0);
    // SAFETY: the pointers are of live values.
    let mipmapped = get(|out| unsafe { array::cuMipmappedArrayCreate(out, Some(&shape), 3) }).unwrap();
    for level in 0..3u32 {
        // SAFETY: as above.
        let array = get(|out| unsafe { array::cuMipmappedArrayGetLevel(out, mipmapped, level) }).unwrap();
        let size = 4 >> level;
        fill(array, &descriptor([size, size, 0], FLOAT, 1, 0), &vec![level as f32 * 100.0; size * size]);
    }
    let places: Vec<[f32; 4]> = [0.0, 0.25, 0.75, 1.5, 9.0].map(|level| [0.5, 0.5, 0.0, level]).into();
    let seen = |mipmap_filter, clamp| {
        let sampling = Sampling { flags: 2, mipmap_filter, clamp, ..clamped() };
        let texture = try_texture(&resource(1, &[mipmapped]), &sampling, None).unwrap();
        sample(texture, "level.2d", "%f0, %f1", &places)
    };
    assert_eq!(seen(1, [0.0, 9.0]), [0.0, 25.0, 75.0, 150.0, 200.0]);
    assert_eq!(seen(0, [0.0, 9.0]), [0.0, 0.0, 100.0, 200.0, 200.0]);
    assert_eq!(seen(1, [0.5, 1.0]), [50.0, 50.0, 75.0, 100.0, 100.0]);
    // Eight bits of fraction, cut: 0.1 is 25 of 256, and so is a bias of 0.1.
    let sampling = Sampling { flags: 2, mipmap_filter: 1, clamp: [0.0, 9.0], bias: 0.1, ..clamped() };
    let texture = try_texture(&resource(1, &[mipmapped]), &sampling, None).unwrap();
    let place = [[0.5, 0.5, 0.0, 0.1]];
    assert_eq!(sample(texture, "level.2d", "%f0, %f1", &place), [5000.0 / 256.0]);
    // Without a level there is no bias.
    assert_eq!(sample(texture, "2d", "%f0, %f1", &place), [0.0]);
    // SAFETY: no pointers.
    unsafe {
        assert_eq!(array::cuMipmappedArrayDestroy(mipmapped), 0);
        assert_eq!(array::cuMipmappedArrayDestroy(mipmapped), 400);
    }
}

#[test]
fn mixtures_are_as_an_h100_was_seen_to_give_them() {
    start();
    let close =
        |seen: f32, expected: f32| assert!((seen - expected).abs() < 1e-7, "{seen} is not {expected}");
    let at = [[0.625f32, 0.5625, 0.0, 0.0], [0.75, 0.625, 0.0, 0.0]];
    let linear = Sampling { filter: 1, ..clamped() };
    let seen = |format, bytes: [u8; 4]| {
        sample(
            texture_of(filled(&descriptor([2, 2, 0], format, 1, 0), &bytes), &linear),
            "2d",
            "%f0, %f1",
            &at,
        )
    };
    let unsigned = seen(U8, [0, 255, 10, 100]);
    close(unsigned[0], 0.122_392_617);
    close(unsigned[1], 0.234_683_752);
    let signed = seen(S8, [0x80, 127, 10, 0x9c]);
    close(signed[0], -0.711_416_96);
    close(signed[1], -0.459_883_422);
    // One dimension is a row of two, at its edge.
    let row = filled(&descriptor([4, 0, 0], FLOAT, 1, 0), &[10f32, 20.0, 40.0, 80.0]);
    let border = Sampling { address: [3; 3], border: [7.0, 14.0, 0.0, 0.0], filter: 1, ..clamped() };
    let places = at_x(&[0.0, 0.4, 2.4]);
    assert_eq!(sample(texture_of(row, &border), "1d", "%f0", &places), [7.75, 8.347_656_3, 22.484_375]);
    let bytes = filled(&descriptor([2, 2, 0], U8, 1, 0), &[0u8; 4]);
    let border = Sampling { filter: 0, border: [0.25; 4], ..border };
    close(sample(texture_of(bytes, &border), "2d", "%f0, %f1", &[[5.0; 4]])[0], 0.250_980_407);
}

#[test]
fn channels_that_are_not_there_are_zero_and_negative_layers_the_last() {
    start();
    let array = filled(&descriptor([2, 0, 3], FLOAT, 2, 1), &(0..12).map(|n| n as f32).collect::<Vec<_>>());
    let body = "tex.a1d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%rd1, {%r1, %f0}];";
    let minus_one = f32::from_bits(u32::MAX);
    let seen = run(&kernel("", body), texture_of(array, &clamped()), &[[1.0, minus_one, 0.0, 0.0]]).unwrap();
    assert_eq!(seen, [[10.0, 11.0, 0.0, 0.0]]);
}

#[test]
fn whole_coordinates_beyond_an_array_give_zero() {
    start();
    let array = filled(&descriptor([2, 2, 0], FLOAT, 1, 0), &[1f32, 2.0, 3.0, 4.0]);
    let body = "tex.2d.v4.f32.s32 {%f4, %f5, %f6, %f7}, [%rd1, {%r0, %r1}];";
    let border = Sampling { address: [3; 3], border: [7.0; 4], ..clamped() };
    let places = [[1u32, 1, 0, 0], [2, 0, 0, 0], [u32::MAX, 0, 0, 0]];
    let seen = run(&kernel("", body), texture_of(array, &border), &places).unwrap();
    assert_eq!(seen.iter().map(|texel| texel[0]).collect::<Vec<_>>(), [4.0, 0.0, 0.0]);
}

#[test]
fn gather_gives_one_channel_of_four_texels() {
    start();
    let texels: Vec<f32> = (0..32).map(|n| n as f32).collect();
    let array = filled(&descriptor([4, 4, 0], FLOAT, 2, 8), &texels);
    let texture = texture_of(array, &clamped());
    let body = "tld4.g.2d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%rd1, {%f0, %f1}];";
    let seen = run(&kernel("", body), texture, &[[2.0f32, 2.0, 0.0, 0.0]]).unwrap();
    assert_eq!(seen, [[19.0, 21.0, 13.0, 11.0]]);
}

#[test]
fn a_fetch_beyond_linear_memory_is_zero() {
    start();
    let memory = upload(&[1f32, 2.0, 3.0, 4.0]);
    let texture =
        try_texture(&resource(2, &[memory, u64::from(FLOAT) | 1 << 32, 12]), &clamped(), None).unwrap();
    let body = "tex.1d.v4.f32.s32 {%f4, %f5, %f6, %f7}, [%rd1, {%r0}];";
    let seen = run(&kernel("", body), texture, &[[0u32; 4], [2; 4], [3; 4], [u32::MAX; 4]]).unwrap();
    assert_eq!(seen.iter().map(|texel| texel[0]).collect::<Vec<_>>(), [1.0, 3.0, 0.0, 0.0]);
}

#[test]
fn rows_of_memory_are_a_texture() {
    start();
    let mut rows = vec![0f32; 256];
    (rows[0], rows[1], rows[128], rows[129]) = (1.0, 2.0, 3.0, 4.0);
    let words = [upload(&rows), u64::from(FLOAT) | 1 << 32, 2, 2, 512];
    let texture = try_texture(&resource(3, &words), &clamped(), None).unwrap();
    let places = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]];
    assert_eq!(sample(texture, "2d", "%f0, %f1", &places), [2.0, 3.0, 4.0]);
}

#[test]
fn a_view_has_another_format() {
    start();
    let shape = descriptor([2, 0, 0], U32, 1, 0);
    let array = filled(&shape, &[1f32, -2.0]);
    // CU_RES_VIEW_FORMAT_FLOAT_1X32
    let view = View { format: 0x16, size: [2, 0, 0], ..View::default() };
    let texture = try_texture(&resource(0, &[array]), &clamped(), Some(&view)).unwrap();
    assert_eq!(sample(texture, "1d", "%f0", &at_x(&[0.0, 1.0])), [1.0, -2.0]);
    let last = View { levels: [0, 1], ..view };
    assert_eq!(try_texture(&resource(0, &[array]), &clamped(), Some(&last)), Err(1));
    let larger = View { size: [3, 0, 0], ..view };
    assert_eq!(try_texture(&resource(0, &[array]), &clamped(), Some(&larger)), Err(1));
    let wider = View { format: 0x18, ..view };
    assert_eq!(try_texture(&resource(0, &[array]), &clamped(), Some(&wider)), Err(1));
    assert_eq!(try_texture(&resource(0, &[array]), &clamped(), Some(&View::default())), Err(1));
}

#[test]
fn descriptions_are_read_back_and_bad_ones_refused() {
    start();
    let array = create(&descriptor([4, 4, 0], FLOAT, 1, 0)).unwrap();
    let good = resource(0, &[array]);
    let sampling = Sampling { filter: 1, anisotropy: 77, clamp: [0.0, 3.0], border: [1.0; 4], ..clamped() };
    let texture = try_texture(&good, &sampling, None).unwrap();
    // SAFETY: the pointers are of live values, all of whose bytes are valid before the calls.
    unsafe {
        let mut told = std::mem::MaybeUninit::new(Sampling { border: [9.0; 4], ..Sampling::default() });
        assert_eq!(texture::cuTexObjectGetTextureDesc(Some(&mut told), texture), 0);
        // The border color is not told.
        assert_eq!(told.assume_init(), Sampling { border: [9.0; 4], ..sampling });
        let mut told = std::mem::MaybeUninit::new(Resource { words: [5; 16], ..Resource::default() });
        assert_eq!(texture::cuTexObjectGetResourceDesc(Some(&mut told), texture), 0);
        assert_eq!(told.assume_init().words[..2], [array, 5]);
        assert_eq!(texture::cuTexObjectDestroy(texture), 0);
        assert_eq!(texture::cuTexObjectDestroy(texture), 0);
        assert_eq!(texture::cuTexObjectGetResourceDesc(Some(&mut told), texture), 1);
    }
    let refused = |resource: &Resource, sampling: &Sampling| try_texture(resource, sampling, None) == Err(1);
    assert!(refused(&good, &Sampling { address: [4, 0, 0], ..sampling }));
    assert!(refused(&good, &Sampling { filter: 2, ..sampling }));
    assert!(refused(&good, &Sampling { flags: 0x100, ..sampling }));
    assert!(refused(&good, &Sampling { flags: 0x40, ..sampling }));
    assert!(refused(&resource(0, &[12_345]), &sampling));
    assert!(refused(&resource(4, &[array]), &sampling));
    assert!(refused(&Resource { flags: 1, ..good }, &sampling));
    let memory = alloc(4096);
    let one_float = u64::from(FLOAT) | 1 << 32;
    assert!(refused(&resource(2, &[memory + 4, one_float, 64]), &sampling));
    assert!(refused(&resource(2, &[0, one_float, 64]), &sampling));
    assert!(refused(&resource(2, &[memory, u64::from(FLOAT) | 3 << 32, 64]), &sampling));
    assert!(refused(&resource(3, &[memory, one_float, 4, 4, 72]), &sampling));
}

#[test]
fn a_texture_keeps_its_array_and_a_destroyed_texture_is_a_fault() {
    let name = "a_texture_keeps_its_array_and_a_destroyed_texture_is_a_fault";
    in_own_process(name, &[], || {
        start();
        let array = filled(&descriptor([1, 0, 0], FLOAT, 1, 0), &[5f32]);
        let texture = texture_of(array, &clamped());
        // SAFETY: no pointers.
        assert_eq!(unsafe { array::cuArrayDestroy(array) }, 0);
        assert_eq!(sample(texture, "1d", "%f0", &at_x(&[0.0])), [5.0]);
        let body = "tex.1d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [%rd1, {%f0}];";
        // SAFETY: no pointers.
        assert_eq!(unsafe { texture::cuTexObjectDestroy(texture) }, 0);
        assert_eq!(run(&kernel("", body), texture, &at_x(&[0.0])), Err(700));
    });
}

#[test]
fn freed_memory_is_a_fault_and_not_a_crash() {
    in_own_process("freed_memory_is_a_fault_and_not_a_crash", &[], || {
        start();
        let memory = alloc(1 << 20);
        let words = [memory, u64::from(FLOAT) | 1 << 32, 1 << 20];
        let texture = try_texture(&resource(2, &words), &clamped(), None).unwrap();
        // SAFETY: no pointers.
        assert_eq!(unsafe { memory::cuMemFree_v2(memory) }, 0);
        let body = "tex.1d.v4.f32.s32 {%f4, %f5, %f6, %f7}, [%rd1, {%r0}];";
        assert_eq!(run(&kernel("", body), texture, &[[100u32; 4]]), Err(700));
    });
}

#[test]
fn a_texture_reference_shows_what_it_was_set_to() {
    start();
    let body = "tex.1d.v4.f32.f32 {%f4, %f5, %f6, %f7}, [pictures, {%f0}];\nld.param.u64 %rd1, [object];";
    let source = kernel(".global .texref pictures;", body);
    let module = load(&source);
    let reference = |name: &str| {
        let name = CString::new(name).unwrap();
        // SAFETY: the pointers are of live values.
        get(|out| unsafe { texture_reference::cuModuleGetTexRef(out, module, name.as_ptr()) })
    };
    assert_eq!(reference("nothing"), Err(500));
    let reference = reference("pictures").unwrap();
    let array = filled(&descriptor([2, 0, 0], FLOAT, 1, 0), &[3f32, 4.0]);
    let launch = || {
        let (to, from) = (upload(&[0f32; 4]), upload(&[1f32, 0.0, 0.0, 0.0]));
        assert_eq!(common::launch(common::function(module, "k"), 1, 1, &[0, to, from]), 0);
        assert_eq!(common::synchronize(), 0);
        common::download::<f32>(to, 1)[0]
    };
    // SAFETY: the pointers are of live values.
    unsafe {
        assert_eq!(get(|out| texture_reference::cuTexRefGetArray(out, reference)), Err(1));
        assert_eq!(texture_reference::cuTexRefSetArray(reference, 0, 1), 400);
        assert_eq!(texture_reference::cuTexRefSetArray(reference, array, 1), 0);
        assert_eq!(get(|out| texture_reference::cuTexRefGetArray(out, reference)), Ok(array));
        assert_eq!(launch(), 4.0);
        let memory = upload(&[7f32, 8.0]);
        assert_eq!(get(|out| texture_reference::cuTexRefSetAddress_v2(out, reference, memory, 8)), Ok(0));
        assert_eq!(get(|out| texture_reference::cuTexRefGetAddress_v2(out, reference)), Ok(memory));
        // Memory without rows is for whole coordinates.
        assert_eq!(launch(), 0.0);
        let rows = Descriptor2D { width: 2, height: 1, format: FLOAT, channels: 1 };
        assert_eq!(texture_reference::cuTexRefSetAddress2D_v3(reference, Some(&rows), memory, 32), 0);
        assert_eq!(launch(), 8.0);
        assert_eq!(texture_reference::cuTexRefSetAddress2D_v3(reference, Some(&rows), memory, 72), 1);
        assert_eq!(texture_reference::cuTexRefSetAddress_v2(None, reference, memory + 4, 4), 1);
        assert_eq!(get(|out| texture_reference::cuTexRefSetAddress_v2(out, reference, memory + 4, 4)), Ok(4));
        assert_eq!(texture_reference::cuTexRefSetFlags(reference, 0x8000), 1);
        assert_eq!(texture_reference::cuTexRefSetAddressMode(reference, 3, 0), 1);
        assert_eq!(texture_reference::cuTexRefSetFilterMode(0, 0), 400);
        assert_eq!(module::cuModuleUnload(module), 0);
        assert_eq!(texture_reference::cuTexRefSetFlags(reference, 0), 400);
    }
}
