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
    launch: bool,
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
        let (header, rest) = bytes.split_at_mut(size_of::<MessageHeader>());
        let (list, args) = rest.split_at_mut(size_of_val(dependencies));
        list.copy_from_slice(dependencies.as_bytes());
        let args = Writer::new(args);
        MessageWriter {
            lane,
            place,
            header,
            function,
            meta,
            dependencies: dependencies.len(),
            launch: false,
            args,
        }
    }

    /// The message is a launch: it touches nothing but its stream.
    #[inline]
    pub(crate) fn launch(mut self) -> Self {
        self.launch = true;
        self
    }

    /// Sends a message that nobody waits for.
    ///
    /// # Errors
    /// [`LaneError::Encoding`] if the arguments did not fit: nothing was sent. [`LaneError::Lost`].
    #[inline]
    pub fn submit(self) -> Result<(), LaneError> {
        let launch = self.launch;
        let lane = self.publish()?;
        lane.stats.async_calls.add(1);
        lane.order.set_returned(lane.issued, launch);
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
        lane.stats.round_trips.add(1);
        let target = lane.issued;
        let outcome =
            if place.reply == 0 { lane.wait(target).map(|()| 0) } else { lane.wait_reply(target, place) };
        lane.order.set_returned(target, false);
        let written = outcome?;
        if place.reply == 0 {
            return if lane.lost() {
                Err(LaneError::Lost)
            } else {
                Ok(Reply { status: 0, flags: 0, body: &[] })
            };
        }
        // SAFETY: the reply's space: finished, so the device writes no more; not reused while the reply borrows the lane.
        let bytes = unsafe { lane.page.commands(place.reply_at, place.reply as usize) };
        Reply::parse(bytes, written).ok_or(LaneError::Lost)
    }

    #[inline]
    fn publish(self) -> Result<&'a mut Lane, LaneError> {
        let fixed = self.header.len() + self.dependencies * size_of::<Dependency>();
        // At most MAX_MESSAGE, and at most MAX_DEPENDENCIES: checked by begin.
        let len = (fixed + self.args.finish()?) as u32;
        let header = MessageHeader {
            function: self.function,
            len,
            thread: self.meta.thread,
            context: self.meta.context,
            dependencies: self.dependencies as u16,
            flags: 0,
            number: 0,
        };
        // But the number, which the lane writes last.
        let (words, _) = self.header.split_at_mut(offset_of!(MessageHeader, number));
        words.copy_from_slice(&header.as_bytes()[..words.len()]);
        self.lane.publish(self.place, len)?;
        Ok(self.lane)
    }
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
    fn parse(bytes: &'a [u8], written: usize) -> Option<Self> {
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
