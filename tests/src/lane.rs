//! A lane driven by hand: what a hostile shim could write into its page.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags};
use vgpu_client::Connection;
use vgpu_client::connection::LaneGrant;
use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Dependency, Layout, MessageHeader, ReplyHeader, Status, function_id};
use zerocopy::{FromBytes, IntoBytes};

pub const READ: u16 = 0;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

/// Where [`RawLane::call`] has its message and its reply, as offsets in the command area.
const MESSAGE: u64 = 0;
const REPLY: u64 = 0x8_0000;

/// A lane without the shim's care.
pub struct RawLane {
    pub queue: u16,
    pub layout: Layout,
    /// Available index.
    pub avail: u16,
    base: *mut u8,
    kick: OwnedFd,
    _completion: OwnedFd,
}

impl RawLane {
    /// Asks the agent for a lane.
    pub fn open(connection: &Connection) -> Self {
        let LaneGrant { reply, page, kick, completion } = connection.lane().unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let len = HUGE_PAGE as usize;
        // SAFETY: the kernel picks a free range.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, &page, 0) };
        RawLane {
            queue: reply.queue,
            layout: Layout::new(reply.size).unwrap(),
            avail: reply.start,
            base: base.unwrap().cast(),
            kick,
            _completion: completion,
        }
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        assert!(offset + len as u64 <= HUGE_PAGE);
        // SAFETY: in the page (asserted), which is mapped as long as the value lives.
        unsafe { self.base.add(offset as usize) }
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        // SAFETY: the range lies in the page (`at`); the other side copes with whatever it reads.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset, bytes.len()), bytes.len()) };
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: the range lies in the page (`at`).
        unsafe { ptr::copy_nonoverlapping(self.at(offset, len), bytes.as_mut_ptr(), len) };
        bytes
    }

    fn get<T: FromBytes>(&self, offset: u64) -> T {
        T::read_from_bytes(&self.bytes(offset, size_of::<T>())).unwrap()
    }

    fn load(&self, offset: u64) -> u16 {
        // SAFETY: an aligned u16 in the page, written by another process: volatile.
        let value = unsafe { self.at(offset, 2).cast::<u16>().read_volatile() };
        fence(Ordering::SeqCst);
        value
    }

    /// Offset in the page of byte `offset` of the command area.
    pub fn command(&self, offset: u64) -> u64 {
        self.layout.commands + offset
    }

    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(self.layout.desc + 16 * u64::from(index % self.layout.size), &bytes);
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail % self.layout.size);
        self.put(self.layout.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.publish(self.avail);
    }

    /// Says how far the available ring is filled, true or not, and kicks.
    pub fn publish(&self, avail: u16) {
        fence(Ordering::SeqCst);
        // SAFETY: an aligned u16 in the page.
        unsafe { self.at(self.layout.avail + 2, 2).cast::<u16>().write_volatile(avail) };
        fence(Ordering::SeqCst);
        let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }

    pub fn used(&self) -> u16 {
        self.load(self.layout.used + 2)
    }

    pub fn status(&self) -> Status {
        self.get(self.layout.status)
    }

    /// Whether everything that was offered is used within `limit`. Looks without a pause: most answers take microseconds.
    pub fn finished_within(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.used() != self.avail {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Waits until everything that was offered is used.
    pub fn finish(&self) {
        let done = self.finished_within(crate::poll::PATIENCE);
        assert!(done, "{} used of {}, state {}", self.used(), self.avail, self.status().state);
    }

    /// Sends `bytes` as a message without a reply; does not wait.
    pub fn post(&mut self, slot: u16, bytes: &[u8]) {
        let place = self.command(0x1000 * u64::from(slot));
        self.put(place, bytes);
        self.descriptor(slot, place, u32::try_from(bytes.len()).unwrap(), READ, 0);
        self.offer(slot);
    }

    /// Sends a message with room for a reply, without waiting.
    pub fn ask(&mut self, bytes: &[u8], room: u32) {
        self.put(self.command(MESSAGE), bytes);
        self.put(self.command(REPLY), &[0xee; 64]);
        self.descriptor(0, self.command(MESSAGE), u32::try_from(bytes.len()).unwrap(), NEXT, 1);
        self.descriptor(1, self.command(REPLY), room, WRITE, 0);
        self.offer(0);
    }

    /// Sends a message and waits: the reply's status and body.
    pub fn call(&mut self, bytes: &[u8]) -> (u32, Vec<u8>) {
        self.ask(bytes, 64 << 10);
        self.finish();
        self.reply()
    }

    /// The reply to the last [`RawLane::ask`].
    pub fn reply(&self) -> (u32, Vec<u8>) {
        let header: ReplyHeader = self.get(self.command(REPLY));
        let fixed = size_of::<ReplyHeader>();
        let len = (header.len as usize).clamp(fixed, 64 << 10) - fixed;
        (header.status, self.bytes(self.command(REPLY) + fixed as u64, len))
    }
}

impl Drop for RawLane {
    fn drop(&mut self) {
        // SAFETY: the mapping is the value's own.
        let _ = unsafe { rustix::mm::munmap(self.base.cast::<c_void>(), HUGE_PAGE as usize) };
    }
}

/// A message to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub function: u32,
    /// Index of the context's handle, or 0.
    pub context: u32,
    pub dependencies: &'a [Dependency],
    pub args: &'a [u8],
}

impl<'a> Message<'a> {
    /// A call of `function` by name, in no context.
    pub fn new(function: &str, args: &'a [u8]) -> Self {
        Self::by_id(function_id(function), args)
    }

    pub fn by_id(function: u32, args: &'a [u8]) -> Self {
        Message { function, context: 0, dependencies: &[], args }
    }

    pub fn encode(&self) -> Vec<u8> {
        let dependencies = self.dependencies.as_bytes();
        let header = MessageHeader {
            function: self.function,
            len: u32::try_from(size_of::<MessageHeader>() + dependencies.len() + self.args.len()).unwrap(),
            thread: 1,
            context: self.context,
            dependencies: u16::try_from(self.dependencies.len()).unwrap(),
            flags: 0,
            number: 0,
        };
        [header.as_bytes(), dependencies, self.args].concat()
    }
}

/// Arguments that are numbers.
pub fn slots(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
