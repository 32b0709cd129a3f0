//! A message being written, and the reply to one.

use super::{Lane, LaneError, Place};
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use vgpu_spec::wire::args::{Reader, Writer};
use vgpu_spec::wire::lane::{Dependency, MessageHeader, ReplyHeader};
use zerocopy::{FromBytes, IntoBytes};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageMeta {
    /// The guest thread, as a number of the client's own.
    pub thread: u32,
    /// Index of the handle of the context that is current to the thread, or 0.
    pub context: u32,
}

/// A message that is being written: a [`Writer`] of its arguments. Dropped, it was never sent.
#[derive(Debug)]
pub struct MessageWriter<'a> {
    lane: &'a mut Lane,
    place: Place,
    header: &'a mut [u8],
    function: u32,
    meta: MessageMeta,
    dependencies: usize,
    args: Writer<'a>,
}

impl<'a> MessageWriter<'a> {
    /// `bytes`: the message's space, at least header and dependencies long.
    #[inline]
    pub(super) fn new(
        lane: &'a mut Lane,
        place: Place,
        bytes: &'a mut [u8],
        function: u32,
        meta: MessageMeta,
        dependencies: &[Dependency],
    ) -> Self {
        let (header, args) = split(bytes, dependencies);
        let args = Writer::new(args);
        MessageWriter { lane, place, header, function, meta, dependencies: dependencies.len(), args }
    }

    /// Sends a message that nobody waits for.
    ///
    /// # Errors
    /// [`LaneError::Encoding`] if the arguments did not fit: nothing was sent. [`LaneError::Lost`].
    #[inline]
    pub fn submit(self) -> Result<(), LaneError> {
        let lane = self.publish()?;
        lane.posted(false);
        Ok(())
    }

    /// Sends the message and waits for its reply. It must have been begun with a reply length; without one this only waits
    /// until the worker has finished it, and the reply is status 0 without a body.
    ///
    /// # Errors
    /// As [`MessageWriter::submit`].
    pub fn submit_and_wait(self) -> Result<Reply<'a>, LaneError> {
        let place = self.place;
        let lane = self.publish()?;
        if place.reply != 0 {
            return lane.receive(place);
        }
        lane.stats.round_trips.add(1);
        let target = lane.issued;
        let outcome = lane.wait(target);
        lane.order.set_returned(target, false);
        outcome?;
        if lane.lost() { Err(LaneError::Lost) } else { Ok(Reply { status: 0, flags: 0, body: &[] }) }
    }

    #[inline]
    fn publish(self) -> Result<&'a mut Lane, LaneError> {
        let len = head(self.header, self.function, self.meta, self.dependencies, self.args.finish()?);
        self.lane.publish(self.place, len)?;
        Ok(self.lane)
    }
}

/// The space of a message's header, and that of its arguments, behind the dependencies.
#[inline]
fn split<'a>(bytes: &'a mut [u8], dependencies: &[Dependency]) -> (&'a mut [u8], &'a mut [u8]) {
    let (header, rest) = bytes.split_at_mut(size_of::<MessageHeader>());
    if dependencies.is_empty() {
        return (header, rest);
    }
    let (list, args) = rest.split_at_mut(size_of_val(dependencies));
    list.copy_from_slice(dependencies.as_bytes());
    (header, args)
}

/// Writes the header of a message with `args` bytes of arguments, but for the number, which the lane writes last. The message's length.
#[inline]
fn head(header: &mut [u8], function: u32, meta: MessageMeta, dependencies: usize, args: usize) -> u32 {
    // At most MAX_MESSAGE, and at most MAX_DEPENDENCIES: checked when it was begun.
    let len = (size_of::<MessageHeader>() + dependencies * size_of::<Dependency>() + args) as u32;
    let MessageMeta { thread, context } = meta;
    let dependencies = dependencies as u16;
    let filled = MessageHeader { function, len, thread, context, dependencies, flags: 0, number: 0 };
    const WORDS: usize = offset_of!(MessageHeader, number);
    header[..WORDS].copy_from_slice(&filled.as_bytes()[..WORDS]);
    len
}

/// Writes a message into `bytes`, but for its number; its length.
#[inline]
pub(super) fn fill(
    bytes: &mut [u8],
    function: u32,
    meta: MessageMeta,
    dependencies: &[Dependency],
    write: impl FnOnce(&mut Writer<'_>),
) -> Result<u32, LaneError> {
    let (header, args) = split(bytes, dependencies);
    let mut args = Writer::new(args);
    write(&mut args);
    Ok(head(header, function, meta, dependencies.len(), args.finish()?))
}

impl<'a> Deref for MessageWriter<'a> {
    type Target = Writer<'a>;

    fn deref(&self) -> &Writer<'a> {
        &self.args
    }
}

impl<'a> DerefMut for MessageWriter<'a> {
    fn deref_mut(&mut self) -> &mut Writer<'a> {
        &mut self.args
    }
}

/// A reply, where the worker wrote it: valid until the next message on the lane.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// CUresult.
    pub status: u32,
    /// `wire::lane::reply_flags`.
    pub flags: u32,
    /// Results; read each byte once.
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// `None` if the worker wrote (`written` bytes) less than it says, or nothing: then it is gone.
    pub(super) fn parse(bytes: &'a [u8], written: usize) -> Option<Self> {
        let written = bytes.get(..written)?;
        let (header, body) = ReplyHeader::read_from_prefix(written).ok()?;
        let len = (header.len as usize).checked_sub(size_of::<ReplyHeader>())?;
        Some(Reply { status: header.status, flags: header.flags, body: body.get(..len)? })
    }

    /// A reader of the body.
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.body)
    }
}
