//! Which thread uses which lane.
//!
//! A thread gets a lane of its own at its first call and gives it back when it ends; the next new thread takes it over,
//! unfinished entries and all. When the agent has no more, threads share the least used lane behind a mutex, and the thread's
//! number in each message tells them apart. A call from a destructor of thread-local data or an atexit handler, when the
//! thread has given its lane back already, borrows a lane for that call.

mod thread;

use crate::biased::{Access, Biased};
use crate::connection::{Connection, ConnectionError};
use crate::lane::{Lane, LaneError, MessageMeta, MessageWriter, Reply};
use crate::order::{Dependencies, Order, Streams};
use crate::stats::{LaneStats, Totals};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use vgpu_spec::wire::args::Writer;
use vgpu_spec::wire::control::status;
use vgpu_spec::wire::lane::{Dependency, MAX_DEPENDENCIES};

/// The most lanes of a client: a message can depend on each.
const MAX_LANES: usize = MAX_DEPENDENCIES;
/// What a lane that is lent to one thread alone counts for: any other is less used.
const ALONE: u32 = 1 << 30;

/// The lanes of a client. Lives as long as the process.
pub struct Lanes {
    connection: Arc<Connection>,
    /// The first `len` are set, and stay.
    slots: [OnceLock<Slot>; MAX_LANES],
    len: AtomicUsize,
    streams: Streams,
    /// Users of each lane: threads, and calls that borrow it.
    users: Mutex<[u32; MAX_LANES]>,
}

struct Slot {
    order: Arc<Order>,
    stats: Arc<LaneStats>,
    lane: Biased<Lane>,
}

/// A lane, in the hands of the thread that calls.
pub struct ThreadLane<'a> {
    lane: Access<'a, Lane>,
    lanes: &'a Lanes,
    index: usize,
    /// The calling thread's number.
    thread: u32,
}

impl Lanes {
    /// The agent's socket.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The lanes of the connection's client; none is asked for yet.
    pub fn new(connection: Arc<Connection>) -> Self {
        Lanes {
            connection,
            slots: [const { OnceLock::new() }; MAX_LANES],
            len: AtomicUsize::new(0),
            streams: Streams::new(),
            users: Mutex::new([0; MAX_LANES]),
        }
    }

    /// Calls `call` with the calling thread's lane.
    ///
    /// # Errors
    /// [`LaneError::Busy`] from within `call`, [`LaneError::Forked`] in a forked child, [`LaneError::Agent`] when there is no
    /// lane at all.
    #[inline]
    pub fn with<R>(&'static self, call: impl FnOnce(&mut ThreadLane<'_>) -> R) -> Result<R, LaneError> {
        if crate::fork::forked() {
            return Err(LaneError::Forked);
        }
        thread::with(|state| {
            let _inside = state.enter().ok_or(LaneError::Busy)?;
            if let Some(index) = state.lane_of(self)
                && let Some(slot) = self.slot(index)
            {
                // SAFETY: the lane is this thread's, or it has called `share` (see `attach`); `Inside` keeps it from entering twice.
                let lane = unsafe { slot.lane.enter() };
                return Ok(call(&mut ThreadLane { lane, lanes: self, index, thread: state.number() }));
            }
            self.with_new(state.number(), call)
        })
    }

    #[cold]
    fn with_new<R>(
        &'static self,
        thread: u32,
        call: impl FnOnce(&mut ThreadLane<'_>) -> R,
    ) -> Result<R, LaneError> {
        let (index, own) = self.take(thread::can_keep())?;
        let slot = self.slot(index).ok_or(LaneError::Lost)?;
        if own {
            thread::keep(self, index);
            // SAFETY: `take` gave the lane to this thread alone, or it was shared; `Inside` keeps it from entering twice.
            let lane = unsafe { slot.lane.enter() };
            return Ok(call(&mut ThreadLane { lane, lanes: self, index, thread }));
        }
        let result = call(&mut ThreadLane { lane: slot.lane.lock(), lanes: self, index, thread });
        self.release(index);
        Ok(result)
    }

    /// A lane that no other thread shares, for a thread whose calls wait long for what other threads do.
    ///
    /// # Errors
    /// [`LaneError::Forked`] in a forked child, [`LaneError::Agent`] when there is no lane left.
    pub fn alone(&'static self) -> Result<AloneLane, LaneError> {
        if crate::fork::forked() {
            return Err(LaneError::Forked);
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.len.load(Ordering::Acquire);
        let index = match (0..len).find(|&index| users[index] == 0) {
            Some(index) => index,
            None => self.grow(len)?,
        };
        users[index] = ALONE;
        drop(users);
        if let Some(slot) = self.slot(index) {
            slot.lane.share();
        }
        Ok(AloneLane { lanes: self, index })
    }

    /// Takes a lane: to `keep` until the thread's end (`true` in the answer), or for one call, to be locked.
    fn take(&self, keep: bool) -> Result<(usize, bool), LaneError> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.len.load(Ordering::Acquire);
        let free = (0..len).find(|&index| users[index] == 0);
        let index = match free {
            Some(index) => {
                if let Some(slot) = self.slot(index) {
                    // SAFETY: without users, nobody is inside, and nobody enters before being told of this lane.
                    unsafe { slot.lane.reset() };
                    // An error of the thread that had the lane before is not this one's.
                    // SAFETY: as above.
                    let _ = unsafe { slot.lane.enter() }.take_error();
                }
                index
            }
            None if keep || len == 0 => match self.grow(len) {
                Ok(index) => index,
                Err(LaneError::Agent(error)) if len > 0 && is_limit(&error) => self.least_used(&users, len),
                Err(error) => return Err(error),
            },
            None => self.least_used(&users, len),
        };
        users[index] += 1;
        let shared = users[index] > 1;
        // The owner may be inside a long call: it must not hold up threads that come and go.
        drop(users);
        if (shared || !keep)
            && let Some(slot) = self.slot(index)
        {
            slot.lane.share();
        }
        Ok((index, keep))
    }

    /// A new lane from the agent, as number `len`. The caller holds `users`.
    fn grow(&self, len: usize) -> Result<usize, LaneError> {
        let Some(place) = self.slots.get(len) else {
            return Err(ConnectionError::Refused { what: "a lane", status: status::LIMIT }.into());
        };
        let mut lane = Lane::new(self.connection.lane()?)?;
        lane.watch(Arc::clone(&self.connection));
        crate::debug!("lane {} is in use ({} in all)", lane.queue(), len + 1);
        let slot = Slot { order: lane.order().clone(), stats: lane.stats().clone(), lane: Biased::new(lane) };
        let _ = place.set(slot);
        self.len.store(len + 1, Ordering::Release);
        Ok(len)
    }

    fn least_used(&self, users: &[u32; MAX_LANES], len: usize) -> usize {
        let busy = |index| self.slot(index).is_some_and(|slot| slot.lane.busy());
        (0..len).min_by_key(|&index| (users[index], busy(index))).unwrap_or(0)
    }

    /// A user of a lane is gone.
    fn release(&self, index: usize) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(index) {
            *count = count.saturating_sub(1);
        }
    }

    #[inline]
    fn slot(&self, index: usize) -> Option<&Slot> {
        self.slots.get(index)?.get()
    }

    /// What a call that begins now on lane `index` must come after; `dependency` tells it of each other lane.
    #[inline]
    fn dependencies<'a>(
        &self,
        index: usize,
        dependencies: &'a mut Dependencies,
        dependency: impl Fn(&Order) -> Option<Dependency>,
    ) -> &'a [Dependency] {
        let len = self.len.load(Ordering::Acquire);
        if len > 1 {
            let others = self.slots.iter().take(len).enumerate().filter(|(other, _)| *other != index);
            for (_, slot) in others {
                if let Some(dependency) = slot.get().and_then(|slot| dependency(&slot.order)) {
                    dependencies.push(dependency);
                }
            }
        }
        dependencies.as_slice()
    }

    /// The counters of all lanes, those of ended threads included.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for slot in self.slots.iter().filter_map(|slot| slot.get()) {
            totals.add(&slot.stats);
        }
        totals
    }

    /// The counters of the calling thread's lane; zeros while it has none.
    pub fn thread_totals(&'static self) -> Totals {
        let mut totals = Totals::default();
        if let Some(slot) = thread::with(|state| state.lane_of(self)).and_then(|index| self.slot(index)) {
            totals.add(&slot.stats);
        }
        totals
    }

    /// For the shim's exit: prints the counters if `VGPU_STATS=1`.
    pub fn print_stats(&self) {
        if !crate::fork::forked() {
            self.totals().print_if_wanted();
        }
    }

    /// Whether the worker is gone, as any lane says.
    pub fn lost(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.get()).any(|slot| slot.order.lost())
    }
}

/// A lane for one thread alone, besides the one that the thread's other calls use.
pub struct AloneLane {
    lanes: &'static Lanes,
    index: usize,
}

impl AloneLane {
    /// Calls `call` with the lane.
    ///
    /// # Errors
    /// As [`Lanes::with`].
    pub fn with<R>(&self, call: impl FnOnce(&mut ThreadLane<'_>) -> R) -> Result<R, LaneError> {
        if crate::fork::forked() {
            return Err(LaneError::Forked);
        }
        thread::with(|state| {
            let _inside = state.enter().ok_or(LaneError::Busy)?;
            let slot = self.lanes.slot(self.index).ok_or(LaneError::Lost)?;
            let (lane, thread) = (slot.lane.lock(), state.number());
            Ok(call(&mut ThreadLane { lane, lanes: self.lanes, index: self.index, thread }))
        })
    }
}

impl Drop for AloneLane {
    fn drop(&mut self) {
        if !crate::fork::forked() {
            let mut users = self.lanes.users.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = users.get_mut(self.index) {
                *count -= (*count).min(ALONE);
            }
        }
    }
}

/// Whether the agent has no more lanes to lend.
fn is_limit(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::Refused { status: status::LIMIT, .. })
}

impl ThreadLane<'_> {
    /// As [`ThreadLane::begin`], for a message that need not come after what other threads have called: it does nothing that
    /// a program could notice, and may be what the others wait for.
    pub fn begin_unordered(
        &mut self,
        function: u32,
        args_len: usize,
        reply_len: usize,
    ) -> Result<MessageWriter<'_>, LaneError> {
        let meta = MessageMeta { thread: self.thread, context: 0 };
        self.lane.begin(function, meta, &[], args_len, Some(reply_len))
    }

    /// As [`Lane::begin`], for the calling thread and with the order across threads.
    #[inline]
    pub fn begin(
        &mut self,
        function: u32,
        context: u32,
        args_len: usize,
        reply_len: Option<usize>,
    ) -> Result<MessageWriter<'_>, LaneError> {
        let mut list = Dependencies::new();
        let dependencies = self.lanes.dependencies(self.index, &mut list, Order::dependency);
        let meta = MessageMeta { thread: self.thread, context };
        self.lane.begin(function, meta, dependencies, args_len, reply_len)
    }

    /// As [`Lane::post`], for the calling thread and with the order across threads.
    #[inline]
    pub fn post(
        &mut self,
        function: u32,
        context: u32,
        args_len: usize,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), LaneError> {
        let mut list = Dependencies::new();
        let dependencies = self.lanes.dependencies(self.index, &mut list, Order::dependency);
        let meta = MessageMeta { thread: self.thread, context };
        self.lane.post(function, meta, dependencies, args_len, false, write)
    }

    /// As [`ThreadLane::post`], for a launch into `stream`, which is not one of the special streams.
    #[inline]
    pub fn post_launch(
        &mut self,
        function: u32,
        context: u32,
        stream: u64,
        args_len: usize,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), LaneError> {
        let again = self.lanes.streams.launch(stream, self.index);
        let dependency = if again { Order::dependency_of_launch } else { Order::dependency };
        let mut list = Dependencies::new();
        let dependencies = self.lanes.dependencies(self.index, &mut list, dependency);
        let meta = MessageMeta { thread: self.thread, context };
        self.lane.post(function, meta, dependencies, args_len, true, write)
    }

    /// As [`Lane::exchange`], for the calling thread and with the order across threads.
    #[inline]
    pub fn exchange(
        &mut self,
        function: u32,
        context: u32,
        args_len: usize,
        reply_len: usize,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<Reply<'_>, LaneError> {
        let mut list = Dependencies::new();
        let dependencies = self.lanes.dependencies(self.index, &mut list, Order::dependency);
        let meta = MessageMeta { thread: self.thread, context };
        self.lane.exchange(function, meta, dependencies, args_len, reply_len, write)
    }

    /// As [`Lane::take_error`], of any lane: an error of a thread that never waits must not be lost.
    pub fn take_any_error(&mut self) -> Option<(u32, u32)> {
        let len = self.lanes.len.load(Ordering::Acquire);
        let slots = self.lanes.slots.iter().take(len).filter_map(|slot| slot.get());
        self.lane
            .take_error()
            .or_else(|| slots.into_iter().find_map(|slot| slot.order.take_error_for_another()))
    }

    /// A call begins that takes the lane's errors itself, or ends: between, no other thread gets them.
    pub fn own_errors(&mut self, begins: bool) {
        self.lane.own_errors(begins);
    }

    /// As [`Lane::take_error`].
    #[inline]
    pub fn take_error(&mut self) -> Option<(u32, u32)> {
        self.lane.take_error()
    }

    /// The lane itself.
    pub fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    /// Counts bytes that the shim copied between the program's memory and windows.
    pub fn count_bytes_copied(&self, bytes: u64) {
        self.lane.stats().bytes_copied.add(bytes);
    }
}

/// The calling thread's number, as its messages carry it: from 1.
pub fn thread_number() -> u32 {
    thread::with(thread::State::number)
}
