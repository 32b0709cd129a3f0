//! Publishing a message, and kicking the device where it asked for that.

use super::{Lane, LaneError, Place, Record, padded};
use crate::page::{Descriptor, NEXT, NO_NOTIFICATION, WRITE};
use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};
use vgpu_spec::wire::lane::{EXPRESS_LEN, LINE, MessageHeader, ReplyHeader};

/// Messages between two looks at the used ring while there is space.
const REAP_EVERY: u64 = 64;
/// A number that is so many messages old is taken away: it comes up again after 2³².
const OLD: u64 = 1 << 30;

impl Lane {
    /// Publishes a filled message of `len` bytes.
    #[inline]
    pub(super) fn publish(&mut self, place: Place, len: u32) -> Result<(), LaneError> {
        let commands = self.page.layout().commands;
        let first = self.next_descriptor;
        let addr = commands + place.message_at;
        let mut descriptors = 1;
        let mut flags = 0;
        if place.reply != 0 {
            if place.start.is_some() {
                // Something else may have been there. At the express reply's place there is an older number.
                self.written(place).store(0, Ordering::Relaxed);
            }
            let descriptor = Descriptor {
                addr: commands + place.reply_at,
                len: place.reply as u32,
                flags: WRITE,
                next: 0,
            };
            self.page.write_descriptor(first.wrapping_add(1), descriptor);
            descriptors = 2;
            flags = NEXT;
        }
        let next = self.page.descriptor_number(first.wrapping_add(1));
        self.page.write_descriptor(first, Descriptor { addr, len, flags, next });
        if let Some(start) = place.start {
            // Space that was asked for and not used is given back.
            self.head = start + padded(u64::from(len));
            if place.message_at == EXPRESS_LEN {
                self.first = self.issued + 1;
            }
        } else {
            self.express = self.issued + 1;
        }
        let record = self.record(self.issued);
        self.records[record] = Record { end: self.head, descriptors };
        self.next_descriptor = first.wrapping_add(descriptors);
        self.free_descriptors -= descriptors;

        // A worker that looks for an express message itself need not wait for the index.
        let number = self.page.command_word(place.message_at + offset_of!(MessageHeader, number) as u64);
        number.store((self.issued + 1) as u32, Ordering::Release);
        let index = self.ring_index(self.issued);
        self.page.avail_entry(index).store(self.page.descriptor_number(first), Ordering::Relaxed);
        self.page.avail_idx().store(index.wrapping_add(1), Ordering::Release);
        self.issued += 1;
        if self.kick_wanted(index) {
            self.kick();
        }
        if self.issued.is_multiple_of(REAP_EVERY) {
            self.forget_numbers();
            self.reap()
        } else {
            Ok(())
        }
    }

    /// Takes numbers away that would come up again, long before they do.
    pub(super) fn forget_numbers(&mut self) {
        let issued = self.issued;
        let number = offset_of!(MessageHeader, number) as u64;
        let written = offset_of!(ReplyHeader, written) as u64;
        if self.express != 0 && issued - self.express >= OLD {
            self.express = 0;
            self.page.command_word(LINE + number).store(0, Ordering::Relaxed);
            self.page.command_word(written).store(0, Ordering::Relaxed);
        }
        if self.first != 0 && issued - self.first >= OLD {
            self.first = 0;
            self.page.command_word(EXPRESS_LEN + number).store(0, Ordering::Relaxed);
        }
    }

    /// Whether the device asked to hear of the entry `index`, just published.
    #[inline]
    pub(super) fn kick_wanted(&self, index: u16) -> bool {
        // The device arms itself, then looks at the index: one of the two sees the other (virtio 1.2, 2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            self.page.avail_event().load(Ordering::Relaxed) == index
        } else {
            self.page.used_flags().load(Ordering::Relaxed) & NO_NOTIFICATION == 0
        }
    }

    #[cold]
    pub(super) fn kick(&self) {
        self.stats.kicks.add(1);
        // EAGAIN: the counter is full, so the device has a kick coming anyway.
        let sent = rustix::io::retry_on_intr(|| rustix::io::write(&self.kick, &1_u64.to_ne_bytes()));
        if let Err(error) = sent
            && error != rustix::io::Errno::AGAIN
        {
            crate::error!("lane {}: waking the worker: {error}", self.queue);
        }
    }
}
