//! One lane: the driver side of a split virtqueue, and the messages on it.
//!
//! In-order use: descriptors are taken circularly and the command area is a circular buffer of messages aligned to cache
//! lines, freed in order as the used index advances. A message is reserved ([`Lane::begin`]), filled ([`MessageWriter`]) and
//! published; until then nothing has happened. No allocation, lock or system call on that path, but for a kick that the device
//! asked for and the sleep of a lane that is full.

mod message;

pub use message::{MessageMeta, MessageWriter, Reply};

use crate::connection::{Connection, ConnectionError, LaneGrant};
use crate::order::Order;
use crate::page::{Descriptor, NEXT, NO_NOTIFICATION, Page, WRITE};
use crate::stats::LaneStats;
use crate::wait::{FAR, Spin};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use std::io;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};
use thiserror::Error;
use vgpu_spec::wire::args::{ArgsError, Writer};
use vgpu_spec::wire::lane::{
    Dependency, EXPRESS_LEN, LINE, Layout, MAX_DEPENDENCIES, MAX_MESSAGE, MessageHeader, ReplyHeader, state,
};

/// What can go wrong with a message.
#[derive(Debug, Error)]
pub enum LaneError {
    #[error("calling the GPU: the worker that served this process is gone")]
    Lost,
    #[error("calling the GPU: this process was forked from one that uses the GPU")]
    Forked,
    #[error("sending a message: {len} bytes, at most {MAX_MESSAGE} are possible")]
    TooLarge { len: usize },
    #[error("sending a message: {count} dependencies, at most {MAX_DEPENDENCIES} are possible")]
    TooManyDependencies { count: usize },
    #[error("sending a message: its arguments do not fit in the space that was asked for")]
    Encoding(#[from] ArgsError),
    #[error("calling the GPU: a call was made from within another one of the same thread")]
    Busy,
    #[error("setting up a lane: a queue of {size} entries cannot be used")]
    Geometry { size: u16 },
    #[error("setting up a lane: mapping its page")]
    Map(#[source] io::Error),
    // In a box: every call has this type's size to move.
    #[error("setting up a lane")]
    Agent(#[source] Box<ConnectionError>),
}

impl From<ConnectionError> for LaneError {
    fn from(error: ConnectionError) -> Self {
        LaneError::Agent(Box::new(error))
    }
}

/// How often a sleeping thread looks whether its worker is lost.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Sleep without interrupts: from, to.
const NAP: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// An entry that an interrupt was asked for may lie so far behind the device: ahead of it, it is further away than a queue is long.
const FAR_BEHIND: u16 = 1 << 15;
/// Messages between two looks at the used ring while there is space.
const REAP_EVERY: u64 = 64;
/// A number that is so many messages old is taken away: it comes up again after 2³².
const OLD: u64 = 1 << 30;
/// Looks at a reply between two looks at the used ring.
const RING_LOOKS: u32 = 64;

/// What an unfinished message holds.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// Free-running end of its space in the command area.
    end: u64,
    descriptors: u16,
}

/// Space for a message that is not published yet.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Offsets in the command area.
    message_at: u64,
    reply_at: u64,
    /// Free-running start of the message in the circular buffer; `None` for the express message.
    start: Option<u64>,
    /// Bytes of the reply's space, header included; 0 for none.
    reply: u64,
}

/// The driver side of a lane. One thread at a time uses it.
#[derive(Debug)]
pub struct Lane {
    page: Arc<Page>,
    order: Arc<Order>,
    stats: Arc<LaneStats>,
    kick: OwnedFd,
    completion: OwnedFd,
    event_idx: bool,
    polling: bool,
    queue: u16,
    start: u16,
    /// Messages published, and messages known to be finished.
    issued: u64,
    retired: u64,
    /// By message number modulo the queue's size.
    records: Box<[Record]>,
    /// Free-running positions in the command area: next free byte, first byte in use.
    head: u64,
    tail: u64,
    next_descriptor: u16,
    free_descriptors: u16,
    /// Messages up to and with the latest one at each place that the worker looks at: the express message's, the buffer's start.
    express: u64,
    first: u64,
    /// The agent, whose end is the worker's too.
    agent: Option<Arc<Connection>>,
    spin: Spin,
}

impl Lane {
    /// Maps and takes over a lane that the agent lent.
    pub fn new(grant: LaneGrant) -> Result<Self, LaneError> {
        let reply = grant.reply;
        // A call that waits takes two descriptors.
        let layout = Layout::new(reply.size).filter(|layout| layout.size >= 2);
        let layout = layout.ok_or(LaneError::Geometry { size: reply.size })?;
        let page = Arc::new(Page::map(&grant.page, layout).map_err(LaneError::Map)?);
        let lane = Lane {
            order: Arc::new(Order::new(reply.queue, reply.start, page.clone())),
            stats: Arc::default(),
            kick: grant.kick,
            completion: grant.completion,
            event_idx: reply.event_idx != 0,
            polling: reply.polling != 0,
            queue: reply.queue,
            start: reply.start,
            issued: 0,
            retired: 0,
            records: vec![Record::default(); usize::from(layout.size)].into_boxed_slice(),
            head: 0,
            tail: 0,
            next_descriptor: 0,
            free_descriptors: layout.size,
            express: 0,
            first: 0,
            agent: None,
            spin: Spin::from_environment(),
            page,
        };
        lane.disarm();
        Ok(lane)
    }

    /// Virtqueue number: the lane's name in dependencies.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Messages published since the lane was lent.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Messages that the worker has finished, of those published.
    pub fn retired(&self) -> u64 {
        self.retired + u64::from(self.fresh().min(self.unfinished()))
    }

    /// The lane's counters.
    pub fn stats(&self) -> &Arc<LaneStats> {
        &self.stats
    }

    /// Whether the worker is gone.
    #[inline]
    pub fn lost(&self) -> bool {
        self.page.state().load(Ordering::Relaxed) == state::LOST
    }

    /// The latest error of an asynchronous call on this lane since the last look: CUresult and function id.
    #[inline]
    pub fn take_error(&mut self) -> Option<(u32, u32)> {
        self.order.take_error()
    }

    /// Reserves a message with space for `args_len` bytes of arguments and, for a call that waits, `reply_len` bytes of
    /// results. Blocks while the lane is full.
    #[inline]
    pub fn begin(
        &mut self,
        function: u32,
        meta: MessageMeta,
        dependencies: &[Dependency],
        args_len: usize,
        reply_len: Option<usize>,
    ) -> Result<MessageWriter<'_>, LaneError> {
        let (place, message) = self.open(dependencies.len(), args_len, reply_len)?;
        // SAFETY: `open` found the range free: no unfinished message holds it, and the writer borrows the lane.
        let bytes = unsafe { self.page.commands(place.message_at, message) };
        Ok(MessageWriter::new(self, place, bytes, function, meta, dependencies))
    }

    /// Finds space for a message; its place, and its bytes at most.
    #[inline]
    fn open(
        &mut self,
        dependencies: usize,
        args_len: usize,
        reply_len: Option<usize>,
    ) -> Result<(Place, usize), LaneError> {
        if crate::fork::forked() {
            return Err(LaneError::Forked);
        }
        if self.lost() {
            return Err(LaneError::Lost);
        }
        if dependencies > MAX_DEPENDENCIES {
            return Err(LaneError::TooManyDependencies { count: dependencies });
        }
        let fixed = size_of::<MessageHeader>() + dependencies * size_of::<Dependency>();
        let message = checked_len(fixed, args_len)?;
        let reply = match reply_len {
            Some(len) => checked_len(size_of::<ReplyHeader>(), len)?,
            None => 0,
        };
        Ok((self.reserve(message as u64, reply as u64)?, message))
    }

    /// Sends a message that nobody waits for, with space for `args_len` bytes of arguments, which `write` writes; a `launch` touches
    /// nothing but its stream. In one step, where nothing is moved: most calls are this.
    ///
    /// # Errors
    /// As [`Lane::begin`] and [`MessageWriter::submit`].
    #[inline]
    pub fn post(
        &mut self,
        function: u32,
        meta: MessageMeta,
        dependencies: &[Dependency],
        args_len: usize,
        launch: bool,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), LaneError> {
        self.compose(function, meta, dependencies, args_len, None, write)?;
        self.posted(launch);
        Ok(())
    }

    /// The call whose message was published last returns.
    #[inline]
    fn posted(&mut self, launch: bool) {
        self.stats.async_calls.add(1);
        self.order.set_returned(self.issued, launch);
    }

    /// Writes a message where it is to be, and publishes it.
    #[inline]
    fn compose(
        &mut self,
        function: u32,
        meta: MessageMeta,
        dependencies: &[Dependency],
        args_len: usize,
        reply_len: Option<usize>,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Place, LaneError> {
        let (place, room) = self.open(dependencies.len(), args_len, reply_len)?;
        // SAFETY: as in `begin`, until it is published.
        let bytes = unsafe { self.page.commands(place.message_at, room) };
        let len = message::fill(bytes, function, meta, dependencies, write)?;
        self.publish(place, len)?;
        Ok(place)
    }

    /// Sends a message and waits for its reply, of `reply_len` bytes at most.
    ///
    /// # Errors
    /// As [`Lane::begin`] and [`MessageWriter::submit`].
    #[inline]
    pub fn exchange(
        &mut self,
        function: u32,
        meta: MessageMeta,
        dependencies: &[Dependency],
        args_len: usize,
        reply_len: usize,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Reply<'_>, LaneError> {
        let place = self.compose(function, meta, dependencies, args_len, Some(reply_len), write)?;
        self.receive(place)
    }

    /// Waits for the reply of the message that was published last, at `place`.
    #[inline]
    fn receive(&mut self, place: Place) -> Result<Reply<'_>, LaneError> {
        self.stats.round_trips.add(1);
        let target = self.issued;
        let outcome = self.wait_reply(target, place);
        self.order.set_returned(target, false);
        let written = outcome?;
        // SAFETY: the reply's space: finished, so the device writes no more; not reused while the reply borrows the lane.
        let bytes = unsafe { self.page.commands(place.reply_at, place.reply as usize) };
        Reply::parse(bytes, written).ok_or(LaneError::Lost)
    }

    /// Bytes of the circular buffer.
    fn buffer_len(&self) -> u64 {
        self.page.layout().commands_len() - EXPRESS_LEN
    }

    /// Byte offset in the command area of a free-running position of the circular buffer.
    fn offset(&self, position: u64) -> u64 {
        EXPRESS_LEN + position % self.buffer_len()
    }

    #[inline]
    fn reserve(&mut self, message: u64, reply: u64) -> Result<Place, LaneError> {
        let descriptors = if reply == 0 { 1 } else { 2 };
        let len = padded(message) + padded(reply);
        match self.express(message, reply).or_else(|| self.place(descriptors, len, reply)) {
            Some(place) => Ok(place),
            None => self.await_place(descriptors, len, reply),
        }
    }

    #[cold]
    fn await_place(&mut self, descriptors: u16, len: u64, reply: u64) -> Result<Place, LaneError> {
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
    fn place(&self, descriptors: u16, len: u64, reply: u64) -> Option<Place> {
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
    fn express(&self, message: u64, reply: u64) -> Option<Place> {
        let fits = reply != 0 && reply <= LINE && message <= EXPRESS_LEN - LINE;
        let free = self.express <= self.retired && self.free_descriptors >= 2;
        (fits && free).then_some(Place { message_at: LINE, reply_at: 0, start: None, reply })
    }

    /// Waits for much more space than one message needs: once full, three quarters of the descriptors and half of the bytes
    /// must come free, so that a loop of launches sleeps and is woken rarely.
    #[cold]
    fn wait_for_space(&mut self, descriptors: u16) -> Result<(), LaneError> {
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

    fn record(&self, message: u64) -> usize {
        message as usize & (self.records.len() - 1)
    }

    fn unfinished(&self) -> u16 {
        (self.issued - self.retired) as u16
    }

    /// Entries that the device has used beyond those known to be finished. It may be behind: a reply comes before its entry.
    fn fresh(&self) -> u16 {
        let ahead = self.page.used_idx().load(Ordering::Acquire).wrapping_sub(self.ring_index(self.retired));
        if ahead.cast_signed() < 0 { 0 } else { ahead }
    }

    /// Ring index of a message number.
    fn ring_index(&self, message: u64) -> u16 {
        self.start.wrapping_add(message as u16)
    }

    /// Frees what the device has finished with.
    fn reap(&mut self) -> Result<(), LaneError> {
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
    fn retire(&mut self, target: u64) {
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

    /// Publishes a filled message of `len` bytes.
    #[inline]
    fn publish(&mut self, place: Place, len: u32) -> Result<(), LaneError> {
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
    fn forget_numbers(&mut self) {
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
    fn kick_wanted(&self, index: u16) -> bool {
        // The device arms itself, then looks at the index: one of the two sees the other (virtio 1.2, 2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            self.page.avail_event().load(Ordering::Relaxed) == index
        } else {
            self.page.used_flags().load(Ordering::Relaxed) & NO_NOTIFICATION == 0
        }
    }

    #[cold]
    fn kick(&self) {
        self.stats.kicks.add(1);
        // EAGAIN: the counter is full, so the device has a kick coming anyway.
        let sent = rustix::io::retry_on_intr(|| rustix::io::write(&self.kick, &1_u64.to_ne_bytes()));
        if let Err(error) = sent
            && error != rustix::io::Errno::AGAIN
        {
            crate::error!("lane {}: waking the worker: {error}", self.queue);
        }
    }

    /// Asks for no interrupt. The line is not written at each reply: the worker reads it then.
    fn disarm(&self) {
        if self.event_idx {
            // Behind the device, also where replies are ahead of the used ring: what is asked for comes only once the index has gone all the
            // way round.
            let event = self.page.used_event();
            let behind = self.ring_index(self.retired).wrapping_sub(1 + self.page.layout().size);
            if behind.wrapping_sub(event.load(Ordering::Relaxed)) > FAR_BEHIND {
                event.store(behind, Ordering::Relaxed);
            }
        } else if self.page.avail_flags().load(Ordering::Relaxed) != NO_NOTIFICATION {
            self.page.avail_flags().store(NO_NOTIFICATION, Ordering::Relaxed);
        }
    }

    /// Asks for an interrupt when the message before number `target` is finished.
    fn arm(&self, target: u64) {
        if self.event_idx {
            self.page.used_event().store(self.ring_index(target).wrapping_sub(1), Ordering::Relaxed);
        } else {
            self.page.avail_flags().store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// The messages before number `target` that the device has not finished, as the used ring says now.
    #[inline]
    fn left(&self, target: u64) -> u64 {
        target.saturating_sub(self.retired).saturating_sub(u64::from(self.fresh()))
    }

    #[inline]
    fn finished(&self, target: u64) -> bool {
        self.left(target) == 0
    }

    /// Has a sleeping thread notice when the agent ends: then the worker goes too, and nobody may be left to mark the lane.
    pub fn watch(&mut self, agent: Arc<Connection>) {
        self.agent = Some(agent);
    }

    /// Waits until the messages before number `target` are finished, and frees them.
    pub fn wait(&mut self, target: u64) -> Result<(), LaneError> {
        let mut spin = self.spin;
        let polled = spin.until(|| if self.lost() { 0 } else { self.left(target) });
        self.conclude(target, polled, spin)
    }

    /// What comes after a thread has polled, with success or without.
    fn conclude(&mut self, target: u64, polled: bool, mut spin: Spin) -> Result<(), LaneError> {
        let outcome = if polled && self.finished(target) {
            Ok(())
        } else {
            let start = Instant::now();
            let outcome = self.sleep(target);
            spin.learn(start.elapsed());
            outcome
        };
        self.spin = spin;
        outcome?;
        self.reap()?;
        // The broker completes what a lost worker left, after it has marked the lane: such entries were never executed.
        if self.lost() { Err(LaneError::Lost) } else { Ok(()) }
    }

    /// Where the worker says that the reply of a message is complete, by the message's number.
    fn written(&self, place: Place) -> &AtomicU32 {
        self.page.command_word(place.reply_at + offset_of!(ReplyHeader, written) as u64)
    }

    /// Waits for the reply of the message before number `target`, the lane's last; the bytes that were written there at most.
    ///
    /// The reply itself says when it is complete: that saves the ring's cache line, which would come before it. The used ring decides
    /// where a worker gives the chain back without a reply, and for a thread that sleeps.
    fn wait_reply(&mut self, target: u64, place: Place) -> Result<usize, LaneError> {
        let mut spin = self.spin;
        // Not at first: the worker is about to write the index, behind the reply, and this would take its line away.
        let (mut looks, mut left) = (1_u32, 1);
        let written = || self.written(place).load(Ordering::Acquire) == target as u32;
        let polled = spin.until(|| {
            if written() {
                return 0;
            }
            if left >= FAR || looks.is_multiple_of(RING_LOOKS) {
                left = if self.lost() { 0 } else { self.left(target) };
            }
            looks = looks.wrapping_add(1);
            left
        });
        if written() {
            self.retire(target);
            return Ok(place.reply as usize);
        }
        self.conclude(target, polled, spin)?;
        Ok(self.page.used_len(self.ring_index(target - 1)).load(Ordering::Relaxed) as usize)
    }

    #[cold]
    fn sleep(&self, target: u64) -> Result<(), LaneError> {
        let mut nap = NAP.0;
        let mut gone = false;
        loop {
            // State before ring: the broker marks a lost lane before it completes the entries, so a finished entry is looked at once
            // more by the caller.
            let lost = self.page.state().load(Ordering::Acquire) == state::LOST || gone;
            if self.polling {
                if self.finished(target) {
                    return Ok(());
                }
            } else {
                self.arm(target);
                if self.finished(target) {
                    return Ok(());
                }
            }
            if lost {
                return Err(LaneError::Lost);
            }
            if self.polling {
                std::thread::sleep(nap);
                nap = (nap * 2).min(NAP.1);
                gone = self.agent_gone();
            } else {
                gone = self.await_interrupt();
            }
        }
    }

    fn agent_gone(&self) -> bool {
        let Some(agent) = &self.agent else { return false };
        let mut watched = [PollFd::from_borrowed_fd(agent.watch(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut watched, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// Sleeps until an interrupt, for a slice of time at most. `true`: the agent has ended.
    fn await_interrupt(&self) -> bool {
        let completion = PollFd::new(&self.completion, PollFlags::IN);
        // Without an agent to watch, the second place repeats the first.
        let agent = match &self.agent {
            Some(agent) => PollFd::from_borrowed_fd(agent.watch(), PollFlags::empty()),
            None => completion.clone(),
        };
        let mut wanted = [completion, agent];
        match rustix::event::poll(&mut wanted, Some(&SLICE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return false,
            Ok(_) => {}
            Err(error) => {
                crate::error!("lane {}: waiting for an interrupt: {error}", self.queue);
                std::thread::sleep(NAP.1);
                return false;
            }
        }
        if wanted[0].revents().contains(PollFlags::IN) {
            let mut count = [0; 8];
            if rustix::io::retry_on_intr(|| rustix::io::read(&self.completion, &mut count)).is_ok() {
                self.stats.interrupts.add(1);
            }
        }
        self.agent.is_some() && wanted[1].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    pub(crate) fn order(&self) -> &Arc<Order> {
        &self.order
    }
}

/// `fixed + len`, if a message or reply may be so long.
fn checked_len(fixed: usize, len: usize) -> Result<usize, LaneError> {
    let total = fixed.saturating_add(len);
    if total > MAX_MESSAGE { Err(LaneError::TooLarge { len: total }) } else { Ok(total) }
}

/// `len`, rounded up to cache lines.
fn padded(len: u64) -> u64 {
    len.next_multiple_of(LINE)
}
