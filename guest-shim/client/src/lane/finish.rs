//! Waiting for messages to be finished: polling, then sleeping until an interrupt.

use super::{Lane, LaneError, Place};
use crate::connection::Connection;
use crate::page::NO_NOTIFICATION;
use crate::wait::{FAR, Spin};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};
use vgpu_spec::wire::lane::{ReplyHeader, state};

/// How often a sleeping thread looks whether its worker is lost.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Sleep without interrupts: from, to.
const NAP: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// An entry that an interrupt was asked for may lie so far behind the device: ahead of it, it is further away than a queue is long.
const FAR_BEHIND: u16 = 1 << 15;
/// Looks at a reply between two looks at the used ring.
const RING_LOOKS: u32 = 64;

impl Lane {
    /// Asks for no interrupt. The line is not written at each reply: the worker reads it then.
    pub(super) fn disarm(&self) {
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
    pub(super) fn arm(&self, target: u64) {
        if self.event_idx {
            self.page.used_event().store(self.ring_index(target).wrapping_sub(1), Ordering::Relaxed);
        } else {
            self.page.avail_flags().store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// The messages before number `target` that the device has not finished, as the used ring says now.
    #[inline]
    pub(super) fn left(&self, target: u64) -> u64 {
        target.saturating_sub(self.retired).saturating_sub(u64::from(self.fresh()))
    }

    #[inline]
    pub(super) fn finished(&self, target: u64) -> bool {
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
    pub(super) fn conclude(&mut self, target: u64, polled: bool, mut spin: Spin) -> Result<(), LaneError> {
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
    pub(super) fn written(&self, place: Place) -> &AtomicU32 {
        self.page.command_word(place.reply_at + offset_of!(ReplyHeader, written) as u64)
    }

    /// Waits for the reply of the message before number `target`, the lane's last; the bytes that were written there at most.
    ///
    /// The reply itself says when it is complete: that saves the ring's cache line, which would come before it. The used ring decides
    /// where a worker gives the chain back without a reply, and for a thread that sleeps.
    pub(super) fn wait_reply(&mut self, target: u64, place: Place) -> Result<usize, LaneError> {
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
    pub(super) fn sleep(&self, target: u64) -> Result<(), LaneError> {
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

    pub(super) fn agent_gone(&self) -> bool {
        let Some(agent) = &self.agent else { return false };
        let mut watched = [PollFd::from_borrowed_fd(agent.watch(), PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut watched, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// Sleeps until an interrupt, for a slice of time at most. `true`: the agent has ended.
    pub(super) fn await_interrupt(&self) -> bool {
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
}
