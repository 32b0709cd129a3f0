//! The gate at which lanes wait for their VM's turn, and the keeper, which tells the scheduler when the work of a turn is done.
//!
//! Where nobody else wants the device the gate is open: one load. Else each call of work is tracked by marks. Marks are put behind calls by
//! the lane that made them, while it is inside the gate, or by the keeper, which holds the track's lock: a stream, context or capture that
//! ends or begins takes that lock first.

use super::{
    capture,
    driver::{self, Driver},
    error::CudaError,
    session::Session,
    thread::Thread,
};
use crate::{
    ledger::{Counter, Device, Turns as Ledger, gate, monotonic},
    worker::{
        account::{Account, sleep_on},
        executor::ClientState,
        turns::{Stream, Track, Tracked},
    },
};
use rustix::thread::futex;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// CUDA_ERROR_NOT_READY.
const NOT_READY: u32 = 600;
/// CU_EVENT_DISABLE_TIMING.
const DISABLE_TIMING: u32 = 2;
/// The legacy default stream's two names, and the per-thread one's. Only its own thread can put marks behind what is in the latter. A mark in
/// the former is a barrier for all other streams: put there later than the work it is for, work of a second stream would wait behind it
/// for that of a first one, and the first may wait for the second.
const DEFAULT_STREAMS: std::ops::RangeInclusive<u64> = 0..=2;
/// How often the keeper looks while work is issued, and when the turn is over.
const LOOK: Duration = Duration::from_micros(60);
const LOOK_AT_END: Duration = Duration::from_micros(15);
/// With so much work left the next VM may begin: it takes about as long until its first kernel is there.
const NEAR: Duration = Duration::from_micros(250);
/// The keeper does not even sleep between looks at the end while less than this is about to go on, for so long.
const CLOSE: Duration = Duration::from_micros(400);
const EAGER: Duration = Duration::from_millis(3);
/// For a lane that has issued enough.
const BREATH: Duration = Duration::from_micros(50);
/// After which it looks more rarely: a kernel without end.
const LATE: Duration = Duration::from_millis(200);
/// A lane that waits says so again after this: the scheduler may have missed it while the VM's socket changed hands.
const AGAIN: Duration = Duration::from_millis(50);

/// What a lane is inside the gate for.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    device: u32,
    word: u32,
    stream: Stream,
}

/// The context that is current to a lane thread as the driver knows it, as long as that is the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct Current {
    context: u32,
    epoch: u64,
    device: Option<u32>,
    /// The driver's handle.
    real: u64,
}

impl Thread {
    #[inline]
    fn current(&self) -> Current {
        let (context, epoch) = self.context_now();
        let known = self.known_current.get();
        if known.device.is_some() && (known.context, known.epoch) == (context, epoch) {
            return known;
        }
        let now = Current { context, epoch, device: self.device().ok(), real: self.real_context() };
        self.known_current.set(now);
        now
    }

    #[inline]
    fn turn_device(&self) -> Option<u32> {
        self.current().device
    }

    /// The device of the message's context, and the driver's handle of that, without asking the driver each time. For calls that do not
    /// change what is current.
    #[inline]
    pub fn here(&self) -> Result<(u32, u64), CudaError> {
        let current = self.current();
        // Asked again for the error.
        current.device.map_or_else(|| self.device(), Ok).map(|device| (device, current.real))
    }

    /// Whether nobody else wants the current device.
    pub fn has_device(&self) -> bool {
        let device = self.turn_device().and_then(|device| self.client.account.device(device));
        device.is_some_and(|device| device.gate().load(Ordering::Acquire) & 3 == gate::OPEN)
    }

    /// Waits until the VM may give the current device work in `stream`.
    pub fn await_turn(&mut self, stream: u64) {
        self.issues(stream);
        let Some(device) = self.turn_device() else { return };
        let Some(gate) = self.client.account.device(device) else { return };
        if gate.gate().load(Ordering::Acquire) & 3 != gate::OPEN {
            self.await_closed_turn(device, stream);
        }
    }

    #[cold]
    fn await_closed_turn(&mut self, device: u32, stream: u64) {
        // What is recorded is no work.
        if self.session.turns.captures() && self.is_capturing(stream) {
            return;
        }
        let came = Instant::now();
        let (client, session) = (Arc::clone(&self.client), Arc::clone(&self.session));
        let account = &client.account;
        let (Some(shared), Some(turns)) = (account.device(device), account.turns(device)) else { return };
        let Some(tracked) = session.turns.device(device) else { return };
        loop {
            // First inside, then the look at the gate: the scheduler closes first, and looks then.
            turns.inside.fetch_add(1, Ordering::SeqCst);
            let word = shared.gate().load(Ordering::SeqCst);
            match word & 3 {
                gate::OPEN => {
                    turns.inside.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
                gate::TURN if self.has_room(tracked, came) => {
                    if turns.active.swap(word, Ordering::SeqCst) != word {
                        turns.begun.store(monotonic(), Ordering::Relaxed);
                    }
                    let stream = (self.real_context(), stream);
                    self.inside = Some(Inside { device, word, stream });
                    return;
                }
                gate::TURN => {
                    turns.inside.fetch_sub(1, Ordering::SeqCst);
                    // There is work for much longer than this.
                    std::thread::sleep(BREATH);
                }
                _ => {
                    turns.inside.fetch_sub(1, Ordering::SeqCst);
                    wait_for_turn(account, shared, turns, word);
                }
            }
        }
    }

    /// Whether not too much is under way already.
    fn has_room(&self, tracked: &Tracked, came: Instant) -> bool {
        let mut track = tracked.track();
        track.comes(came);
        if track.has_room(Instant::now()) || self.session.turns.captures() {
            return true;
        }
        look(self.driver, &mut track);
        // Without marks nothing would ever be known to be done.
        track.has_room(Instant::now()) || !track.has_marks()
    }

    /// After a call: it is tracked if it was made in a turn.
    pub fn leave_turn(&mut self) {
        let Some(Inside { device, word, stream }) = self.inside.take() else { return };
        let (Some(tracked), Some(turns)) =
            (self.session.turns.device(device), self.client.account.turns(device))
        else {
            return;
        };
        let woken = {
            let mut track = tracked.track();
            let due = track.issued(stream, Instant::now()) || DEFAULT_STREAMS.contains(&stream.1);
            if due && !self.session.turns.captures() {
                mark(self.driver, &mut track, stream);
            }
            // Under the lock: the keeper says done under it too.
            let done = turns.done.load(Ordering::SeqCst);
            turns.done.store(0, Ordering::SeqCst);
            done != 0 || !tracked.kept.load(Ordering::Acquire)
        };
        turns.inside.fetch_sub(1, Ordering::SeqCst);
        // A keeper that has said nothing of an earlier turn is awake.
        if woken || turns.active.load(Ordering::Relaxed) != word {
            tracked.kicks.fetch_add(1, Ordering::Release);
            let _ = futex::wake(&tracked.kicks, futex::Flags::PRIVATE, 1);
            keep(&self.session, &self.client, device);
        }
    }
}

/// Waits at the closed gate.
fn wait_for_turn(account: &Account, shared: &Device, turns: &Ledger, word: u32) {
    let start = Instant::now();
    if turns.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
        account.ring();
    }
    while shared.gate().load(Ordering::SeqCst) == word {
        sleep_on(shared.gate(), word, AGAIN);
        if start.elapsed() >= AGAIN && shared.gate().load(Ordering::SeqCst) == word {
            account.ring();
        }
    }
    turns.waiting.fetch_sub(1, Ordering::SeqCst);
    let waited = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    account.add(Counter::Throttled, waited);
}

/// Puts a mark behind all of `stream`, whose context is current.
fn mark(driver: &Driver, track: &mut Track, stream: Stream) {
    let event = track.spare(stream.0).or_else(|| {
        let mut event = 0_u64;
        // SAFETY: a place that outlives the call.
        let status = unsafe { driver.cuEventCreate?(&raw mut event, DISABLE_TIMING) };
        (status == 0).then_some(event)
    });
    let recorded = event.filter(|&event| {
        // SAFETY: a live event of the current context, and a live stream: one that ends is forgotten first, under the track's lock.
        driver.cuEventRecord.is_some_and(|record| unsafe { record(event, stream.1) } == 0)
    });
    track.marked(stream, recorded);
}

/// Takes out the marks that are done. What the driver has no good answer about will never be done.
fn look(driver: &Driver, track: &mut Track) {
    let Some(query) = driver.cuEventQuery else { return };
    // SAFETY: a live event: those of a context that ends are forgotten first.
    track.look(Instant::now(), |mark| unsafe { query(mark.event) } != NOT_READY);
}

/// Tells the scheduler that something was said.
fn say(turns: &Ledger, account: &Account) {
    turns.said.store(monotonic(), Ordering::Relaxed);
    account.ring();
}

/// Starts the keeper of a device, once.
fn keep(session: &Arc<Session>, client: &Arc<ClientState>, device: u32) {
    let Some(tracked) = session.turns.device(device) else { return };
    if tracked.kept.swap(true, Ordering::AcqRel) {
        return;
    }
    let keeper = Keeper { session: Arc::clone(session), client: Arc::clone(client), device, context: 0 };
    let started = std::thread::Builder::new().name(format!("keeper-{device}")).spawn(move || keeper.run());
    if let Err(error) = started {
        tracing::error!("starting the keeper of device {device}: {error}");
        tracked.kept.store(false, Ordering::Release);
    }
}

/// Watches the work of turns on one device, and says when it is done.
struct Keeper {
    session: Arc<Session>,
    client: Arc<ClientState>,
    device: u32,
    /// The driver's context that is current to this thread.
    context: u64,
}

impl Keeper {
    fn run(mut self) {
        let Some(driver) = driver::get() else { return };
        // What it asks about its own marks is no affair of captures.
        capture::allow_here();
        let (session, client) = (Arc::clone(&self.session), Arc::clone(&self.client));
        let account = &client.account;
        let Some(tracked) = session.turns.device(self.device) else { return };
        let (Some(shared), Some(turns)) = (account.device(self.device), account.turns(self.device)) else {
            return;
        };
        loop {
            let kicks = tracked.kicks.load(Ordering::Acquire);
            let active = turns.active.load(Ordering::SeqCst);
            if active == 0 || turns.done.load(Ordering::SeqCst) == active {
                let _ = futex::wait(&tracked.kicks, futex::Flags::PRIVATE, kicks, None);
                continue;
            }
            self.watch(driver, tracked, shared, turns, active);
            say(turns, account);
        }
    }

    /// Until the work of the turn `active`, and of those after it, is done; says so.
    fn watch(&mut self, driver: &Driver, tracked: &Tracked, shared: &Device, turns: &Ledger, active: u32) {
        let mut over: Option<Instant> = None;
        let mut left = Duration::ZERO;
        loop {
            let word = shared.gate().load(Ordering::SeqCst);
            let ended = word != active;
            if ended {
                over.get_or_insert_with(Instant::now);
            }
            if turns.active.load(Ordering::SeqCst) != active {
                return;
            }
            if turns.inside.load(Ordering::SeqCst) == 0 {
                let mut track = tracked.track();
                if ended || track.is_quiet(Instant::now()) {
                    self.mark_all(driver, &mut track);
                    look(driver, &mut track);
                    let now = Instant::now();
                    let over = if ended { track.is_idle() } else { track.is_over(now) };
                    let known = track.left(now);
                    left = known.unwrap_or_default();
                    // Under the lock, and looked at again: a lane that comes in takes it back before it leaves.
                    if over && turns.inside.load(Ordering::SeqCst) == 0 {
                        turns.done.store(active, Ordering::SeqCst);
                        return;
                    }
                    drop(track);
                    if ended
                        && known.is_some_and(|left| left <= NEAR)
                        && turns.near.swap(active, Ordering::SeqCst) != active
                    {
                        say(turns, &self.client.account);
                    }
                }
            }
            match over.map(|over| over.elapsed()) {
                None => sleep_on(shared.gate(), word, LOOK),
                Some(_) if left > CLOSE && left < EAGER => {
                    // Timers are late by 50 µs.
                    std::thread::sleep(left - CLOSE);
                    left = Duration::ZERO;
                }
                Some(time) if time < EAGER => std::thread::yield_now(),
                Some(time) if time < LATE => std::thread::sleep(LOOK_AT_END),
                Some(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Puts marks behind what has none.
    fn mark_all(&mut self, driver: &Driver, track: &mut Track) {
        let captures = self.session.turns.captures();
        for stream in track.unmarked() {
            // While something is recorded nothing is recorded here; of such work nothing is known.
            if captures || DEFAULT_STREAMS.contains(&stream.1) || !self.enter(driver, stream.0) {
                track.marked(stream, None);
            } else {
                mark(driver, track, stream);
            }
        }
    }

    fn enter(&mut self, driver: &Driver, context: u64) -> bool {
        if self.context == context {
            return true;
        }
        // SAFETY: a live context: one that ends is forgotten first, with its streams.
        let entered = driver.cuCtxSetCurrent.is_some_and(|set| unsafe { set(context) } == 0);
        self.context = if entered { context } else { 0 };
        entered
    }
}
