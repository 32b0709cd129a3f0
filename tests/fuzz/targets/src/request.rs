//! Requests of an agent, and the memory that they name.

use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vgpu_backend::broker::request::Request;
use vgpu_backend::broker::windows::{Translation, Windows};
use vgpu_spec::wire::control::{
    ClientClose, ClientOpen, Hello, LaneAttach, RequestHeader, ShareKeep, WindowMap, WindowUnmap, kind,
};
use vgpu_spec::wire::reading::ReadingRequest;
use vgpu_spec::wire::{HUGE_PAGE, Range, VERSION, WINDOW_AREA};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromZeros, IntoBytes};

/// A VM's memory: two regions with a hole between them.
fn memory() -> Option<&'static GuestMemoryMmap> {
    static MEMORY: OnceLock<Option<GuestMemoryMmap>> = OnceLock::new();
    let make = || {
        let region = |base: u64| {
            let file = memfd_create("memory", MemfdFlags::CLOEXEC).ok()?;
            ftruncate(&file, 8 * HUGE_PAGE).ok()?;
            let file = FileOffset::new(file.into(), HUGE_PAGE);
            Some((GuestAddress(base), 4 * HUGE_PAGE as usize, Some(file)))
        };
        GuestMemoryMmap::from_ranges_with_files([region(0)?, region(16 * HUGE_PAGE)?]).ok()
    };
    MEMORY.get_or_init(make).as_ref()
}

/// Decodes a request and checks what it names.
pub fn run(bytes: &[u8]) {
    let greeted = bytes.first().is_none_or(|byte| byte & 1 == 0);
    let request = bytes.get(1..).unwrap_or_default();
    handle(request, greeted);
}

pub fn handle(request: &[u8], greeted: bool) {
    let Ok(Request::WindowMap(map, extents)) = Request::parse(request, greeted) else { return };
    let Some(memory) = memory() else { return };
    let count = extents.len();
    if let Ok(translation) = Translation::new(memory, extents.into_iter(), map.len) {
        let sum: u64 = translation.extents.iter().map(|extent| extent.len).sum();
        assert!(sum == map.len && translation.extents.len() <= count, "the extents are not the window");
        let files = translation.borrowed(memory).len();
        assert!(translation.extents.iter().all(|extent| (extent.file as usize) < files));
    }
    let mut windows = Windows::default();
    let window = Range { base: map.address, len: map.len };
    if windows.insert(map.window, window).is_ok() {
        assert!(windows.insert(map.window.wrapping_add(1), window).is_err(), "twice the same place");
    }
}

/// A request of each kind.
pub fn requests() -> Vec<Vec<u8>> {
    let request = |kind: u32, body: &[u8]| {
        let len = u32::try_from(body.len()).unwrap_or(0);
        [RequestHeader { kind, len }.as_bytes(), body].concat()
    };
    let hello = Hello { version: VERSION, reserved: [0; 3], features: 0, pci: Default::default() };
    let open = ClientOpen { client: 1, pid: 2, uid: 3, reserved: 0, name: *b"name\0\0\0\0\0\0\0\0\0\0\0\0" };
    let map =
        WindowMap { client: 1, window: 1, address: WINDOW_AREA, len: 2 * HUGE_PAGE, extents: 2, reserved: 0 };
    let extents = [0, 16 * HUGE_PAGE].map(|base| Range { base, len: HUGE_PAGE });
    let map = [map.as_bytes(), extents.as_bytes()].concat();
    vec![
        request(kind::HELLO, hello.as_bytes()),
        request(kind::SNAPSHOT, &[]),
        request(kind::CLIENT_OPEN, open.as_bytes()),
        request(kind::CLIENT_CLOSE, ClientClose { client: 1, reserved: 0 }.as_bytes()),
        request(
            kind::LANE_ATTACH,
            LaneAttach { client: 1, queue: 2, reserved: 0, page: HUGE_PAGE }.as_bytes(),
        ),
        request(kind::WINDOW_MAP, &map),
        request(kind::WINDOW_UNMAP, WindowUnmap { client: 1, window: 1 }.as_bytes()),
        request(kind::SHARE_KEEP, ShareKeep::new_zeroed().as_bytes()),
        request(kind::READING, ReadingRequest::new_zeroed().as_bytes()),
    ]
}

pub fn seeds() -> Vec<Vec<u8>> {
    requests().into_iter().map(|request| [&[0][..], &request].concat()).collect()
}
