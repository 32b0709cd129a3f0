//! A lane's ring as its worker thread sees it: one page of guest memory, and nothing else.
//!
//! SECURITY: the guest's process can write the page at any time. Guest addresses are resolved against a memory that
//! consists of this page only; what is used is copied first.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use vgpu_spec::wire::HUGE_PAGE;
use vgpu_spec::wire::lane::{Layout, MAX_MESSAGE, MAX_QUEUE_SIZE, Status};
use virtio_queue::{Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::link::message::LaneStart;

/// Why a lane's ring cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("a ring of {0} entries")]
    Size(u16),
    #[error("mapping the page {page:#x}")]
    Map { page: u64, source: MmapRegionError },
    #[error("the page {0:#x} is not a region of memory")]
    Page(u64),
    #[error("setting up the ring")]
    Queue(#[source] QueueError),
}

/// Why a chain was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    #[error("a chain does not start with a readable descriptor")]
    NotReadable,
    #[error("a chain has more than a readable and a writable descriptor, or a broken link")]
    Shape,
    #[error("a message of {0} bytes")]
    TooLong(u32),
    #[error("a descriptor is not in the lane's page")]
    Memory,
}

/// A chain taken from the ring.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// Where the reply goes, if the call waits.
    pub reply: Option<(GuestAddress, u32)>,
    pub error: Option<ChainError>,
}

/// What the available ring holds.
#[derive(Debug)]
pub enum Popped {
    Nothing,
    Chain(Chain),
    /// The available index is nonsense.
    Broken,
}

pub struct LaneRing {
    memory: GuestMemoryMmap,
    queue: Queue,
    status: GuestAddress,
}

impl LaneRing {
    /// Maps the page and sets the queue up as the broker says.
    pub fn new(page: OwnedFd, start: &LaneStart) -> Result<Self, RingError> {
        let layout = Layout::new(start.size).ok_or(RingError::Size(start.size))?;
        let region = MmapRegionBuilder::new(HUGE_PAGE as usize)
            .with_file_offset(FileOffset::new(File::from(page), start.offset))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_POPULATE)
            .build()
            .map_err(|source| RingError::Map { page: start.page, source })?;
        // Addresses in a lane are offsets in its page: the guest's process does not learn where in its RAM the page lies.
        let region = GuestRegionMmap::new(region, GuestAddress(0)).ok_or(RingError::Page(start.page))?;
        let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(|_| RingError::Page(start.page))?;
        let mut queue = Queue::new(MAX_QUEUE_SIZE).map_err(RingError::Queue)?;
        queue.try_set_size(start.size).map_err(RingError::Queue)?;
        queue.try_set_desc_table_address(GuestAddress(layout.desc)).map_err(RingError::Queue)?;
        queue.try_set_avail_ring_address(GuestAddress(layout.avail)).map_err(RingError::Queue)?;
        queue.try_set_used_ring_address(GuestAddress(layout.used)).map_err(RingError::Queue)?;
        queue.set_event_idx(start.event_idx != 0);
        queue.set_next_avail(start.next);
        queue.set_next_used(start.next);
        queue.set_ready(true);
        Ok(LaneRing { memory, queue, status: GuestAddress(layout.status) })
    }

    /// Whether the driver has made something available.
    pub fn has_more(&self) -> bool {
        match self.queue.avail_idx(&self.memory, Ordering::Acquire) {
            Ok(index) => index.0 != self.queue.next_avail(),
            Err(_) => false,
        }
    }

    /// Takes the next chain; the bytes of its readable descriptor replace those of `message`.
    pub fn pop(&mut self, message: &mut Vec<u8>) -> Popped {
        message.clear();
        let Ok(avail) = self.queue.avail_idx(&self.memory, Ordering::Acquire) else { return Popped::Broken };
        match avail.0.wrapping_sub(self.queue.next_avail()) {
            0 => return Popped::Nothing,
            // SECURITY: the queue would refuse it for ever; not to be waited for in a busy loop.
            n if n > self.queue.size() => return Popped::Broken,
            _ => {}
        }
        let Some(chain) = self.queue.pop_descriptor_chain(&self.memory) else { return Popped::Broken };
        let mut taken = Chain { head: chain.head_index(), reply: None, error: None };
        if let Err(error) = read_chain(&self.memory, chain, message, &mut taken) {
            message.clear();
            taken.error = Some(error);
        }
        Popped::Chain(taken)
    }

    /// Puts the chain that was taken last back: it will be taken again.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Writes at the start of a chain's writable descriptor.
    pub fn write_reply(&self, address: GuestAddress, bytes: &[u8]) -> bool {
        self.memory.write_slice(bytes, address).is_ok()
    }

    /// Gives a chain back with `len` bytes written. True if the driver wants to be notified.
    pub fn complete(&mut self, chain: &Chain, len: u32) -> bool {
        // SECURITY: a head out of bounds cannot be given back; some entry must be, or the indices run apart.
        let head = chain.head % self.queue.size();
        if self.queue.add_used(&self.memory, head, len).is_err() {
            return false;
        }
        self.queue.needs_notification(&self.memory).unwrap_or(true)
    }

    /// Asks the driver to kick for the next chain. True if there is one already.
    pub fn enable_kicks(&mut self) -> bool {
        self.queue.enable_notification(&self.memory).unwrap_or(false)
    }

    /// Tells the driver not to kick: this thread is looking.
    pub fn disable_kicks(&mut self) {
        let _ = self.queue.disable_notification(&self.memory);
    }

    /// The index at which another would go on.
    pub fn next(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Reports an error of a call without reply; `count` is the number of such errors with this one.
    pub fn report(&self, count: u32, error: u32, function: u32) {
        let at = |offset: usize| GuestAddress(self.status.0 + offset as u64);
        let store = |value: u32, offset: usize, order| {
            let _ = self.memory.store(value.to_le(), at(offset), order);
        };
        store(error, std::mem::offset_of!(Status, error), Ordering::Relaxed);
        store(function, std::mem::offset_of!(Status, error_function), Ordering::Relaxed);
        // After the two: who sees the new count sees them.
        store(count, std::mem::offset_of!(Status, error_count), Ordering::Release);
    }
}

fn read_chain(
    memory: &GuestMemoryMmap,
    mut chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>,
    message: &mut Vec<u8>,
    taken: &mut Chain,
) -> Result<(), ChainError> {
    let first = chain.next().ok_or(ChainError::Shape)?;
    if first.is_write_only() {
        return Err(ChainError::NotReadable);
    }
    if first.has_next() {
        let second = chain.next().ok_or(ChainError::Shape)?;
        if !second.is_write_only() || second.has_next() {
            return Err(ChainError::Shape);
        }
        taken.reply = Some((second.addr(), second.len()));
    }
    // SECURITY: checked before anything of that size is allocated.
    let len = first.len() as usize;
    if len > MAX_MESSAGE {
        return Err(ChainError::TooLong(first.len()));
    }
    message.resize(len, 0);
    memory.read_slice(message, first.addr()).map_err(|_| ChainError::Memory)
}
