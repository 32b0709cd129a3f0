//! Waiting for a queue's completion, with or without signals.

use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// How long to look at a queue without giving up the CPU: most control requests are answered later anyway.
const SPIN: Duration = Duration::from_micros(20);
/// The longest sleep between two looks when the carrier has no signals.
const LONGEST_NAP: Duration = Duration::from_millis(5);

/// The descriptor of an eventfd, borrowed for as long as the eventfd.
pub fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd keeps its descriptor open for as long as the borrow lasts.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// Takes what was signalled. Not being signalled is no error.
pub fn drain(fd: &EventFd) {
    // The descriptor is non-blocking, so this fails with EAGAIN when nothing is there.
    let _ = fd.read();
}

/// Waits until `fd` is readable or `limit` is over; `None` waits for ever. An interrupted wait counts as over.
pub fn readable(fd: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(&mut fds, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sleeps between looks at a queue: first spinning, then by signal or with naps of growing length.
#[derive(Debug)]
pub struct Waiter<'a> {
    completion: &'a EventFd,
    polling: bool,
    start: Instant,
    nap: Duration,
}

impl<'a> Waiter<'a> {
    pub fn new(completion: &'a EventFd, polling: bool) -> Self {
        Self { completion, polling, start: Instant::now(), nap: Duration::from_micros(20) }
    }

    /// Whether the time for spinning is not over yet.
    pub fn spins(&self) -> bool {
        self.start.elapsed() < SPIN
    }

    /// Sleeps once, for at most `limit`.
    pub fn sleep(&mut self, limit: Duration) -> io::Result<()> {
        if self.polling {
            // The eventfd is signalled by this process when the device is lost.
            readable(borrow(self.completion), Some(self.nap.min(limit)))?;
            self.nap = (self.nap * 2).min(LONGEST_NAP);
        } else {
            readable(borrow(self.completion), Some(limit))?;
        }
        drain(self.completion);
        Ok(())
    }
}
