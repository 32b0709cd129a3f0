//! The driver's side of a split virtqueue (virtio 1.2, section 2.7).

use crate::memory::Rings;
use std::sync::atomic::{Ordering, fence};

/// Descriptor flags (section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Flag in the used ring without EVENT_IDX: the device wants no kick (section 2.7.10).
const NO_NOTIFY: u16 = 1;

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Guest-physical address.
    pub gpa: u64,
    pub len: u32,
    /// Whether the device writes it, otherwise it reads it.
    pub writable: bool,
}

/// A chain that the device is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The number that [`DriverQueue::add`] gave.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// What is wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("adding a chain: the queue's {0} descriptors are in use")]
    Full(u16),
    #[error("taking a used entry: the device names descriptor {0}, which starts no chain of ours")]
    UnknownHead(u32),
    #[error("taking used entries: the device claims {0} of them, more than are outstanding")]
    TooMany(u16),
}

/// A queue that the agent itself drives.
#[derive(Debug)]
pub struct DriverQueue {
    rings: Rings,
    event_idx: bool,
    next_avail: u16,
    last_used: u16,
    free: Vec<u16>,
    /// By head: the descriptors of its chain.
    outstanding: Vec<Option<Vec<u16>>>,
}

impl DriverQueue {
    /// Drives the queue in `rings`, which starts with both indexes 0.
    pub fn new(rings: Rings, event_idx: bool) -> Self {
        let size = rings.layout.size;
        Self {
            rings,
            event_idx,
            next_avail: 0,
            last_used: 0,
            free: (0..size).rev().collect(),
            outstanding: vec![None; usize::from(size)],
        }
    }

    /// Makes a chain available; returns its number and whether the device wants a kick.
    pub fn add(&mut self, buffers: &[Buffer]) -> Result<(u16, bool), QueueError> {
        let size = self.rings.layout.size;
        if buffers.is_empty() || buffers.len() > self.free.len() {
            return Err(QueueError::Full(size));
        }
        let chain = self.free.split_off(self.free.len() - buffers.len());
        for (i, (&id, buffer)) in chain.iter().zip(buffers).enumerate() {
            self.write_descriptor(id, buffer, chain.get(i + 1).copied());
        }
        let head = chain[0];
        self.outstanding[usize::from(head)] = Some(chain);
        let mapping = &self.rings.page.mapping;
        let slot = usize::from(self.next_avail % size);
        mapping.u16(self.avail(4 + 2 * slot)).store(head, Ordering::Relaxed);
        let old = self.next_avail;
        self.next_avail = old.wrapping_add(1);
        self.rings.avail_index().store(self.next_avail, Ordering::Release);
        Ok((head, self.wants_kick(old)))
    }

    /// The next chain that the device is done with.
    pub fn pop(&mut self) -> Result<Option<Used>, QueueError> {
        let index = self.rings.used_index().load(Ordering::Acquire);
        let ready = index.wrapping_sub(self.last_used);
        if ready == 0 {
            return Ok(None);
        }
        let size = self.rings.layout.size;
        if ready > size {
            return Err(QueueError::TooMany(ready));
        }
        let slot = self.used(4 + 8 * usize::from(self.last_used % size));
        let id = self.rings.page.mapping.u32(slot).load(Ordering::Relaxed);
        let len = self.rings.page.mapping.u32(slot + 4).load(Ordering::Relaxed);
        let chain = usize::try_from(id).ok().and_then(|i| self.outstanding.get_mut(i)).and_then(Option::take);
        let chain = chain.ok_or(QueueError::UnknownHead(id))?;
        let head = chain[0];
        self.free.extend(chain);
        self.last_used = self.last_used.wrapping_add(1);
        Ok(Some(Used { head, len }))
    }

    /// Asks for a signal at the next used entry. The caller looks once more afterwards, before it sleeps.
    pub fn enable_signal(&self) {
        self.set_signal(true);
    }

    /// Asks for no signals.
    pub fn disable_signal(&self) {
        self.set_signal(false);
    }

    fn set_signal(&self, on: bool) {
        let mapping = &self.rings.page.mapping;
        if self.event_idx {
            let event = if on { self.last_used } else { self.last_used.wrapping_sub(1) };
            let at = self.avail(4 + 2 * usize::from(self.rings.layout.size));
            mapping.u16(at).store(event, Ordering::Relaxed);
        } else {
            mapping.u16(self.avail(0)).store(u16::from(!on), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    fn wants_kick(&self, old: u16) -> bool {
        fence(Ordering::SeqCst);
        let mapping = &self.rings.page.mapping;
        if self.event_idx {
            let at = self.used(4 + 8 * usize::from(self.rings.layout.size));
            let event = mapping.u16(at).load(Ordering::Relaxed);
            // Section 2.7.7.2: whether the index went past the event.
            self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(old)
        } else {
            mapping.u16(self.used(0)).load(Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    fn write_descriptor(&self, id: u16, buffer: &Buffer, next: Option<u16>) {
        let mapping = &self.rings.page.mapping;
        let at = (self.rings.base + self.rings.layout.desc) as usize + 16 * usize::from(id);
        let flags = if buffer.writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
        mapping.u64(at).store(buffer.gpa, Ordering::Relaxed);
        mapping.u32(at + 8).store(buffer.len, Ordering::Relaxed);
        mapping.u16(at + 12).store(flags, Ordering::Relaxed);
        mapping.u16(at + 14).store(next.unwrap_or(0), Ordering::Relaxed);
    }

    fn avail(&self, offset: usize) -> usize {
        (self.rings.base + self.rings.layout.avail) as usize + offset
    }

    fn used(&self, offset: usize) -> usize {
        (self.rings.base + self.rings.layout.used) as usize + offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MockDevice, rings};

    fn read(gpa: u64, len: u32) -> Buffer {
        Buffer { gpa, len, writable: false }
    }

    #[test]
    fn device_sees_the_chain_as_it_was_added() {
        let rings = rings(8);
        let mut device = MockDevice::new(&rings);
        let mut queue = DriverQueue::new(rings, false);
        let reply = Buffer { gpa: 0x9000, len: 64, writable: true };
        let (head, kick) = queue.add(&[read(0x8000, 32), reply]).unwrap();
        assert!(kick);
        let chain = device.take().unwrap();
        assert_eq!(chain.head, head);
        assert_eq!(chain.buffers, [(0x8000, 32, false), (0x9000, 64, true)]);
        assert_eq!(queue.pop().unwrap(), None);
        device.complete(head, 12);
        assert_eq!(queue.pop().unwrap(), Some(Used { head, len: 12 }));
        assert_eq!(queue.pop().unwrap(), None);
    }

    #[test]
    fn indexes_run_past_65535() {
        let rings = rings(4);
        let mut device = MockDevice::new(&rings);
        let mut queue = DriverQueue::new(rings, true);
        for n in 0..70_000_u32 {
            queue.add(&[read(u64::from(n), 1)]).unwrap();
            let chain = device.take().unwrap();
            assert_eq!(chain.buffers[0].0, u64::from(n));
            device.complete(chain.head, n);
            assert_eq!(queue.pop().unwrap().unwrap().len, n);
        }
    }

    #[test]
    fn full_queue_refuses_and_works_again_after_a_pop() {
        let rings = rings(2);
        let mut device = MockDevice::new(&rings);
        let mut queue = DriverQueue::new(rings, false);
        queue.add(&[read(1, 1), read(2, 1)]).unwrap();
        assert!(matches!(queue.add(&[read(3, 1)]), Err(QueueError::Full(2))));
        let head = device.take().unwrap().head;
        device.complete(head, 0);
        queue.pop().unwrap().unwrap();
        queue.add(&[read(3, 1)]).unwrap();
    }

    #[test]
    fn wrong_used_entries_are_errors() {
        let rings = rings(4);
        let mut device = MockDevice::new(&rings);
        let mut queue = DriverQueue::new(rings, false);
        let (head, _) = queue.add(&[read(1, 1)]).unwrap();
        device.complete(99, 0);
        assert!(matches!(queue.pop(), Err(QueueError::UnknownHead(99))));
        device.complete(head ^ 1, 0);
        for _ in 0..4 {
            device.complete(head, 0);
        }
        assert!(matches!(queue.pop(), Err(QueueError::TooMany(6))));
    }

    #[test]
    fn event_index_suppresses_kicks_until_it_is_reached() {
        let rings = rings(8);
        let device = MockDevice::new(&rings);
        let mut queue = DriverQueue::new(rings, true);
        device.set_avail_event(1);
        assert!(!queue.add(&[read(1, 1)]).unwrap().1, "entry 0 is before the event");
        assert!(queue.add(&[read(2, 1)]).unwrap().1, "entry 1 is the event");
        assert!(!queue.add(&[read(3, 1)]).unwrap().1, "entry 2 is after the event");
    }

    #[test]
    fn signals_are_asked_for_at_the_next_entry_only() {
        let rings = rings(8);
        let device = MockDevice::new(&rings);
        let queue = DriverQueue::new(rings, true);
        queue.enable_signal();
        assert_eq!(device.used_event(), 0);
        queue.disable_signal();
        assert_eq!(device.used_event(), u16::MAX);
    }
}
