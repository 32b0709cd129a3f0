//! Wrong arguments and the codes that they get.

use crate::driver::*;
use crate::{refuses, say};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use vgpu_tests::kernels::KERNELS;

/// No device memory is there.
const WILD: u64 = 0x1234_5678_9000;

pub fn all() {
    let d = Driver::start();
    handles(&d);
    null_pointers(&d);
    memory(&d);
    launches(&d);
    images(&d);
    devices(&d);
    captures(&d);
    without_context(&d);
    // After all that the client is as good as before.
    let place = d.upload(&[1]).unwrap();
    d.launch(d.function(d.module(), c"count"), 3, 1, 0, &[place]).unwrap();
    assert_eq!(d.synchronize(), Ok(()));
    assert_eq!(d.download::<u32>(place, 1).unwrap(), [4]);
    say("refused");
}

fn handles(d: &Driver) {
    let (stream, event, module) = (d.stream().unwrap(), d.event().unwrap(), d.load_text(KERNELS).unwrap());
    let function = d.function(module, c"empty");
    let never = [0x10, 0x7fff_0000_1230, u64::MAX, stream + 0x10_0000, event | 1];
    for wrong in never.into_iter().chain([event, module, function, d.context]) {
        refuses("no stream, synchronised", d.synchronize_stream(wrong), CONTEXT_IS_DESTROYED);
        refuses("no stream, launched in", d.launch(function, 1, 1, wrong, &[]), CONTEXT_IS_DESTROYED);
        refuses("no stream, copied in", d.to_device_async(WILD, &[1], wrong), CONTEXT_IS_DESTROYED);
        refuses("no stream, destroyed", d.destroy_stream(wrong), CONTEXT_IS_DESTROYED);
        refuses("no stream, recorded in", d.record(event, wrong), CONTEXT_IS_DESTROYED);
    }
    for wrong in never.into_iter().chain([0, stream, module, function]) {
        let code = if wrong == 0 { INVALID_HANDLE } else { CONTEXT_IS_DESTROYED };
        refuses("no event, recorded", d.record(wrong, stream), code);
        refuses("no event, synchronised", d.synchronize_event(wrong), code);
        refuses("no event, waited for", d.wait_event(stream, wrong), code);
        refuses("no event, destroyed", d.destroy_event(wrong), code);
    }
    for wrong in never.into_iter().chain([0, stream, event, function]) {
        refuses("no module, unloaded", d.unload(wrong), INVALID_HANDLE);
        refuses("no module, searched", d.find_function(wrong, c"empty"), INVALID_HANDLE);
        // SAFETY: no pointers.
        refuses("no library", check(unsafe { (d.api.library_unload)(wrong) }), INVALID_HANDLE);
    }
    for wrong in never.into_iter().chain([0, stream, event, module]) {
        refuses("no function", d.launch(wrong, 1, 1, 0, &[]), INVALID_HANDLE);
        // SAFETY: no pointers.
        let (current, destroyed) = unsafe { ((d.api.set_current)(wrong), (d.api.destroy_context)(wrong)) };
        if wrong != 0 {
            refuses("no context, made current", check(current), INVALID_CONTEXT);
        }
        let code = if wrong == 0 { INVALID_VALUE } else { CONTEXT_IS_DESTROYED };
        refuses("no context, destroyed", check(destroyed), code);
        d.enter();
    }
    refuses("a function that is not there", d.find_function(module, c"nothing"), NOT_FOUND);
    d.destroy_stream(stream).unwrap();
    d.destroy_event(event).unwrap();
    d.unload(module).unwrap();
    // Ended ones, also when their places are taken again.
    let (_stream, _event) = (d.stream().unwrap(), d.event().unwrap());
    refuses("an ended stream", d.synchronize_stream(stream), CONTEXT_IS_DESTROYED);
    refuses("an ended stream, again", d.destroy_stream(stream), CONTEXT_IS_DESTROYED);
    refuses("an ended event", d.record(event, 0), CONTEXT_IS_DESTROYED);
    refuses("an ended event, again", d.destroy_event(event), CONTEXT_IS_DESTROYED);
    refuses("an ended module", d.find_function(module, c"empty"), INVALID_HANDLE);
    refuses("an ended module, again", d.unload(module), INVALID_HANDLE);
    refuses("a function of an ended module", d.launch(function, 1, 1, 0, &[]), INVALID_HANDLE);
}

fn null_pointers(d: &Driver) {
    let api = &d.api;
    let module = d.module();
    let (mut place, mut pitch) = (0_u64, 0_usize);
    // SAFETY: NULL must be refused; the other pointers are valid.
    let codes = unsafe {
        [
            ("cuDeviceGetCount", (api.device_count)(null_mut())),
            ("cuDeviceGet", (api.device)(null_mut(), 0)),
            ("cuDeviceGetUuid", (api.uuid)(null_mut(), 0)),
            ("cuDeviceGetAttribute", (api.attribute)(null_mut(), 1, 0)),
            ("cuDevicePrimaryCtxRetain", (api.retain)(null_mut(), 0)),
            ("cuMemAlloc", (api.allocate)(null_mut(), 64)),
            ("cuMemAllocPitch", (api.allocate_pitch)(null_mut(), &raw mut pitch, 8, 8, 4)),
            ("cuMemHostAlloc", (api.host_allocate)(null_mut(), 64, 0)),
            ("cuStreamCreate", (api.stream_create)(null_mut(), 0)),
            ("cuEventCreate", (api.event_create)(null_mut(), 0)),
            ("cuModuleLoadData, the module", (api.load_data)(null_mut(), KERNELS.as_ptr().cast())),
            ("cuModuleLoadData, the image", (api.load_data)(&raw mut place, null())),
            ("cuModuleLoad, the path", (api.load_file)(&raw mut place, NO_TEXT)),
            ("cuModuleGetFunction, the function", (api.function)(null_mut(), module, c"empty".as_ptr())),
            ("cuModuleGetFunction, the name", (api.function)(&raw mut place, module, NO_TEXT)),
            ("cuModuleGetGlobal, the name", (api.global)(&raw mut place, null_mut(), module, NO_TEXT)),
            ("cuPointerGetAttribute", (api.pointer_attribute)(null_mut(), 2, WILD)),
            ("cuMemcpyHtoD, from NULL", (api.to_device)(WILD, null(), 4)),
            ("cuMemcpyHtoD, to NULL", (api.to_device)(0, (&raw const place).cast(), 4)),
            ("cuMemcpyDtoH, to NULL", (api.to_host)(null_mut(), WILD, 4)),
            ("cuMemcpyDtoH, from NULL", (api.to_host)((&raw mut place).cast(), 0, 4)),
        ]
    };
    for (what, code) in codes {
        refuses(what, check(code), INVALID_VALUE);
    }
    // NULL that is allowed.
    assert_eq!(d.free(0), Ok(()));
}

fn memory(d: &Driver) {
    let api = &d.api;
    let block = d.upload(&[1, 2, 3, 4]).unwrap();
    let mut bytes = [0; 64];
    for wrong in [WILD, block + (1 << 40), u64::MAX - 3, (&raw const bytes) as u64] {
        refuses("freeing", d.free(wrong), INVALID_VALUE);
        refuses("reading", d.to_host(&mut bytes[..4], wrong), INVALID_VALUE);
        refuses("writing", d.to_device(wrong, &[1; 4]), INVALID_VALUE);
        refuses("setting", d.set8(wrong, 1, 4), INVALID_VALUE);
        refuses("copying from", d.within_device(block, wrong, 4), INVALID_VALUE);
        refuses("copying to", d.within_device(wrong, block, 4), INVALID_VALUE);
    }
    refuses("freeing the middle", d.free(block + 4), INVALID_VALUE);
    // Beyond the end of the block by far: what is rounded up belongs to it.
    let mut long = vec![0; 8 << 20];
    refuses("reading beyond the end", d.to_host(&mut long, block), INVALID_VALUE);
    refuses("writing beyond the end", d.to_device(block, &long), INVALID_VALUE);
    refuses("setting beyond the end", d.set8(block, 1, 8 << 20), INVALID_VALUE);
    // SAFETY: places of the right types.
    let codes = unsafe {
        let mut place: u64 = 0;
        [
            ("no bytes", (api.allocate)(&raw mut place, 0), INVALID_VALUE),
            ("too many bytes", (api.allocate)(&raw mut place, 1 << 50), 2),
            ("all bytes", (api.allocate)(&raw mut place, usize::MAX), 2),
            ("unknown flags", (api.host_allocate)((&raw mut place).cast(), 64, 0x4000), INVALID_VALUE),
            ("no pinned memory", (api.host_free)((&raw mut place).cast()), INVALID_VALUE),
            ("unknown flags of a stream", (api.stream_create)(&raw mut place, 0x80), INVALID_VALUE),
            ("unknown flags of an event", (api.event_create)(&raw mut place, 0x80), INVALID_VALUE),
            (
                "no memory's attribute",
                (api.pointer_attribute)((&raw mut place).cast(), 2, WILD),
                INVALID_VALUE,
            ),
        ]
    };
    for (what, code, expected) in codes {
        refuses(what, check(code), expected);
    }
    assert_eq!(d.download::<u32>(block, 4).unwrap(), [1, 2, 3, 4], "the refusals changed nothing");
    d.free(block).unwrap();
    refuses("freeing twice", d.free(block), INVALID_VALUE);
    refuses("reading what was freed", d.to_host(&mut bytes[..4], block), INVALID_VALUE);
}

fn launches(d: &Driver) {
    let empty = d.function(d.module(), c"empty");
    let launch = |grid: [u32; 3], block: [u32; 3]| {
        // SAFETY: the kernel has no parameters.
        check(unsafe {
            (d.api.launch)(
                empty,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                0,
                0,
                null_mut(),
                null_mut(),
            )
        })
    };
    assert_eq!(launch([1, 1, 1], [1, 1, 1]), Ok(()));
    for wrong in [
        ([0, 1, 1], [1, 1, 1]),
        ([1, 0, 1], [1, 1, 1]),
        ([1, 1, 0], [1, 1, 1]),
        ([1, 1, 1], [0, 1, 1]),
        ([1, 1, 1], [1, 1, 0]),
        ([1, 1, 1], [1025, 1, 1]),
        ([1, 1, 1], [32, 33, 1]),
        ([1, 1, 1], [1, 1, 65]),
        ([1, 65536, 1], [1, 1, 1]),
        ([u32::MAX, 1, 1], [1, 1, 1]),
        ([1, 1, 1], [u32::MAX, u32::MAX, u32::MAX]),
    ] {
        refuses(&format!("{wrong:?}"), launch(wrong.0, wrong.1), INVALID_VALUE);
    }
    let count = d.function(d.module(), c"count");
    let no_parameters = |list: *mut *mut c_void| {
        // SAFETY: NULL must be refused.
        check(unsafe { (d.api.launch)(count, 1, 1, 1, 1, 1, 1, 0, 0, list, null_mut()) })
    };
    refuses("no parameters", no_parameters(null_mut()), INVALID_VALUE);
    refuses("a parameter that is NULL", no_parameters([null_mut()].as_mut_ptr()), INVALID_VALUE);
}

fn images(d: &Driver) {
    let binary: Vec<u8> = [0x01, 0x02, 0x03, 0x04].repeat(64);
    // SAFETY: longer than any header that could be looked at.
    refuses("bytes that are no image", unsafe { d.load_image(binary.as_ptr()) }, INVALID_IMAGE);
    // An ELF file of another machine, with nothing behind the header.
    let mut elf = vec![0_u8; 256];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[18] = 62;
    // SAFETY: a whole file: its header names nothing more.
    let code = unsafe { d.load_image(elf.as_ptr()) }.expect_err("an ELF file for a processor");
    assert!([INVALID_IMAGE, NO_BINARY].contains(&code), "an ELF file for a processor: {code}");
    // A fat binary that is empty.
    let mut fat = [0_u8; 64];
    fat[..4].copy_from_slice(&0xba55_ed50_u32.to_le_bytes());
    fat[4..8].copy_from_slice(&[1, 0, 16, 0]);
    // SAFETY: a whole one: its header says that nothing follows.
    let code = unsafe { d.load_image(fat.as_ptr()) }.expect_err("an empty fat binary");
    assert!([INVALID_IMAGE, NO_BINARY].contains(&code), "an empty fat binary: {code}");
    for text in
        [c"this is no program", c".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry broken( {"]
    {
        let code = d.load_text(text).expect_err("no PTX");
        assert!([INVALID_IMAGE, INVALID_PTX].contains(&code), "{text:?}: {code}");
    }
    let mut place = 0_u64;
    // SAFETY: a path and a place.
    let code = unsafe { (d.api.load_file)(&raw mut place, c"/nonexistent/kernels.ptx".as_ptr()) };
    refuses("a file that is not there", check(code), FILE_NOT_FOUND);
}

fn devices(d: &Driver) {
    for wrong in [-1, 1, 77, i32::MAX, i32::MIN] {
        let mut place = 0;
        // SAFETY: places of the right types.
        unsafe {
            refuses("cuDeviceGet", check((d.api.device)(&raw mut place, wrong)), INVALID_DEVICE);
            refuses("an attribute", check((d.api.attribute)(&raw mut place, 1, wrong)), INVALID_DEVICE);
            let mut context = 0;
            refuses("its context", check((d.api.retain)(&raw mut context, wrong)), INVALID_DEVICE);
        }
    }
    let mut place = 0;
    // SAFETY: a place of the right type.
    refuses("no attribute", check(unsafe { (d.api.attribute)(&raw mut place, 99_999, 0) }), INVALID_VALUE);
    // SAFETY: no pointers.
    refuses("flags of cuInit", check(unsafe { (d.api.init)(1) }), INVALID_VALUE);
}

fn captures(d: &Driver) {
    let (stream, from, to) = (d.stream().unwrap(), d.upload(&[1, 2]).unwrap(), d.upload(&[0, 0]).unwrap());
    d.begin_capture(stream).unwrap();
    refuses("a batch in a capture", d.copy_batch(to, from, 8, stream), CAPTURE_UNSUPPORTED);
    assert!(d.end_capture(stream).is_ok(), "the capture goes on");
    let mut bytes = [0; 4];
    // What the default stream would wait for captures, which each such copy ends.
    for which in 0..3 {
        d.begin_capture(stream).unwrap();
        let result = match which {
            0 => d.to_device(to, &[1; 4]),
            1 => d.to_host(&mut bytes, from),
            _ => d.within_device(to, from, 4),
        };
        refuses("a copy in the default stream", result, CAPTURE_IMPLICIT);
        refuses("the end of its capture", d.end_capture(stream).map(drop), CAPTURE_INVALIDATED);
    }
    assert_eq!(d.copy_batch(to, from, 8, stream), Ok(()));
    d.synchronize_stream(stream).unwrap();
    assert_eq!(d.download::<u32>(to, 2).unwrap(), [1, 2]);
}

fn without_context(d: &Driver) {
    let (stream, from, to) = (d.stream().unwrap(), d.upload(&[5]).unwrap(), d.upload(&[0]).unwrap());
    // SAFETY: no pointers.
    check(unsafe { (d.api.set_current)(0) }).unwrap();
    refuses("a batch without a context", d.copy_batch(to, from, 4, stream), INVALID_VALUE);
    refuses("a copy without a context", d.within_device(to, from, 4), INVALID_CONTEXT);
    // The stream has one.
    assert_eq!(d.to_device_async(to, &[7; 4], stream), Ok(()));
    d.synchronize_stream(stream).unwrap();
    d.enter();
    assert_eq!(d.download::<u8>(to, 4).unwrap(), [7; 4]);
}
