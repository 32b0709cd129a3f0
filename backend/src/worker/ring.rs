//! A lane's ring as its worker thread sees it: the device side of a split virtqueue (virtio 1.2, 2.7) in one page of guest memory.
//!
//! The queues that the broker serves are the virtio-queue crate's. A lane's is served here: each message waits for what this code does,
//! and addresses need no look-up, being offsets in the one page.
//!
//! SECURITY: what is used is read once, or copied first; see [`Page`].

use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};

use vgpu_spec::wire::lane::{EXPRESS_LEN, LINE, Layout, MAX_MESSAGE, MessageHeader, ReplyHeader, Status};

use super::api::End;
use super::page::Page;
use crate::link::message::LaneStart;

/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Lines of a message that is next: a launch has so many as a rule.
const MESSAGE_LINES: u64 = 3;
/// Flag of the available and of the used ring, without VIRTIO_F_EVENT_IDX: no notifications wanted.
const NO_NOTIFICATION: u16 = 1;

/// Why a lane's ring cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("a ring of {0} entries")]
    Size(u16),
    #[error("mapping the page {page:#x}")]
    Map { page: u64, source: rustix::io::Errno },
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

/// Where a reply goes: offset in the page, and bytes.
pub type ReplyPlace = (u64, u32);

/// A chain taken from the ring.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    /// The message's, by its header.
    number: u32,
    /// If the call waits.
    pub reply: Option<ReplyPlace>,
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

/// Places of messages that are known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The express message's: it has a reply.
    Express,
    /// The start of the circular buffer: a message without a reply.
    First,
}

impl Known {
    /// In the command area.
    fn offset(self) -> u64 {
        match self {
            Known::Express => LINE,
            Known::First => EXPRESS_LEN,
        }
    }

    /// The most bytes of a message.
    fn room(self) -> usize {
        match self {
            Known::Express => (EXPRESS_LEN - LINE) as usize,
            Known::First => MAX_MESSAGE,
        }
    }
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

pub struct LaneRing {
    page: Page,
    layout: Layout,
    event_idx: bool,
    /// The available entry to take next, and the used entry to write next, free-running.
    next_avail: u16,
    next_used: u16,
    /// The used entry after the last one that the driver was told of.
    told: u16,
    /// The descriptor that a driver which uses them in order, as the shim does, takes for its next chain.
    next_descriptor: u16,
    /// What the number of a message at a known place would be now. Not known before the first message of this ring.
    next_number: Option<u32>,
    /// The message taken last may have been there before the available index told of it.
    early: bool,
    /// Chains behind it, as far as it was looked.
    behind: u16,
    /// The last express reply was written by the device: the next one's line need not come here.
    device_writes: bool,
}

impl LaneRing {
    /// Maps the page and sets the queue up as the broker says.
    pub fn new(page: OwnedFd, start: &LaneStart) -> Result<Self, RingError> {
        let layout = Layout::new(start.size).ok_or(RingError::Size(start.size))?;
        let page =
            Page::map(page, start.offset).map_err(|source| RingError::Map { page: start.page, source })?;
        Ok(LaneRing {
            page,
            layout,
            event_idx: start.event_idx != 0,
            next_avail: start.next,
            next_used: start.next,
            told: start.next,
            next_descriptor: 0,
            next_number: None,
            early: false,
            behind: 0,
            device_writes: false,
        })
    }

    /// Ring slot or descriptor number of a free-running index.
    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.layout.size - 1))
    }

    fn avail_idx(&self, order: Ordering) -> u16 {
        u16::from_le(self.page.u16(self.layout.avail + 2).load(order))
    }

    /// Where the driver says which available entry it put where.
    fn avail_entry(&self, index: u16) -> u64 {
        self.layout.avail + 4 + 2 * self.slot(index)
    }

    fn used_entry(&self) -> u64 {
        self.layout.used + 4 + 8 * self.slot(self.next_used)
    }

    fn descriptor(&self, number: u16) -> Descriptor {
        let at = self.layout.desc + 16 * self.slot(number);
        let addr = u64::from_le(self.page.u64(at).load(Ordering::Relaxed));
        // Length, flags and next, in the order of their addresses.
        let rest = u64::from_le(self.page.u64(at + 8).load(Ordering::Relaxed));
        Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    /// Whether the driver has made something available; if so it is about to be taken.
    #[inline]
    pub fn has_more(&self) -> bool {
        if self.announced(Known::Express) {
            self.prefetch_reply();
            return true;
        }
        if self.announced(Known::First) {
            return true;
        }
        let more = self.available() != 0;
        if more {
            self.prefetch_chain();
        }
        more
    }

    /// How many chains the available index tells of, or more than there can be. The index is one behind where an express message was
    /// taken before it: then of none.
    fn available(&self) -> u16 {
        let ahead = self.avail_idx(Ordering::Acquire).wrapping_sub(self.next_avail);
        if self.early && ahead == u16::MAX { 0 } else { ahead }
    }

    /// Whether the message at a known place is the next one. Its number is written last, so all of it is there: with the message comes
    /// what the available index, the ring and the descriptors would have told.
    #[inline]
    fn announced(&self, place: Known) -> bool {
        let number =
            self.layout.commands + place.offset() + std::mem::offset_of!(MessageHeader, number) as u64;
        let number = u32::from_le(self.page.u32(number).load(Ordering::Acquire));
        number != 0 && Some(number) == self.next_number
    }

    /// Fetches what the first chain after a pause probably consists of all at once: each line comes from another processor's cache, and
    /// otherwise where the next one is would only be known when the one before is here. A wrong guess costs nothing but time.
    fn prefetch_chain(&self) {
        self.page.prefetch(self.avail_entry(self.next_avail));
        self.page.prefetch(self.layout.desc + 16 * self.slot(self.next_descriptor));
        for line in 1..EXPRESS_LEN / LINE {
            self.page.prefetch(self.layout.commands + LINE * line);
        }
        // Where a reply comes first, and where the chain is given back.
        self.page.prefetch_to_write(self.layout.commands);
        self.page.prefetch_to_write(self.used_entry());
    }

    /// Fetches what is needed next, if one without a reply follows another, while that is executed: a driver that uses the page in order
    /// puts it behind.
    fn prefetch_next(&self, message: u64, len: u64) {
        self.page.prefetch(self.layout.desc + 16 * self.slot(self.next_descriptor));
        // SECURITY: any address will do: what is fetched is in the page.
        let next = message.wrapping_add(len).wrapping_add(LINE - 1) & !(LINE - 1);
        for line in 0..MESSAGE_LINES {
            self.page.prefetch(next.wrapping_add(LINE * line));
        }
    }

    /// Fetches the line of an express message's reply, if this side is likely to write it.
    fn prefetch_reply(&self) {
        if !self.device_writes {
            self.page.prefetch_to_write(self.layout.commands);
        }
    }

    /// The reply of the chain that is about to be given back was written by the device.
    pub fn device_has_written(&mut self) {
        self.device_writes = true;
    }

    /// Takes the next chain; the bytes of its readable descriptor replace those of `message`.
    pub fn pop(&mut self, message: &mut Vec<u8>) -> Popped {
        if let Some(place) = [Known::Express, Known::First].into_iter().find(|&place| self.announced(place)) {
            return Popped::Chain(self.pop_known(place, message));
        }
        let available = match self.available() {
            0 => return Popped::Nothing,
            // SECURITY: not to be waited for in a busy loop.
            n if n > self.layout.size => return Popped::Broken,
            n => n,
        };
        let head = u16::from_le(self.page.u16(self.avail_entry(self.next_avail)).load(Ordering::Relaxed));
        self.next_avail = self.next_avail.wrapping_add(1);
        let mut chain = Chain { head, number: 0, reply: None, error: None };
        let read = self.read_chain(&mut chain, message);
        self.next_descriptor = head.wrapping_add(if chain.reply.is_some() { 2 } else { 1 });
        match read {
            Ok(address) if available > 1 && chain.reply.is_none() => {
                self.prefetch_next(address, message.len() as u64);
            }
            Ok(_) => {}
            Err(error) => {
                message.clear();
                chain.error = Some(error);
            }
        }
        let number = number(message);
        chain.number = number.unwrap_or(0);
        // A driver that does not number its messages keeps to the ring.
        self.next_number = number.filter(|&number| number != 0).map(|number| number.wrapping_add(1));
        self.early = false;
        self.behind = available - 1;
        Popped::Chain(chain)
    }

    /// Takes a message at a known place, whose chain takes the descriptors that come next.
    fn pop_known(&mut self, place: Known, message: &mut Vec<u8>) -> Chain {
        let at = self.layout.commands + place.offset();
        let len = self.page.u32(at + std::mem::offset_of!(MessageHeader, len) as u64).load(Ordering::Relaxed);
        // SECURITY: a length that is too large is cut, and then refused as one that does not fit the message.
        let len = (u32::from_le(len) as usize).min(place.room());
        if place == Known::Express {
            self.prefetch_reply();
        }
        let read = self.page.read(at, len, message);
        let head = self.slot(self.next_descriptor) as u16;
        let reply = (place == Known::Express).then_some((self.layout.commands, LINE as u32));
        // Not looked up: the index's line is what need not come across.
        self.early = true;
        self.behind = 0;
        self.next_avail = self.next_avail.wrapping_add(1);
        self.next_descriptor = head.wrapping_add(if reply.is_some() { 2 } else { 1 });
        let number = self.next_number.unwrap_or(0);
        self.next_number = Some(number.wrapping_add(1));
        Chain { head, number, reply, error: if read { None } else { Some(ChainError::Memory) } }
    }

    /// Reads the message and where its reply goes; the message's place in the page.
    fn read_chain(&self, chain: &mut Chain, message: &mut Vec<u8>) -> Result<u64, ChainError> {
        let first = self.linked(chain.head)?;
        if first.flags & WRITE != 0 {
            return Err(ChainError::NotReadable);
        }
        if first.flags & NEXT != 0 {
            let second = self.linked(first.next)?;
            if second.flags & (WRITE | NEXT) != WRITE {
                return Err(ChainError::Shape);
            }
            chain.reply = Some((second.addr, second.len));
        }
        // SECURITY: checked before anything of that size is allocated.
        if first.len as usize > MAX_MESSAGE {
            return Err(ChainError::TooLong(first.len));
        }
        let read = self.page.read(first.addr, first.len as usize, message);
        if read { Ok(first.addr) } else { Err(ChainError::Memory) }
    }

    /// The descriptor that the driver names.
    fn linked(&self, number: u16) -> Result<Descriptor, ChainError> {
        if number >= self.layout.size {
            return Err(ChainError::Shape);
        }
        let descriptor = self.descriptor(number);
        if descriptor.flags & INDIRECT != 0 { Err(ChainError::Shape) } else { Ok(descriptor) }
    }

    /// The place of a reply's header at which a driver may look for its end.
    pub fn end(&self, chain: &Chain) -> Option<End<'_>> {
        let (address, _) = chain.reply.filter(|_| chain.number != 0)?;
        (address == self.layout.commands)
            .then(|| End { header: self.page.four(address), number: chain.number })
    }

    /// Puts the chain that was taken last back: it will be taken again.
    pub fn put_back(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
        self.next_number = None;
    }

    /// Writes a reply at the start of a chain's writable descriptor.
    #[inline]
    pub fn write_reply(&self, address: u64, header: &[u8], body: &[u8]) -> bool {
        let behind = address.wrapping_add(header.len() as u64);
        self.page.write(address, header) && (body.is_empty() || self.page.write(behind, body))
    }

    /// Says that a chain's reply is complete, for a driver that looks there instead of at the used ring.
    pub fn mark_written(&mut self, chain: &Chain) {
        self.device_writes = false;
        if let Some((address, _)) = chain.reply {
            let written = address.wrapping_add(std::mem::offset_of!(ReplyHeader, written) as u64);
            self.page.u32(written).store(chain.number.to_le(), Ordering::Release);
        }
    }

    /// Gives a chain back with `len` bytes written. The driver is told by [`LaneRing::tell`].
    pub fn complete(&mut self, chain: &Chain, len: u32) {
        let entry = self.used_entry();
        // SECURITY: a head out of bounds cannot be given back; some entry must be, or the indices run apart.
        let head = chain.head & (self.layout.size - 1);
        self.page.u32(entry).store(u32::from(head).to_le(), Ordering::Relaxed);
        self.page.u32(entry + 4).store(len.to_le(), Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// How many chains there were behind the one taken last, at least.
    pub fn behind(&self) -> u16 {
        self.behind
    }

    /// Chains given back of which the driver was not told.
    pub fn untold(&self) -> u16 {
        self.next_used.wrapping_sub(self.told)
    }

    /// Tells the driver of all chains given back. True if it wants to be notified.
    pub fn tell(&mut self) -> bool {
        let count = self.untold();
        if count == 0 {
            return false;
        }
        self.page.u16(self.layout.used + 2).store(self.next_used.to_le(), Ordering::Release);
        self.told = self.next_used;
        // The driver says what it wants, then looks at the index: one of the two sees the other (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
            let event = u16::from_le(self.page.u16(event).load(Ordering::Relaxed));
            // One of the entries just told.
            self.next_used.wrapping_sub(event).wrapping_sub(1) < count
        } else {
            u16::from_le(self.page.u16(self.layout.avail).load(Ordering::Relaxed)) & NO_NOTIFICATION == 0
        }
    }

    /// Asks the driver to kick for the next chain. True if there is one already.
    pub fn enable_kicks(&mut self) -> bool {
        if self.event_idx {
            let event = self.layout.used + 4 + 8 * u64::from(self.layout.size);
            self.page.u16(event).store(self.next_avail.to_le(), Ordering::Relaxed);
        } else {
            self.page.u16(self.layout.used).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.available() != 0
    }

    /// Tells the driver not to kick: this thread is looking. With VIRTIO_F_EVENT_IDX it kicks once, for the entry that was named.
    pub fn disable_kicks(&mut self) {
        if !self.event_idx {
            self.page.u16(self.layout.used).store(NO_NOTIFICATION.to_le(), Ordering::Relaxed);
        }
    }

    /// The index at which another would go on.
    pub fn next(&self) -> u16 {
        self.next_avail
    }

    /// Reports an error of a call without reply; `count` is the number of such errors with this one.
    pub fn report(&self, count: u32, error: u32, function: u32) {
        let store = |value: u32, offset: usize, order| {
            self.page.u32(self.layout.status + offset as u64).store(value.to_le(), order);
        };
        store(error, std::mem::offset_of!(Status, error), Ordering::Relaxed);
        store(function, std::mem::offset_of!(Status, error_function), Ordering::Relaxed);
        // After the two: who sees the new count sees them.
        store(count, std::mem::offset_of!(Status, error_count), Ordering::Release);
    }
}

/// The number of a message that was copied.
fn number(message: &[u8]) -> Option<u32> {
    let header = vgpu_spec::wire::split::<MessageHeader>(message)?.0;
    Some(header.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vgpu_spec::wire::HUGE_PAGE;

    const SIZE: u16 = 16;

    fn ring(event_idx: bool) -> LaneRing {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, HUGE_PAGE).unwrap();
        let event_idx = event_idx.into();
        let start = LaneStart { queue: 2, size: SIZE, next: 0, event_idx, has_call: 1, page: 0, offset: 0 };
        LaneRing::new(file, &start).unwrap()
    }

    fn complete(ring: &mut LaneRing, count: u16) {
        for head in 0..count {
            ring.complete(&Chain { head, number: 0, reply: None, error: None }, 0);
        }
    }

    fn used_idx(ring: &LaneRing) -> u16 {
        ring.page.u16(ring.layout.used + 2).load(Ordering::Relaxed)
    }

    #[test]
    fn chains_are_told_of_together() {
        let mut ring = ring(true);
        let event = ring.layout.avail + 4 + 2 * u64::from(SIZE);
        // An interrupt for entry 2, which is among the first three told, and then behind.
        ring.page.u16(event).store(2, Ordering::Relaxed);
        complete(&mut ring, 3);
        assert_eq!((used_idx(&ring), ring.untold()), (0, 3));
        assert!(ring.tell());
        assert_eq!((used_idx(&ring), ring.untold()), (3, 0));
        assert!(!ring.tell(), "nothing new");
        complete(&mut ring, SIZE);
        assert!(!ring.tell());
        assert_eq!(used_idx(&ring), 3 + SIZE);
        // For one that is still to come.
        ring.page.u16(event).store(3 + SIZE + 1, Ordering::Relaxed);
        complete(&mut ring, 1);
        assert!(!ring.tell());
        complete(&mut ring, 1);
        assert!(ring.tell());
    }

    #[test]
    fn without_event_index_the_flag_decides() {
        let mut ring = ring(false);
        complete(&mut ring, 1);
        assert!(ring.tell());
        ring.page.u16(ring.layout.avail).store(NO_NOTIFICATION, Ordering::Relaxed);
        complete(&mut ring, 1);
        assert!(!ring.tell());
        ring.disable_kicks();
        assert_eq!(ring.page.u16(ring.layout.used).load(Ordering::Relaxed), NO_NOTIFICATION);
        assert!(!ring.enable_kicks());
        assert_eq!(ring.page.u16(ring.layout.used).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_express_message_is_taken_by_its_number() {
        let mut ring = ring(true);
        let (mut message, at) = (Vec::new(), ring.layout.commands + LINE);
        let place = |field: usize| at + field as u64;
        let announce = |ring: &LaneRing, number: u32, len: u32| {
            ring.page.u32(place(std::mem::offset_of!(MessageHeader, len))).store(len, Ordering::Relaxed);
            ring.page
                .u32(place(std::mem::offset_of!(MessageHeader, number)))
                .store(number, Ordering::Relaxed);
        };
        // Its number means nothing before that of another is known.
        announce(&ring, 1, 40);
        assert!(!ring.has_more() && matches!(ring.pop(&mut message), Popped::Nothing));
        announce(&ring, 1, 40);
        ring.page.u64(0).store(at, Ordering::Relaxed);
        ring.page.u64(8).store(40, Ordering::Relaxed);
        ring.page.u16(ring.layout.avail + 2).store(1, Ordering::Relaxed);
        let Popped::Chain(first) = ring.pop(&mut message) else { panic!("nothing") };
        assert_eq!((first.head, first.reply, message.len()), (0, None, 40));
        // The same number again, or a later one, is not the next.
        for number in [1, 3] {
            announce(&ring, number, 40);
            assert!(!ring.has_more() && matches!(ring.pop(&mut message), Popped::Nothing));
        }
        announce(&ring, 2, u32::MAX);
        assert!(ring.has_more());
        let Popped::Chain(express) = ring.pop(&mut message) else { panic!("nothing") };
        assert!(express.head == 1 && express.error.is_none());
        assert_eq!(express.reply, Some((ring.layout.commands, 64)));
        assert_eq!(message.len() as u64, EXPRESS_LEN - LINE, "cut");
        // The index is behind: there is nothing, and nothing is broken.
        assert!(
            !ring.has_more() && !ring.enable_kicks() && matches!(ring.pop(&mut message), Popped::Nothing)
        );
        ring.mark_written(&express);
        let written = ring.layout.commands + std::mem::offset_of!(ReplyHeader, written) as u64;
        assert_eq!(ring.page.u32(written).load(Ordering::Relaxed), 2);
        // The one at the start of the buffer has no reply.
        let first = ring.layout.commands + EXPRESS_LEN;
        ring.page.u32(first + std::mem::offset_of!(MessageHeader, len) as u64).store(24, Ordering::Relaxed);
        ring.page.u32(first + std::mem::offset_of!(MessageHeader, number) as u64).store(3, Ordering::Relaxed);
        ring.page.u16(ring.layout.avail + 2).store(2, Ordering::Relaxed);
        assert!(ring.has_more());
        let Popped::Chain(chain) = ring.pop(&mut message) else { panic!("nothing") };
        assert_eq!((chain.head, chain.reply, message.len()), (3, None, 24));
        ring.put_back();
        ring.page.u16(ring.layout.avail + 2).store(1, Ordering::Relaxed);
        // Put back, it comes by the available ring.
        ring.put_back();
        assert!(!ring.has_more());
        ring.page.u16(ring.avail_entry(1)).store(1, Ordering::Relaxed);
        ring.page.u64(16).store(at, Ordering::Relaxed);
        ring.page.u64(24).store(40 | u64::from(NEXT) << 32 | 2 << 48, Ordering::Relaxed);
        ring.page.u64(32).store(ring.layout.commands, Ordering::Relaxed);
        ring.page.u64(40).store(64 | u64::from(WRITE) << 32, Ordering::Relaxed);
        ring.page.u16(ring.layout.avail + 2).store(2, Ordering::Relaxed);
        let Popped::Chain(again) = ring.pop(&mut message) else { panic!("nothing") };
        assert_eq!((again.head, again.reply, again.error), (1, express.reply, None));
    }

    #[test]
    fn chains_of_another_shape_are_refused() {
        let mut ring = ring(true);
        let put = |ring: &LaneRing, number: u64, addr: u64, rest: u64| {
            ring.page.u64(16 * number).store(addr, Ordering::Relaxed);
            ring.page.u64(16 * number + 8).store(rest, Ordering::Relaxed);
        };
        let flags = |flags: u16, next: u64, len: u64| len | u64::from(flags) << 32 | next << 48;
        let commands = ring.layout.commands;
        let cases = [
            (commands, flags(0, 0, 8), None),
            (commands, flags(WRITE, 0, 8), Some(ChainError::NotReadable)),
            (commands, flags(INDIRECT, 0, 8), Some(ChainError::Shape)),
            (commands, flags(NEXT, u64::from(SIZE), 8), Some(ChainError::Shape)),
            // The next one is itself, which is readable.
            (commands, flags(NEXT, 0, 8), Some(ChainError::Shape)),
            (
                commands,
                flags(0, 0, MAX_MESSAGE as u64 + 1),
                Some(ChainError::TooLong(MAX_MESSAGE as u32 + 1)),
            ),
            (HUGE_PAGE - 4, flags(0, 0, 8), Some(ChainError::Memory)),
            (u64::MAX, flags(0, 0, 8), Some(ChainError::Memory)),
        ];
        let mut message = Vec::new();
        for (index, (addr, rest, expected)) in (0_u16..).zip(cases) {
            put(&ring, 0, addr, rest);
            let entry = ring.avail_entry(index);
            ring.page.u16(entry).store(0, Ordering::Relaxed);
            ring.page.u16(ring.layout.avail + 2).store(index + 1, Ordering::Relaxed);
            let Popped::Chain(chain) = ring.pop(&mut message) else { panic!("nothing at {index}") };
            assert_eq!(chain.error, expected, "{index}");
            assert_eq!(message.len(), if expected.is_none() { 8 } else { 0 });
        }
        // A head that is no descriptor, and an index that is too far ahead.
        let next = ring.next();
        ring.page.u16(ring.avail_entry(next)).store(SIZE, Ordering::Relaxed);
        ring.page.u16(ring.layout.avail + 2).store(next + 1, Ordering::Relaxed);
        let Popped::Chain(chain) = ring.pop(&mut message) else { panic!("nothing") };
        assert_eq!(chain.error, Some(ChainError::Shape));
        ring.page.u16(ring.layout.avail + 2).store(ring.next() + SIZE + 1, Ordering::Relaxed);
        assert!(matches!(ring.pop(&mut message), Popped::Broken));
    }
}
