//! Arrays, copies with them, and surfaces.
#![allow(clippy::unwrap_used)]

mod common;
mod texture_support;

use common::{address, alloc, download, get, in_own_process, new_stream, start, upload};
use texture_support::{FLOAT, U8, U32, contents, create, descriptor, filled, kernel, run, surface_of};
use vgpu_softgpu::driver::copy_array::{self, BatchCopy, Operand};
use vgpu_softgpu::driver::copy_strided::{Memcpy2D, Memcpy3D, cuMemcpy2D_v2, cuMemcpy3D_v2};
use vgpu_softgpu::driver::{array, memory, stream, surface};
use vgpu_softgpu::model::array::Descriptor;

#[test]
fn only_arrays_that_a_device_can_have_are_made() {
    start();
    let answer = |size, flags| create(&descriptor(size, FLOAT, 1, flags)).map(drop);
    for (size, flags) in [
        ([16, 0, 0], 0),
        ([16, 16, 0], 0),
        ([16, 16, 16], 0),
        ([131_072, 0, 0], 0),
        ([16, 16, 6], 4),
        ([16, 16, 12], 5),
        ([16, 0, 5], 1),
        ([16, 16, 2048], 1),
        ([16, 16, 0], 8),
        ([16, 16, 0], 10),
    ] {
        assert_eq!(answer(size, flags), Ok(()), "{size:?} {flags}");
    }
    for (size, flags) in [
        ([0, 0, 0], 0),
        ([16, 0, 16], 0),
        ([131_073, 0, 0], 0),
        ([1, 65_537, 0], 0),
        ([16_385, 16, 16], 0),
        ([1 << 40, 1, 0], 0),
        ([16, 16, 5], 4),
        ([16, 8, 6], 4),
        ([16, 16, 13], 5),
        ([16, 16, 0], 1),
        ([16, 16, 2049], 1),
        ([16, 16, 0], 0x200),
        ([16, 16, 16], 8),
        ([16, 16, 0], 0x10),
    ] {
        assert_eq!(answer(size, flags), Err(1), "{size:?} {flags}");
    }
    assert_eq!(create(&descriptor([16, 16, 0], FLOAT, 3, 0)), Err(1));
    assert_eq!(create(&descriptor([16, 16, 0], 0x77, 1, 0)), Err(1));
    assert_eq!(create(&descriptor([131_072, 65_536, 0], FLOAT, 4, 0)), Err(2));
}

#[test]
fn an_array_tells_what_it_was_made_with_until_it_is_destroyed() {
    start();
    let made = descriptor([16, 8, 5], U8, 4, 3);
    let array = create(&made).unwrap();
    // SAFETY: the pointers are of live values.
    unsafe {
        assert_eq!(get(|out| array::cuArray3DGetDescriptor_v2(out, array)), Ok(made));
        let two = array::Descriptor2D { width: 16, height: 8, format: U8, channels: 4 };
        assert_eq!(get(|out| array::cuArrayGetDescriptor_v2(out, array)), Ok(two));
        assert_eq!(array::cuArrayDestroy(array), 0);
        assert_eq!(array::cuArrayDestroy(array), 400);
        assert_eq!(get(|out| array::cuArray3DGetDescriptor_v2(out, array)).map(drop), Err(400));
        assert_eq!(get(|out| array::cuArray3DGetDescriptor_v2(out, 0)).map(drop), Err(400));
    }
}

#[test]
fn levels_halve_down_to_one_texel() {
    start();
    let shape = descriptor([16, 8, 0], FLOAT, 1, 0);
    // SAFETY: the pointers are of live values.
    unsafe {
        let mipmapped = get(|out| array::cuMipmappedArrayCreate(out, Some(&shape), 9)).unwrap();
        let level = |number| get(|out| array::cuMipmappedArrayGetLevel(out, mipmapped, number));
        let size = |number| {
            let Descriptor { width, height, .. } =
                get(|out| array::cuArray3DGetDescriptor_v2(out, level(number).unwrap())).unwrap();
            (width, height)
        };
        assert_eq!([0, 1, 3, 4].map(size), [(16, 8), (8, 4), (2, 1), (1, 1)]);
        assert_eq!(level(5), Err(1));
        assert_eq!(level(1), level(1));
        assert_eq!(array::cuMipmappedArrayDestroy(0), 400);
        let first = level(0).unwrap();
        assert_eq!(array::cuMipmappedArrayDestroy(mipmapped), 0);
        assert_eq!(get(|out| array::cuArray3DGetDescriptor_v2(out, first)).map(drop), Err(400));
    }
}

#[test]
fn arrays_count_as_used_memory() {
    in_own_process("arrays_count_as_used_memory", &[], || {
        start();
        let free = || {
            let mut total = std::mem::MaybeUninit::uninit();
            // SAFETY: the pointers are of live values.
            get(|out| unsafe { memory::cuMemGetInfo_v2(out, Some(&mut total)) }).unwrap()
        };
        let before = free();
        let array = create(&descriptor([1024, 1024, 0], FLOAT, 4, 0)).unwrap();
        assert_eq!(before - free(), 16 << 20);
        // SAFETY: no pointers.
        assert_eq!(unsafe { array::cuArrayDestroy(array) }, 0);
        assert_eq!(free(), before);
    });
}

#[test]
fn bytes_are_copied_within_the_first_row() {
    start();
    let array = create(&descriptor([16, 16, 0], FLOAT, 1, 0)).unwrap();
    let other = create(&descriptor([64, 0, 0], FLOAT, 1, 0)).unwrap();
    let row: Vec<f32> = (0..16).map(|n| n as f32).collect();
    let mut back = [0f32; 16];
    let to = back.as_mut_ptr().expose_provenance() as u64;
    let device = alloc(64);
    // SAFETY: all copies are of the slices' bytes, or are refused.
    unsafe {
        assert_eq!(copy_array::cuMemcpyHtoA_v2(array, 0, address(&row), 64), 0);
        assert_eq!(copy_array::cuMemcpyAtoA_v2(other, 128, array, 0, 64), 0);
        assert_eq!(copy_array::cuMemcpyAtoD_v2(device, other, 128, 64), 0);
        assert_eq!(copy_array::cuMemcpyDtoA_v2(array, 32, device, 32), 0);
        assert_eq!(copy_array::cuMemcpyAtoH_v2(to, array, 0, 64), 0);
        assert_eq!(copy_array::cuMemcpyHtoA_v2(array, 0, address(&row), 128), 1);
        assert_eq!(copy_array::cuMemcpyHtoA_v2(array, 32, address(&row), 64), 1);
        assert_eq!(copy_array::cuMemcpyHtoA_v2(0, 0, address(&row), 16), 1);
        assert_eq!(copy_array::cuMemcpyHtoA_v2(0, 0, address(&row), 0), 0);
        assert_eq!(copy_array::cuMemcpyAtoD_v2(0x1000, array, 0, 64), 1);
    }
    let expected: Vec<f32> = (0..8).chain(0..8).map(|n| n as f32).collect();
    assert_eq!(back.to_vec(), expected);
}

#[test]
fn boxes_of_arrays_are_copied() {
    start();
    let shape = descriptor([4, 4, 2], U32, 1, 0);
    let texels: Vec<u32> = (0..32).collect();
    let array = filled(&shape, &texels);
    assert_eq!(contents::<u32>(array, &shape, 32), texels);
    let device = upload(&[0u32; 4]);
    let mut copy = Memcpy3D {
        src_type: 3,
        src_array: array,
        src_x: 8,
        src_y: 1,
        src_z: 1,
        dst_type: 2,
        dst_device: device,
        width: 8,
        height: 2,
        depth: 1,
        ..Memcpy3D::default()
    };
    // SAFETY: the copies lie within array and memory, or are refused.
    unsafe {
        assert_eq!(cuMemcpy3D_v2(Some(&copy)), 0);
        assert_eq!(download::<u32>(device, 4), [22, 23, 26, 27]);
        for (width, lod, array) in [(12, 0, array), (8, 1, array), (8, 0, 0)] {
            (copy.width, copy.src_lod, copy.src_array) = (width, lod, array);
            assert_eq!(cuMemcpy3D_v2(Some(&copy)), 1);
        }
        copy.height = 0;
        assert_eq!(cuMemcpy3D_v2(Some(&copy)), 0);
        let two = Memcpy2D {
            src_type: 3,
            src_array: array,
            dst_type: 2,
            dst_device: device,
            width: 16,
            height: 1,
            ..Memcpy2D::default()
        };
        assert_eq!(cuMemcpy2D_v2(Some(&two)), 0);
        assert_eq!(download::<u32>(device, 4), [0, 1, 2, 3]);
        assert_eq!(cuMemcpy2D_v2(Some(&Memcpy2D { src_y: 4, ..two })), 1);
    }
}

#[test]
fn a_batch_copies_boxes_in_elements() {
    start();
    let shape = descriptor([4, 4, 0], U32, 1, 0);
    let array = filled(&shape, &(0..16).collect::<Vec<u32>>());
    let memory = upload(&[0u32; 16]);
    let stream = new_stream(0);
    let from = Operand { kind: 2, words: [array, 1, 1, 0] };
    let to = Operand { kind: 1, words: [memory, 4, 0, 0] };
    let copy = BatchCopy { from, to, extent: [2, 3, 1], access_order: 1, flags: 0 };
    let submit = |copies: &[BatchCopy], stream| {
        // SAFETY: the copies lie within array and memory, or are refused.
        unsafe { copy_array::cuMemcpy3DBatchAsync_v2(copies.len(), copies.as_ptr(), 0, stream) }
    };
    let back = Operand { kind: 2, words: [array, 0, 0, 0] };
    let words = [memory, 4, 0, 0];
    let second = BatchCopy { from: Operand { kind: 1, words }, to: back, extent: [4, 1, 1], ..copy };
    assert_eq!(submit(&[copy, second], stream), 0);
    // SAFETY: no pointers.
    assert_eq!(unsafe { stream::cuStreamSynchronize(stream) }, 0);
    assert_eq!(download::<u32>(memory, 10), [5, 6, 0, 0, 9, 10, 0, 0, 13, 14]);
    assert_eq!(contents::<u32>(array, &shape, 16)[..4], [5, 6, 0, 0]);
    assert_eq!(submit(&[BatchCopy { extent: [4, 3, 1], ..copy }], stream), 1);
    assert_eq!(submit(&[BatchCopy { extent: [2, 3, 0], ..copy }], stream), 1);
    assert_eq!(submit(&[BatchCopy { access_order: 0, ..copy }], stream), 1);
    assert_eq!(submit(&[copy], 0), 1);
    assert_eq!(submit(&[copy], 1), 1);
}

#[test]
fn a_surface_is_read_and_written_in_bytes() {
    start();
    let shape = descriptor([4, 2, 0], U8, 4, 2);
    let array = filled(&shape, &(0..32).collect::<Vec<u8>>());
    let body = "suld.b.2d.b32.trap {%r5}, [%rd1, {%r0, %r1}];\nadd.u32 %r5, %r5, 256;\n\
                sust.b.2d.b32.trap [%rd1, {%r0, %r1}], {%r5};\n\
                suld.b.2d.v2.b8.trap {%h1, %h2}, [%rd1, {%r0, %r1}];\ncvt.rn.f32.u16 %f4, %h1;\n\
                cvt.rn.f32.u16 %f5, %h2;";
    let seen = run(&kernel("", body), surface_of(array), &[[4u32, 0, 0, 0], [12, 1, 0, 0]]).unwrap();
    assert_eq!([seen[0][0], seen[0][1], seen[1][0], seen[1][1]], [4.0, 6.0, 28.0, 30.0]);
    let bytes = contents::<u8>(array, &shape, 32);
    assert_eq!((bytes[4], bytes[5], bytes[29]), (4, 6, 30));
}

#[test]
fn beyond_a_surface_is_nothing_or_its_edge() {
    start();
    let shape = descriptor([4, 0, 2], U32, 1, 3);
    let array = filled(&shape, &[1u32, 2, 3, 4, 5, 6, 7, 8]);
    let body = "suld.b.a1d.b32.zero {%r5}, [%rd1, {%r1, %r0}];\nsuld.b.a1d.b32.clamp {%r6}, [%rd1, {%r1, %r0}];\n\
                cvt.rn.f32.u32 %f4, %r5;\ncvt.rn.f32.u32 %f5, %r6;\n\
                sust.b.a1d.b32.zero [%rd1, {%r1, %r0}], {%r2};";
    let places = [[4u32, 1, 60, 0], [16, 0, 99, 0], [(-4i32).cast_unsigned(), 1, 99, 0], [0, 2, 99, 0]];
    let seen = run(&kernel("", body), surface_of(array), &places).unwrap();
    assert_eq!(
        seen.iter().map(|lane| [lane[0], lane[1]]).collect::<Vec<_>>(),
        [[6.0, 6.0], [0.0, 4.0], [0.0, 5.0], [0.0, 5.0]]
    );
    assert_eq!(contents::<u32>(array, &shape, 8), [1, 2, 3, 4, 5, 60, 7, 8]);
}

#[test]
fn a_trapping_access_beyond_the_edge_is_a_fault() {
    in_own_process("a_trapping_access_beyond_the_edge_is_a_fault", &[], || {
        start();
        let array = create(&descriptor([4, 4, 0], U32, 1, 2)).unwrap();
        let body = "sust.b.2d.b32.trap [%rd1, {%r0, %r1}], {%r2};";
        assert_eq!(run(&kernel("", body), surface_of(array), &[[16u32, 0, 0, 0]]), Err(700));
    });
}

#[test]
fn reductions_on_a_surface_are_atomic() {
    start();
    let shape = descriptor([4, 0, 0], U32, 1, 2);
    let array = filled(&shape, &[0u32; 4]);
    let body = "sured.b.add.1d.u32.trap [%rd1, {%r0}], %r1;";
    run(&kernel("", body), surface_of(array), &[[8u32, 3, 0, 0]; 64]).unwrap();
    assert_eq!(contents::<u32>(array, &shape, 4), [0, 0, 192, 0]);
}

#[test]
fn sizes_can_be_asked_for() {
    start();
    let array = create(&descriptor([4, 2, 3], FLOAT, 2, 3)).unwrap();
    let body = "suq.width.b32 %r5, [%rd1];\nsuq.height.b32 %r6, [%rd1];\ncvt.rn.f32.u32 %f4, %r5;\ncvt.rn.f32.u32 %f5, %r6;";
    assert_eq!(run(&kernel("", body), surface_of(array), &[[0u32; 4]]).unwrap()[0][..2], [4.0, 2.0]);
}

#[test]
fn a_bad_surface_is_refused() {
    start();
    let array = create(&descriptor([4, 4, 0], FLOAT, 1, 0)).unwrap();
    let refused = |kind, words: &[u64]| {
        let resource = texture_support::resource(kind, words);
        // SAFETY: the pointers are of live values.
        get(|out| unsafe { surface::cuSurfObjectCreate(out, Some(&resource)) }) == Err(1)
    };
    assert!(refused(0, &[0]));
    assert!(refused(2, &[alloc(64), u64::from(FLOAT) | 1 << 32, 64]));
    assert!(!refused(0, &[array]));
}
