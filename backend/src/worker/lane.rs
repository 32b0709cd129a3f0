//! A lane's thread: the twin of one guest thread.

mod idle;
mod together;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vgpu_spec::wire::lane::{MAX_MESSAGE, ReplyHeader};
use zerocopy::IntoBytes;

use super::api;
use super::deps::Waited;
use super::executor::{ClientState, Executor, Message};
use super::message;
use super::ring::{Chain, LaneRing, Popped, ReplyPlace};
use super::tally::Tally;
use crate::log::Limit;
use idle::Idle;

/// CUDA_ERROR_INVALID_VALUE.
const INVALID_VALUE: u32 = 1;
/// How often the ring is looked at while its available index is nonsense.
const BROKEN_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Messages without reply of which the driver is told together while there are more: each time costs a cache line that it looks at.
const BATCH: u16 = 8;
/// The same, with so many more behind them that nobody waits for these.
const LARGE_BATCH: u16 = 32;
const MANY: u16 = 64;
/// Looks at the ring between looks at the clock.
const SPINS: u32 = 64;
/// Looks without a pause instruction: a few microseconds, as long as the next call of a busy thread may take to come.
const EAGER: u32 = 2000;
/// A lane that has polled for so long lets other threads run between looks.
const ALONE: Duration = Duration::from_micros(50);

/// What the program gets of a message that was issued or refused.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// No reply: nobody waits for one, or there was no place for it.
    None,
    /// A reply of so many bytes.
    Reply(u32),
    /// A reply that the device has written.
    Told,
}

/// The eventfds of a ring.
#[derive(Debug)]
pub struct LaneFds {
    pub kick: OwnedFd,
    pub call: Option<OwnedFd>,
}

/// What the control thread and the lane's thread share.
struct Shared {
    stop: AtomicBool,
    /// Ends the thread's sleep.
    wake: OwnedFd,
    fds: Mutex<Arc<LaneFds>>,
}

impl Shared {
    fn fds(&self) -> Arc<LaneFds> {
        Arc::clone(&self.fds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_fds(&self, fds: LaneFds) {
        *self.fds.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fds);
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn notify(&self) {
        if let Some(call) = &self.fds().call {
            let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }
}

/// A lane as the control thread sees it.
pub struct Lane {
    shared: Arc<Shared>,
    rings: Sender<LaneRing>,
    stopped: Receiver<u16>,
    running: bool,
}

impl Lane {
    /// Starts the thread of lane `queue`; it serves `ring` at once.
    pub fn start(
        client: Arc<ClientState>,
        queue: u16,
        ring: LaneRing,
        fds: LaneFds,
        polling: Duration,
    ) -> io::Result<Lane> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            fds: Mutex::new(Arc::new(fds)),
        });
        client.lanes.attach(queue);
        let (rings, inbox) = channel();
        let (outbox, stopped) = channel();
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(format!("lane-{queue}")).spawn(move || {
            let mut server = Server {
                executor: api::new_executor(&client, queue),
                client,
                queue,
                shared: theirs,
                idle: Idle::new(polling),
                errors: 0,
                tally: Tally::default(),
                broken: false,
                complaints: Limit::new(),
                message: Vec::new(),
                body: Vec::new(),
                held: Vec::new(),
                failed: Vec::new(),
            };
            // The executor lives on between rings: it has the guest thread's context stack.
            while let Ok(mut ring) = inbox.recv() {
                server.serve(&mut ring);
                let told = outbox.send(ring.next());
                // Before the page is unmapped; nobody waits for it, as the driver may for the device.
                server.executor.leave_page();
                if told.is_err() {
                    return;
                }
            }
        })?;
        let mut lane = Lane { shared, rings, stopped, running: false };
        lane.serve(ring);
        Ok(lane)
    }

    /// Goes on with another mapping of the ring.
    pub fn resume(&mut self, ring: LaneRing, fds: LaneFds) {
        self.shared.set_fds(fds);
        self.serve(ring);
    }

    fn serve(&mut self, ring: LaneRing) {
        self.shared.stop.store(false, Ordering::Release);
        self.running = self.rings.send(ring).is_ok();
    }

    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Exchanges the eventfds of the running ring.
    pub fn set_fds(&self, fds: LaneFds) {
        self.shared.set_fds(fds);
        self.shared.wake();
        // A completion may have gone to the old eventfd just now.
        self.shared.notify();
    }

    /// Stops serving; the index at which to go on, or `None` if the thread is stuck in a call.
    pub fn stop(&mut self, timeout: Duration) -> Option<u16> {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        let next = self.stopped.recv_timeout(timeout).ok()?;
        self.running = false;
        Some(next)
    }
}

/// The lane's thread.
struct Server {
    executor: Box<dyn Executor>,
    client: Arc<ClientState>,
    queue: u16,
    shared: Arc<Shared>,
    idle: Idle,
    /// Errors of calls without reply so far.
    errors: u32,
    /// What the ledger has not been told yet.
    tally: Tally,
    /// The available index is nonsense, and that was said.
    broken: bool,
    complaints: Limit,
    // Reused from message to message.
    message: Vec<u8>,
    body: Vec<u8>,
    /// Chains whose messages the executor holds; function and CUresult of those that failed.
    held: Vec<Chain>,
    failed: Vec<(u32, u32)>,
}

impl Server {
    /// Serves until stopped.
    fn serve(&mut self, ring: &mut LaneRing) {
        ring.disable_kicks();
        while !self.shared.stop.load(Ordering::Acquire) {
            match ring.pop(&mut self.message) {
                Popped::Chain(chain) => {
                    self.broken = false;
                    if let Some(chain) = self.answer_together(ring, chain) {
                        self.answer(ring, &chain);
                    }
                }
                Popped::Nothing => {
                    self.tell(ring);
                    self.wait(ring);
                }
                Popped::Broken => {
                    self.tell(ring);
                    self.wait_broken(ring);
                }
            }
        }
        self.tell(ring);
        self.executor.rest();
        self.tell_ledger();
    }

    /// Not in the way of a message: while there is nothing to do, or after many.
    fn tell_ledger(&mut self) {
        let executor = &mut self.executor;
        self.tally.tell(&self.client.account, || executor.take_work());
    }

    fn tell(&self, ring: &mut LaneRing) {
        if ring.tell() {
            self.shared.notify();
        }
    }

    fn answer(&mut self, ring: &mut LaneRing, chain: &Chain) {
        let answer = match &chain.error {
            Some(error) => {
                complain(&self.complaints, self.queue, error);
                self.tally.result(INVALID_VALUE);
                self.report(ring, INVALID_VALUE, 0);
                Answer::None
            }
            None => match self.execute(ring, chain) {
                Some(answer) => answer,
                // Not issued: whoever serves the lane next takes the message again.
                None => return ring.put_back(),
            },
        };
        self.complete(ring, chain, answer);
    }

    /// Gives a chain back whose message was issued or refused.
    fn complete(&mut self, ring: &mut LaneRing, chain: &Chain, answer: Answer) {
        // Published before the driver can see the entry used: a thread that has an answer may depend on it.
        self.client.lanes.publish(self.queue);
        let len = match answer {
            Answer::None => 0,
            Answer::Reply(len) => {
                ring.mark_written(chain);
                len
            }
            Answer::Told => {
                ring.device_has_written();
                size_of::<ReplyHeader>() as u32
            }
        };
        ring.complete(chain, len);
        let batch = if ring.behind() < MANY { BATCH } else { LARGE_BATCH };
        if chain.reply.is_some() || ring.untold() >= batch {
            self.tell(ring);
        }
        self.tally.message(chain.reply.is_some());
        if self.tally.is_full() {
            self.tell_ledger();
        }
    }

    /// Issues a message; `None` if the lane is to stop first.
    fn execute(&mut self, ring: &mut LaneRing, chain: &Chain) -> Option<Answer> {
        let bytes = std::mem::take(&mut self.message);
        let answer = self.execute_bytes(ring, chain, &bytes);
        self.message = bytes;
        answer
    }

    fn execute_bytes(&mut self, ring: &mut LaneRing, chain: &Chain, bytes: &[u8]) -> Option<Answer> {
        let (message, dependencies) = match message::parse(bytes) {
            Ok(parts) => parts,
            Err(error) => {
                complain(&self.complaints, self.queue, &error);
                return Some(self.refuse(ring, chain.reply, 0));
            }
        };
        for dependency in dependencies.iter() {
            match self.client.lanes.wait(self.queue, dependency, &self.shared.stop) {
                Waited::Done => {}
                Waited::Stopped => return None,
                Waited::Invalid => {
                    complain(&self.complaints, self.queue, &format_args!("an impossible {dependency:?}"));
                    return Some(self.refuse(ring, chain.reply, message.function));
                }
            }
        }
        if self.client.account.is_away() {
            // Before the driver, whose lock nobody hears knocking at.
            self.tell(ring);
            if !self.client.account.await_presence(&self.shared.stop) {
                return None;
            }
        }
        self.body.clear();
        let message = Message { end: ring.end(chain), ..message };
        let status = self.executor.execute(&message, chain.reply.is_some(), &mut self.body);
        let told = self.executor.take_told();
        self.tally.result(status);
        match chain.reply {
            None if status == 0 => Some(Answer::None),
            None => {
                self.report(ring, status, message.function);
                Some(Answer::None)
            }
            Some(_) if told && status == 0 && self.body.is_empty() => Some(Answer::Told),
            Some((address, room)) => {
                let flags = self.executor.reply_flags();
                let fits = size_of::<ReplyHeader>() + self.body.len() <= MAX_MESSAGE.min(room as usize);
                if !fits {
                    let what = format_args!("a reply of {} bytes for a space of {room}", self.body.len());
                    complain(&self.complaints, self.queue, &what);
                    self.body.clear();
                }
                let status = if fits { status } else { INVALID_VALUE };
                Some(self.write_reply(ring, (address, room), status, flags, message.function))
            }
        }
    }

    /// Answers a message that is not executed; without a reply it becomes the lane's error.
    fn refuse(&mut self, ring: &LaneRing, reply: Option<ReplyPlace>, function: u32) -> Answer {
        self.tally.result(INVALID_VALUE);
        self.body.clear();
        match reply {
            Some(place) => self.write_reply(ring, place, INVALID_VALUE, 0, function),
            None => {
                self.report(ring, INVALID_VALUE, function);
                Answer::None
            }
        }
    }

    /// Writes the reply's header and body.
    fn write_reply(
        &mut self,
        ring: &LaneRing,
        (address, room): ReplyPlace,
        status: u32,
        flags: u32,
        function: u32,
    ) -> Answer {
        let len = size_of::<ReplyHeader>() + self.body.len();
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let header = ReplyHeader { status, len, flags, written: 0 };
        if len <= room && ring.write_reply(address, header.as_bytes(), &self.body) {
            return Answer::Reply(len);
        }
        complain(
            &self.complaints,
            self.queue,
            &"the space for a reply is too small or not in the lane's page",
        );
        self.report(ring, INVALID_VALUE, function);
        Answer::None
    }

    fn report(&mut self, ring: &LaneRing, error: u32, function: u32) {
        self.errors = self.errors.wrapping_add(1);
        ring.report(self.errors, error, function);
    }

    /// Polls for a while, then sleeps until there is something to look at.
    fn wait(&mut self, ring: &mut LaneRing) {
        // With a single processor the other side cannot write anything meanwhile.
        if !self.idle.limit().is_zero() && (0..EAGER).any(|_| ring.has_more()) {
            return;
        }
        self.executor.rest();
        self.tell_ledger();
        let start = Instant::now();
        if self.poll(ring, start) {
            return;
        }
        if !ring.enable_kicks() {
            self.sleep(None);
            self.idle.learn(start.elapsed());
        }
        ring.disable_kicks();
    }

    /// Whether there was something to look at before the time for polling was over.
    fn poll(&self, ring: &LaneRing, start: Instant) -> bool {
        let limit = self.idle.limit();
        while !limit.is_zero() {
            for _ in 0..SPINS {
                if ring.has_more() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let waited = start.elapsed();
            if waited >= limit {
                break;
            }
            if self.shared.stop.load(Ordering::Acquire) {
                return true;
            }
            if waited > ALONE {
                thread::yield_now();
            }
        }
        false
    }

    fn wait_broken(&mut self, ring: &mut LaneRing) {
        if !self.broken {
            self.broken = true;
            complain(&self.complaints, self.queue, &"the available index is nonsense");
            self.report(ring, INVALID_VALUE, 0);
            self.shared.notify();
        }
        self.sleep(Some(&BROKEN_PAUSE));
    }

    /// Sleeps until a kick, a wake or the timeout.
    fn sleep(&self, timeout: Option<&Timespec>) {
        let fds = self.shared.fds();
        let mut polled = [
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(fds.kick.as_fd(), PollFlags::IN),
        ];
        // While the ring is broken, kicks are no reason to look at it more often.
        let count = if timeout.is_some() { 1 } else { 2 };
        if poll(&mut polled[..count], timeout).is_err() {
            return;
        }
        let mut counter = [0_u8; 8];
        if polled[0].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(&self.shared.wake, &mut counter);
        }
        if polled[1].revents().contains(PollFlags::IN) {
            // The broker has made it non-blocking.
            let _ = rustix::io::read(&fds.kick, &mut counter);
        }
    }
}

/// Logs what a guest did wrong, within limits.
fn complain(limit: &Limit, queue: u16, what: &dyn std::fmt::Display) {
    if let Some(left_out) = limit.pass() {
        tracing::warn!(lane = queue, left_out, "refused: {what}");
    }
}
