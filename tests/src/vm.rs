//! A vhost-user front end, driven by hand: memory, queues, and whatever bytes a test likes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags};
use vgpu_spec::wire::control::{
    ClientOpen, Hello, LaneAttach, MAX_REPLY, ReplyHeader, RequestHeader, WindowMap, kind,
};
use vgpu_spec::wire::lane::Layout;
use vgpu_spec::wire::{HUGE_PAGE, Range, VERSION};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, IntoBytes};

/// Guest-physical address of the memory.
pub const BASE: u64 = 0x1_0000_0000;
/// Pages of 2 MiB: one per queue, the rest for windows.
pub const PAGES: u64 = 16;
/// Control, event and two lanes.
pub const QUEUES: u16 = 4;
const SIZE: u16 = 64;
const BYTES: usize = (PAGES * HUGE_PAGE) as usize;
/// Where the control queue has its request and its reply, as offsets in the command area.
const REQUEST: u64 = 0;
const REPLY: u64 = 0x8_0000;

/// A virtual machine as the broker sees one.
pub struct Vm {
    pub frontend: Frontend,
    kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    layout: Layout,
    avail: u16,
    base: *mut u8,
    file: File,
}

impl Vm {
    /// Connects, negotiates, and starts all queues.
    pub fn connect(socket: &Path) -> Self {
        let fd = rustix::fs::memfd_create("vm", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(BYTES as u64).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a free range.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), BYTES, protection, MapFlags::SHARED, &file, 0) };
        let eventfds = || (0..QUEUES).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap()).collect();
        let mut vm = Vm {
            frontend: Frontend::connect(socket, u64::from(QUEUES)).unwrap(),
            kicks: eventfds(),
            calls: eventfds(),
            layout: Layout::new(SIZE).unwrap(),
            avail: 0,
            base: base.unwrap().cast(),
            file,
        };
        vm.negotiate();
        vm.set_memory(PAGES);
        for queue in 0..usize::from(QUEUES) {
            vm.start_queue(queue);
        }
        vm
    }

    fn negotiate(&mut self) {
        self.frontend.set_owner().unwrap();
        let features = self.frontend.get_features().unwrap();
        let protocol = self.frontend.get_protocol_features().unwrap();
        self.frontend.set_protocol_features(protocol).unwrap();
        // Every request is acknowledged from here on: what a test does next happens after it.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(features).unwrap();
    }

    /// Tells the broker of the first `pages` pages of memory.
    pub fn set_memory(&mut self, pages: u64) {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: pages * HUGE_PAGE,
            userspace_addr: self.base as u64,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[region]).unwrap();
    }

    fn start_queue(&mut self, queue: usize) {
        let user = self.base as u64 + queue as u64 * HUGE_PAGE;
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: user + self.layout.desc,
            used_ring_addr: user + self.layout.used,
            avail_ring_addr: user + self.layout.avail,
            log_addr: None,
        };
        self.frontend.set_vring_num(queue, SIZE).unwrap();
        self.frontend.set_vring_base(queue, 0).unwrap();
        self.frontend.set_vring_addr(queue, &config).unwrap();
        self.frontend.set_vring_call(queue, &self.calls[queue]).unwrap();
        self.frontend.set_vring_kick(queue, &self.kicks[queue]).unwrap();
        self.frontend.set_vring_enable(queue, true).unwrap();
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        assert!(offset as usize + len <= BYTES);
        // SAFETY: in the memory (asserted), which is mapped as long as the value lives.
        unsafe { self.base.add(offset as usize) }
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: in the memory (`at`).
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset, bytes.len()), bytes.len()) };
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: in the memory (`at`).
        unsafe { ptr::copy_nonoverlapping(self.at(offset, len), bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Available index of queue 0.
    pub fn avail(&self) -> u16 {
        self.avail
    }

    /// Notifies the broker or a worker.
    pub fn kick(&self, queue: u16) {
        // Full if nobody looks: then it is notified.
        let _ = self.kicks[usize::from(queue)].write(1);
    }

    /// The memory once more, for another thread.
    pub fn share(&self) -> Memory {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a free range.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), BYTES, protection, MapFlags::SHARED, &self.file, 0) };
        Memory(base.unwrap().cast())
    }

    fn descriptor(&self, index: u64, address: u64, len: usize, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(len).unwrap().to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(self.layout.desc + 16 * index, &bytes);
    }

    fn index(&self, offset: u64) -> &std::sync::atomic::AtomicU16 {
        // SAFETY: an aligned u16 in the memory, which lives as long as self.
        unsafe { std::sync::atomic::AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    /// Sends the bytes of a request over queue 0: status and body of the reply, or `None` if nothing was written.
    pub fn request_bytes(&mut self, bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
        let commands = self.layout.commands;
        self.put(commands + REQUEST, bytes);
        self.put(commands + REPLY, &[0xee; 8]);
        self.descriptor(0, BASE + commands + REQUEST, bytes.len(), 1, 1);
        self.descriptor(1, BASE + commands + REPLY, MAX_REPLY, 2, 0);
        self.put(self.layout.avail + 4 + 2 * u64::from(self.avail % SIZE), &[0, 0]);
        let used = u64::from(self.avail % SIZE);
        self.avail = self.avail.wrapping_add(1);
        fence(Ordering::SeqCst);
        self.index(self.layout.avail + 2).store(self.avail, Ordering::SeqCst);
        self.kicks[0].write(1).unwrap();
        let start = Instant::now();
        while self.index(self.layout.used + 2).load(Ordering::SeqCst) != self.avail {
            assert!(start.elapsed() < crate::poll::PATIENCE, "the broker does not answer a request");
            std::thread::yield_now();
        }
        let written = self.bytes(self.layout.used + 4 + 8 * used + 4, 4);
        let written = u32::from_le_bytes(written.try_into().unwrap()) as usize;
        if written < size_of::<ReplyHeader>() {
            return None;
        }
        let reply = self.bytes(commands + REPLY, written);
        let (header, body) = ReplyHeader::read_from_prefix(&reply).unwrap();
        Some((header.status, body.to_vec()))
    }

    /// Sends a request: the reply's status.
    pub fn request(&mut self, kind: u32, body: &[u8]) -> u32 {
        let header = RequestHeader { kind, len: u32::try_from(body.len()).unwrap() };
        self.request_bytes(&[header.as_bytes(), body].concat()).expect("no reply").0
    }

    pub fn hello(&mut self) -> u32 {
        let hello = Hello { version: VERSION, reserved: [0; 3], features: 0, pci: Default::default() };
        self.request(kind::HELLO, hello.as_bytes())
    }

    pub fn open(&mut self, client: u32) -> u32 {
        let open = ClientOpen {
            client,
            pid: 1000 + client,
            uid: 7,
            reserved: 0,
            name: *b"raw\0\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        self.request(kind::CLIENT_OPEN, open.as_bytes())
    }

    /// Lends lane `queue`, its page said to be at guest-physical `page`.
    pub fn attach(&mut self, client: u32, queue: u16, page: u64) -> u32 {
        let attach = LaneAttach { client, queue, reserved: 0, page };
        self.request(kind::LANE_ATTACH, attach.as_bytes())
    }

    /// Guest-physical address of a queue's page.
    pub fn page(queue: u16) -> u64 {
        BASE + u64::from(queue) * HUGE_PAGE
    }

    /// Maps one range of guest-physical memory as a window.
    pub fn map(&mut self, client: u32, window: u32, address: u64, range: Range) -> u32 {
        let map = WindowMap { client, window, address, len: range.len, extents: 1, reserved: 0 };
        self.request(kind::WINDOW_MAP, &[map.as_bytes(), range.as_bytes()].concat())
    }
}

/// A mapping of a VM's memory.
pub struct Memory(*mut u8);

// SAFETY: all accesses are atomic.
unsafe impl Sync for Memory {}

impl Memory {
    /// Writes a number at an aligned offset.
    pub fn write(&self, offset: u64, value: u32) {
        assert!(offset.is_multiple_of(4) && offset as usize + 4 <= BYTES);
        // SAFETY: in the mapping and aligned (asserted).
        let place = unsafe { std::sync::atomic::AtomicU32::from_ptr(self.0.add(offset as usize).cast()) };
        place.store(value, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's own.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), BYTES) };
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's own.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), BYTES) };
    }
}

/// Sends `bytes` to a vhost-user socket as they are, then waits until the other side closes or `limit` is over.
pub fn send_garbage(socket: &Path, bytes: &[u8], limit: Duration) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(limit)).unwrap();
    // The other side may close at any byte.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 256]);
}
