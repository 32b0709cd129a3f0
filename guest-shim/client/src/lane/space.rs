//! Space in the command area, and descriptors: taken circularly, freed in order as the used index advances.

use super::{Lane, LaneError, Place, padded};
use std::sync::atomic::Ordering;
use vgpu_spec::wire::lane::{EXPRESS_LEN, LINE};

impl Lane {
    /// Bytes of the circular buffer.
    pub(super) fn buffer_len(&self) -> u64 {
        self.page.layout().commands_len() - EXPRESS_LEN
    }

    /// Byte offset in the command area of a free-running position of the circular buffer.
    pub(super) fn offset(&self, position: u64) -> u64 {
        EXPRESS_LEN + position % self.buffer_len()
    }

    #[inline]
    pub(super) fn reserve(&mut self, message: u64, reply: u64) -> Result<Place, LaneError> {
        let descriptors = if reply == 0 { 1 } else { 2 };
        let len = padded(message) + padded(reply);
        match self.express(message, reply).or_else(|| self.place(descriptors, len, reply)) {
            Some(place) => Ok(place),
            None => self.await_place(descriptors, len, reply),
        }
    }

    #[cold]
    pub(super) fn await_place(&mut self, descriptors: u16, len: u64, reply: u64) -> Result<Place, LaneError> {
        loop {
            self.reap()?;
            if let Some(place) = self.place(descriptors, len, reply) {
                return Ok(place);
            }
            self.wait_for_space(descriptors)?;
            if self.lost() {
                return Err(LaneError::Lost);
            }
        }
    }

    /// Contiguous space of `len` bytes if there is any now.
    #[inline]
    pub(super) fn place(&self, descriptors: u16, len: u64, reply: u64) -> Option<Place> {
        let area = self.buffer_len();
        let to_end = area - self.head % area;
        let mut start = if len > to_end { self.head + to_end } else { self.head };
        if reply != 0 && start.is_multiple_of(area) {
            // What a worker looks for at the start are messages' headers.
            start += LINE;
        }
        let message = start + padded(reply);
        (self.free_descriptors >= descriptors && start + len - self.tail <= area).then(|| Place {
            message_at: self.offset(message),
            reply_at: self.offset(start),
            start: Some(message),
            reply,
        })
    }

    /// The express message's space, if a message and its reply fit there and no other has it.
    #[inline]
    pub(super) fn express(&self, message: u64, reply: u64) -> Option<Place> {
        let fits = reply != 0 && reply <= LINE && message <= EXPRESS_LEN - LINE;
        let free = self.express <= self.retired && self.free_descriptors >= 2;
        (fits && free).then_some(Place { message_at: LINE, reply_at: 0, start: None, reply })
    }

    /// Waits for much more space than one message needs: once full, three quarters of the descriptors and half of the bytes
    /// must come free, so that a loop of launches sleeps and is woken rarely.
    #[cold]
    pub(super) fn wait_for_space(&mut self, descriptors: u16) -> Result<(), LaneError> {
        let wanted = descriptors.max(self.page.layout().size / 4 * 3);
        let bytes = self.buffer_len() / 2;
        let mut free = self.free_descriptors;
        let mut target = self.retired;
        while target < self.issued {
            let record = self.records[self.record(target)];
            free += record.descriptors;
            target += 1;
            if free >= wanted && self.head - record.end <= bytes {
                break;
            }
        }
        self.wait(target)
    }

    pub(super) fn record(&self, message: u64) -> usize {
        message as usize & (self.records.len() - 1)
    }

    pub(super) fn unfinished(&self) -> u16 {
        (self.issued - self.retired) as u16
    }

    /// Entries that the device has used beyond those known to be finished. It may be behind: a reply comes before its entry.
    pub(super) fn fresh(&self) -> u16 {
        let ahead = self.page.used_idx().load(Ordering::Acquire).wrapping_sub(self.ring_index(self.retired));
        if ahead.cast_signed() < 0 { 0 } else { ahead }
    }

    /// Ring index of a message number.
    pub(super) fn ring_index(&self, message: u64) -> u16 {
        self.start.wrapping_add(message as u16)
    }

    /// Frees what the device has finished with.
    pub(super) fn reap(&mut self) -> Result<(), LaneError> {
        let fresh = self.fresh();
        if fresh == 0 {
            return Ok(());
        }
        if fresh > self.unfinished() {
            crate::error!("lane {}: {fresh} entries used, {} unfinished", self.queue, self.unfinished());
            return Err(LaneError::Lost);
        }
        self.retire(self.retired + u64::from(fresh));
        Ok(())
    }

    /// Frees what the messages before number `target` hold.
    pub(super) fn retire(&mut self, target: u64) {
        while self.retired < target {
            let record = self.records[self.record(self.retired)];
            self.tail = record.end;
            self.free_descriptors += record.descriptors;
            self.retired += 1;
        }
        if self.retired == self.issued {
            // Empty: start over, on cache lines that were used last.
            (self.head, self.tail) = (0, 0);
        }
        self.disarm();
    }
}
