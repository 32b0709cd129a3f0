//! A stream: a queue of work and, once there is some, a thread that does it in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use super::graph::Capture;
use super::handle::{self, Kind};
use super::work::{Core, Point, Work, next_id};
use super::{CudaError, Result};

/// `CU_STREAM_NON_BLOCKING`.
pub const NON_BLOCKING: u32 = 1;

/// How a stream is ordered against the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is the legacy default stream.
    Legacy,
    /// It waits for the legacy default stream, and that for it.
    Blocking,
    /// It has nothing to do with it.
    Independent,
}

/// A stream of one context.
#[derive(Debug)]
pub struct Stream {
    handle: u64,
    id: u64,
    context: u64,
    order: Order,
    priority: i32,
    core: Arc<Core>,
    queue: Mutex<Queue>,
    /// Signalled when the worker has something to do.
    filled: Condvar,
    /// Signalled when work is done, if anybody waits.
    done: Condvar,
    policy: AtomicU32,
    captures: AtomicBool,
    capture: Mutex<Option<Capture>>,
    submitted: AtomicU64,
    completed: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Somebody, the worker or a caller, is doing the oldest work that is not in `items` any more.
    busy: bool,
    has_worker: bool,
    worker_sleeps: bool,
    closed: bool,
    waiters: u32,
}

#[derive(Debug)]
struct Item {
    number: u64,
    after: Vec<Point>,
    work: Work,
}

/// What became of work that its caller wants done before it returns.
#[derive(Debug)]
#[must_use]
pub enum Turn {
    /// It is the caller's turn: it must call [`Stream::take_turn`] with this.
    Now(OpenTurn),
    /// It is queued under this number.
    Queued(u64),
}

/// Work that the calling thread does itself.
#[derive(Debug)]
pub struct OpenTurn(Item);

impl Stream {
    /// A stream of the context with this handle.
    pub fn new(context: u64, core: Arc<Core>, order: Order, priority: i32) -> Arc<Stream> {
        Arc::new(Stream {
            handle: handle::new_handle(Kind::Stream),
            id: next_id(),
            context,
            order,
            priority,
            core,
            queue: Mutex::default(),
            filled: Condvar::new(),
            done: Condvar::new(),
            policy: AtomicU32::new(1),
            captures: AtomicBool::new(false),
            capture: Mutex::default(),
            submitted: AtomicU64::new(0),
            completed: AtomicU64::new(0),
        })
    }

    /// The `CUstream`, for a created stream.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The number that `cuStreamGetId` answers.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The handle of its context.
    pub fn context(&self) -> u64 {
        self.context
    }

    /// Its order against the legacy default stream.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Its priority, which changes nothing here.
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// How its completion is waited for (`CUsynchronizationPolicy`), which changes nothing here.
    pub fn policy(&self) -> u32 {
        self.policy.load(Ordering::Relaxed)
    }

    /// Sets the same.
    pub fn set_policy(&self, policy: u32) {
        self.policy.store(policy, Ordering::Relaxed);
    }

    /// Whether work is described in a graph instead of done.
    pub fn captures(&self) -> bool {
        self.captures.load(Ordering::Acquire)
    }

    /// Its part in a capture.
    pub fn capture(&self) -> Option<Capture> {
        if !self.captures() {
            return None;
        }
        self.capture.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes its part in a capture.
    pub fn set_capture(&self, capture: Option<Capture>) {
        let mut place = self.capture.lock().unwrap_or_else(PoisonError::into_inner);
        self.captures.store(capture.is_some(), Ordering::Release);
        *place = capture;
    }

    /// The number of the last work given.
    pub fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Acquire)
    }

    /// The number of the last work done.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// The place behind all that was given, unless all of it is done.
    pub fn pending(self: &Arc<Self>) -> Option<Point> {
        let submitted = self.submitted();
        (self.completed() < submitted).then(|| Point::new(Arc::clone(self), submitted))
    }

    /// Adds `work`, to be done after all before it and after `after`. Returns its place.
    pub fn push(self: &Arc<Self>, mut after: Vec<Point>, work: Work) -> Result<Point> {
        let queue = self.lock();
        if queue.closed {
            return Err(CudaError::InvalidHandle);
        }
        let number = self.submitted() + 1;
        if work.is_instant() && queue.items.is_empty() && !queue.busy {
            after.retain(|point| !point.is_reached());
            if after.is_empty() {
                self.submitted.store(number, Ordering::Release);
                work.run(&self.core);
                self.complete(&queue, number);
                return Ok(Point::new(Arc::clone(self), number));
            }
        }
        self.enqueue(queue, Item { number, after, work })?;
        Ok(Point::new(Arc::clone(self), number))
    }

    /// Adds `work` like [`Stream::push`], but if the stream is idle, the caller gets the turn and saves two switches.
    pub fn begin(self: &Arc<Self>, after: Vec<Point>, work: Work) -> Result<Turn> {
        let mut queue = self.lock();
        if queue.closed {
            return Err(CudaError::InvalidHandle);
        }
        let item = Item { number: self.submitted() + 1, after, work };
        if queue.items.is_empty() && !queue.busy {
            self.submitted.store(item.number, Ordering::Release);
            queue.busy = true;
            return Ok(Turn::Now(OpenTurn(item)));
        }
        let number = item.number;
        self.enqueue(queue, item)?;
        Ok(Turn::Queued(number))
    }

    /// Does the work of a turn that [`Stream::begin`] gave, or waits until it is done.
    pub fn take_turn(&self, turn: Turn) {
        match turn {
            Turn::Now(OpenTurn(item)) => {
                let number = item.number;
                self.perform(item);
                let mut queue = self.lock();
                queue.busy = false;
                self.complete(&queue, number);
                if (queue.closed || !queue.items.is_empty()) && queue.worker_sleeps {
                    self.filled.notify_one();
                }
            }
            Turn::Queued(number) => self.wait_for(number),
        }
    }

    /// Waits until the work `number` is done.
    pub fn wait_for(&self, number: u64) {
        for _ in 0..*SPINS {
            if self.completed() >= number {
                return;
            }
            std::hint::spin_loop();
        }
        let mut queue = self.lock();
        queue.waiters += 1;
        while self.completed() < number {
            queue = self.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.waiters -= 1;
    }

    /// Accepts no more work; the thread ends after what was given.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Whether it accepts no more work and all of it is done.
    pub fn is_finished(&self) -> bool {
        self.lock().closed && self.completed() >= self.submitted()
    }

    fn enqueue(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, item: Item) -> Result {
        if !queue.has_worker {
            let stream = Arc::clone(self);
            let thread = std::thread::Builder::new().name("softgpu-stream".into());
            thread.spawn(move || stream.serve()).map_err(|_| CudaError::OperatingSystem)?;
            queue.has_worker = true;
        }
        self.submitted.store(item.number, Ordering::Release);
        queue.items.push_back(item);
        let wake = queue.worker_sleeps;
        queue.worker_sleeps = false;
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// The thread's loop.
    fn serve(&self) {
        let mut queue = self.lock();
        loop {
            if queue.busy {
                queue = self.sleep(queue);
                continue;
            }
            if let Some(item) = queue.items.pop_front() {
                queue.busy = true;
                drop(queue);
                let number = item.number;
                self.perform(item);
                queue = self.lock();
                queue.busy = false;
                self.complete(&queue, number);
                continue;
            }
            if queue.closed {
                return;
            }
            drop(queue);
            self.spin_for_work();
            queue = self.lock();
            if queue.items.is_empty() && !queue.closed {
                queue = self.sleep(queue);
            }
        }
    }

    fn sleep<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        queue.worker_sleeps = true;
        queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        queue.worker_sleeps = false;
        queue
    }

    /// Looks out for more work for some microseconds: a program that launches in a loop then pays for no wake-up.
    fn spin_for_work(&self) {
        let seen = self.completed();
        for _ in 0..*SPINS {
            if self.submitted() != seen {
                return;
            }
            std::hint::spin_loop();
        }
    }

    fn perform(&self, item: Item) {
        for point in &item.after {
            point.wait();
        }
        item.work.run(&self.core);
    }

    /// Only with the queue locked: a waiter checks the number under the lock.
    fn complete(&self, queue: &MutexGuard<'_, Queue>, number: u64) {
        self.completed.store(number, Ordering::Release);
        if queue.waiters > 0 {
            self.done.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rounds of looking before sleeping; none where nobody else could make progress meanwhile.
static SPINS: LazyLock<u32> =
    LazyLock::new(|| if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) { 1000 } else { 0 });
