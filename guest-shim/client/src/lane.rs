//! One lane: the driver side of a split virtqueue, and the messages on it.
//!
//! In-order use: descriptors are taken circularly and the command area is a circular buffer of messages aligned to cache
//! lines, freed in order as the used index advances. A message is reserved ([`Lane::begin`]), filled ([`MessageWriter`]) and
//! published; until then nothing has happened. No allocation, lock or system call on that path, but for a kick that the device
//! asked for and the sleep of a lane that is full.

mod finish;
mod message;
mod publish;
mod space;

pub use message::{MessageMeta, MessageWriter, Reply};

use crate::connection::{Connection, ConnectionError, LaneGrant};
use crate::order::Order;
use crate::page::Page;
use crate::stats::LaneStats;
use crate::wait::Spin;
use rustix::fd::OwnedFd;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thiserror::Error;
use vgpu_spec::wire::args::{ArgsError, Writer};
use vgpu_spec::wire::lane::{
    Dependency, LINE, Layout, MAX_DEPENDENCIES, MAX_MESSAGE, MessageHeader, ReplyHeader, state,
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

    /// As [`crate::lanes::ThreadLane::own_errors`].
    pub(crate) fn own_errors(&mut self, begins: bool) {
        self.order.own_errors(begins);
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
