//! A guest in this process: a vhost-user front end with memory and virtqueues, driven by hand.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::control::*;
use vgpu_spec::wire::lane::{Layout, MessageHeader, ReplyHeader as LaneReply, Status};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::FileOffset;
use vm_memory::mmap::MmapRegion;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Guest-physical address of the memory.
pub const BASE: u64 = 0x1_0000_0000;
/// Entries of each queue.
pub const SIZE: u16 = 64;
/// Pages of 2 MiB: one per queue, the rest for windows.
pub const PAGES: u64 = 24;
pub const QUEUES: u16 = 8;

pub const READ: u16 = 0;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

/// CUDA_ERROR_NOT_SUPPORTED.
pub const NOT_SUPPORTED: u32 = 801;

/// One virtqueue of the guest, in a page of its own.
pub struct Queue {
    pub index: u16,
    pub layout: Layout,
    page: u64,
    memory: *mut u8,
    pub kick: EventFd,
    pub call: EventFd,
    /// Available index.
    pub avail: u16,
}

impl Queue {
    fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset < HUGE_PAGE);
        // SAFETY: within the queue's page, which is mapped as long as the guest lives.
        unsafe { self.memory.add(offset as usize) }
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= HUGE_PAGE);
        // SAFETY: the range lies in the queue's page (asserted).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }

    pub fn get<T: FromBytes>(&self, offset: u64) -> T {
        let mut bytes = vec![0; size_of::<T>()];
        // SAFETY: the range lies in the queue's page.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset), bytes.as_mut_ptr(), bytes.len()) };
        T::read_from_bytes(&bytes).unwrap()
    }

    fn load(&self, offset: u64) -> u16 {
        // SAFETY: an aligned u16 in the page, written by another process: volatile.
        let value = unsafe { self.at(offset).cast::<u16>().read_volatile() };
        fence(Ordering::SeqCst);
        value
    }

    fn store(&self, offset: u64, value: u16) {
        fence(Ordering::SeqCst);
        // SAFETY: as in `load`.
        unsafe { self.at(offset).cast::<u16>().write_volatile(value) };
        fence(Ordering::SeqCst);
    }

    pub fn page(&self) -> u64 {
        self.page
    }

    /// Address of byte `offset` of the command area: in a lane an offset in its page, else guest-physical.
    pub fn command(&self, offset: u64) -> u64 {
        let base = if self.index < FIRST_LANE { self.page } else { 0 };
        base + self.layout.commands + offset
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(self.layout.desc + 16 * u64::from(index), &bytes);
    }

    pub fn used(&self) -> u16 {
        self.load(self.layout.used + 2)
    }

    /// Used element number `index`: head and length.
    pub fn used_element(&self, index: u16) -> (u32, u32) {
        let slot = u64::from(index % SIZE);
        let [head, len] = self.get::<[u32; 2]>(self.layout.used + 4 + 8 * slot);
        (head, len)
    }

    /// Makes the chain at `head` available and kicks if the device asked for it.
    pub fn offer(&mut self, head: u16) {
        self.put(self.layout.avail + 4 + 2 * u64::from(self.avail % SIZE), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.publish(self.avail);
        // EVENT_IDX: a kick if the device waits for this very entry.
        if self.load(self.layout.used + 4 + 8 * u64::from(SIZE)) == self.avail.wrapping_sub(1) {
            self.kick.write(1).unwrap();
        }
    }

    pub fn publish(&self, avail: u16) {
        self.store(self.layout.avail + 2, avail);
    }

    /// Asks for an interrupt when entry `index` is used.
    pub fn interrupt_at(&self, index: u16) {
        self.store(self.layout.avail + 4 + 2 * u64::from(SIZE), index);
    }

    /// Waits until everything that was offered is used.
    pub fn finish(&self) {
        let start = Instant::now();
        while self.used() != self.avail {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "queue {}: {} used of {}",
                self.index,
                self.used(),
                self.avail
            );
            std::thread::yield_now();
        }
    }

    pub fn status(&self) -> Status {
        self.get(self.layout.status)
    }
}

/// Bytes of a lane message.
pub fn message(function: u32, dependencies: &[u8], args: &[u8]) -> Vec<u8> {
    let header = MessageHeader {
        function,
        len: u32::try_from(size_of::<MessageHeader>() + dependencies.len() + args.len()).unwrap(),
        thread: 1,
        context: 0,
        dependencies: u16::try_from(dependencies.len() / 8).unwrap(),
        flags: 0,
        number: 0,
    };
    [header.as_bytes(), dependencies, args].concat()
}

impl Queue {
    /// Sends a message that waits; the reply's header and its body.
    pub fn call(&mut self, bytes: &[u8]) -> (LaneReply, Vec<u8>) {
        self.call_with_room(bytes, 4096)
    }

    pub fn call_with_room(&mut self, bytes: &[u8], room: u32) -> (LaneReply, Vec<u8>) {
        self.put(self.layout.commands, bytes);
        self.put(self.layout.commands + 0x8_0000, &[0xEE; 64]);
        self.descriptor(0, self.command(0), u32::try_from(bytes.len()).unwrap(), NEXT, 1);
        self.descriptor(1, self.command(0x8_0000), room, WRITE, 0);
        self.offer(0);
        self.finish();
        let reply: LaneReply = self.get(self.layout.commands + 0x8_0000);
        let body = (16..u64::from(reply.len.clamp(16, 4096)))
            .map(|i| self.get::<u8>(self.layout.commands + 0x8_0000 + i))
            .collect();
        (reply, body)
    }

    /// Sends a message without reply, at descriptor `slot`; does not wait.
    pub fn post(&mut self, slot: u16, bytes: &[u8]) {
        let offset = 0x1000 * u64::from(slot);
        self.put(self.layout.commands + offset, bytes);
        self.descriptor(slot, self.command(offset), u32::try_from(bytes.len()).unwrap(), READ, 0);
        self.offer(slot);
    }
}

pub struct Guest {
    pub frontend: Frontend,
    pub queues: Vec<Queue>,
    _file: File,
    region: VhostUserMemoryRegionInfo,
    memory: MmapRegion,
}

impl Guest {
    /// Connects and starts all queues.
    pub fn connect(socket: &Path) -> Guest {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(PAGES * HUGE_PAGE).unwrap();
        let mapping = FileOffset::new(file.try_clone().unwrap(), 0);
        let memory = MmapRegion::<()>::from_file(mapping, (PAGES * HUGE_PAGE) as usize).unwrap();
        let base = memory.as_ptr();
        let queues = (0..QUEUES)
            .map(|index| Queue {
                index,
                layout: Layout::new(SIZE).unwrap(),
                page: BASE + u64::from(index) * HUGE_PAGE,
                // SAFETY: there are more pages than queues.
                memory: unsafe { base.add(usize::from(index) * HUGE_PAGE as usize) },
                kick: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap(),
                call: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap(),
                avail: 0,
            })
            .collect();
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: PAGES * HUGE_PAGE,
            userspace_addr: base as u64,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        let frontend = Frontend::connect(socket, u64::from(QUEUES)).unwrap();
        let mut guest = Guest { frontend, queues, _file: file, region, memory };
        guest.negotiate();
        for index in 0..usize::from(QUEUES) {
            guest.start_queue(index, 0);
        }
        guest
    }

    fn negotiate(&mut self) {
        self.frontend.set_owner().unwrap();
        let features = self.frontend.get_features().unwrap();
        assert_ne!(features & (1 << 29), 0, "EVENT_IDX is offered");
        assert_ne!(features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), 0);
        let protocol = self.frontend.get_protocol_features().unwrap();
        for feature in [
            VhostUserProtocolFeatures::MQ,
            VhostUserProtocolFeatures::REPLY_ACK,
            VhostUserProtocolFeatures::CONFIG,
            VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS,
            VhostUserProtocolFeatures::RESET_DEVICE,
        ] {
            assert!(protocol.contains(feature), "{feature:?} is offered");
        }
        self.frontend.set_protocol_features(protocol).unwrap();
        // Every request is acknowledged from here on: what a test does next happens after it.
        self.frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(features).unwrap();
        self.frontend.set_mem_table(&[self.region]).unwrap();
    }

    /// Sets a queue up and enables it, its index starting at `base`.
    pub fn start_queue(&mut self, index: usize, base: u16) {
        let queue = &self.queues[index];
        let user = self.region.userspace_addr + index as u64 * HUGE_PAGE;
        let config = VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: user + queue.layout.desc,
            used_ring_addr: user + queue.layout.used,
            avail_ring_addr: user + queue.layout.avail,
            log_addr: None,
        };
        self.frontend.set_vring_num(index, SIZE).unwrap();
        self.frontend.set_vring_base(index, base).unwrap();
        self.frontend.set_vring_addr(index, &config).unwrap();
        self.frontend.set_vring_call(index, &queue.call).unwrap();
        self.frontend.set_vring_kick(index, &queue.kick).unwrap();
        self.frontend.set_vring_enable(index, true).unwrap();
    }

    pub fn set_memory(&mut self) {
        self.frontend.set_mem_table(&[self.region]).unwrap();
    }

    /// Byte `offset` of guest memory.
    pub fn byte(&self, offset: u64) -> u8 {
        // SAFETY: within the mapping, which `self` holds.
        unsafe { self.memory.as_ptr().add(offset as usize).read_volatile() }
    }

    /// Sends a request to the broker; status and body of the reply.
    pub fn request(&mut self, kind: u32, body: &[u8]) -> (u32, Vec<u8>) {
        let header = RequestHeader { kind, len: u32::try_from(body.len()).unwrap() };
        self.request_bytes(&[header.as_bytes(), body].concat())
    }

    pub fn request_bytes(&mut self, bytes: &[u8]) -> (u32, Vec<u8>) {
        let queue = &mut self.queues[0];
        queue.put(queue.layout.commands, bytes);
        let reply = queue.layout.commands + 0x8_0000;
        queue.descriptor(0, queue.command(0), u32::try_from(bytes.len()).unwrap(), NEXT, 1);
        queue.descriptor(1, queue.command(0x8_0000), MAX_REPLY as u32, WRITE, 0);
        queue.offer(0);
        queue.finish();
        let (_, written) = queue.used_element(queue.avail.wrapping_sub(1));
        assert!(written >= 8, "no reply");
        let header: ReplyHeader = queue.get(reply);
        assert_eq!(u64::from(header.len) + 8, u64::from(written));
        let body = (0..u64::from(header.len)).map(|i| queue.get::<u8>(reply + 8 + i)).collect();
        (header.status, body)
    }

    /// A request that must succeed, with a reply of type `T`.
    pub fn ask<T: FromBytes + KnownLayout + Immutable>(&mut self, kind: u32, body: &[u8]) -> T {
        let (status, body) = self.request(kind, body);
        assert_eq!(status, status::OK, "kind {kind}: {}", status::describe(status));
        T::read_from_bytes(&body).unwrap()
    }

    pub fn hello(&mut self) -> HelloReply {
        let hello = Hello {
            version: vgpu_spec::wire::VERSION,
            reserved: [0; 3],
            features: 0,
            pci: Default::default(),
        };
        self.ask(kind::HELLO, hello.as_bytes())
    }

    pub fn open(&mut self, client: u32) -> ClientOpenReply {
        self.ask(kind::CLIENT_OPEN, open_body(client).as_bytes())
    }

    pub fn close(&mut self, client: u32) -> u32 {
        loop {
            match self.request(kind::CLIENT_CLOSE, ClientClose { client, reserved: 0 }.as_bytes()).0 {
                status::AGAIN => std::thread::sleep(Duration::from_millis(5)),
                other => return other,
            }
        }
    }

    /// Lends queue `queue` in its own page.
    pub fn attach(&mut self, client: u32, queue: u16) -> u32 {
        let page = self.queues[usize::from(queue)].page();
        self.attach_page(client, queue, page)
    }

    pub fn attach_page(&mut self, client: u32, queue: u16, page: u64) -> u32 {
        let request = LaneAttach { client, queue, reserved: 0, page };
        let (status, body) = self.request(kind::LANE_ATTACH, request.as_bytes());
        if status == status::OK {
            let reply = LaneAttachReply::read_from_bytes(&body).unwrap();
            assert_eq!(
                reply.start,
                self.queues[usize::from(queue)].avail,
                "the lane starts where the guest is"
            );
        }
        status
    }

    /// Maps `pages` (numbers of 2 MiB pages of guest memory) as a window.
    pub fn map(&mut self, client: u32, window: u32, address: u64, pages: &[u64]) -> u32 {
        let request = WindowMap {
            client,
            window,
            address,
            len: pages.len() as u64 * HUGE_PAGE,
            extents: u32::try_from(pages.len()).unwrap(),
            reserved: 0,
        };
        let mut body = request.as_bytes().to_vec();
        for page in pages {
            let range = vgpu_spec::wire::Range { base: BASE + page * HUGE_PAGE, len: HUGE_PAGE };
            body.extend_from_slice(range.as_bytes());
        }
        loop {
            match self.request(kind::WINDOW_MAP, &body).0 {
                status::AGAIN => std::thread::sleep(Duration::from_millis(5)),
                other => return other,
            }
        }
    }
}

pub fn open_body(client: u32) -> ClientOpen {
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"test");
    ClientOpen { client, pid: 1000 + client, uid: 7, reserved: 0, name }
}
