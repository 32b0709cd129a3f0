//! A lane's thread: the twin of one guest thread.

use super::{
    batch::Batch,
    capture::Modes,
    dispatch::{self, Results},
    driver::{self, Driver},
    end::Ends,
    error::{self, Outcome, check},
    session::Session,
    snapshot,
    spare::Spare,
    turn,
    wait::Waits,
};
use crate::worker::{
    executor::{ClientState, Executor, Message, Work},
    output,
};
use std::cell::Cell;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use vgpu_spec::wire::{args::Reader, lane::reply_flags};

/// Times that a call is made for which others make room: a VM is moved off each time.
const MOST_ATTEMPTS: u32 = 16;

/// State of one lane thread.
pub struct Thread {
    pub session: Arc<Session>,
    pub client: Arc<ClientState>,
    pub driver: &'static Driver,
    /// Index of the context that is current to this thread in the driver; 0 for none.
    context: u32,
    pub modes: Modes,
    /// Not told to the ledger yet.
    pub work: Work,
    /// The session's epoch when it was.
    epoch: u64,
    /// That context as the driver knows it, once it was asked for.
    pub known_current: Cell<turn::Current>,
    /// What it knows for waits.
    pub waits: Waits,
    /// How waits are told to the program.
    pub ends: Ends,
    /// Launches that are to be issued together.
    pub batch: Batch,
    /// Memory that was freed last.
    pub spare: Spare,
    /// What was looked up last to be launched is a kernel, not a function.
    pub calls_kernel: Cell<bool>,
    /// The call that is being made is work of the VM's turn.
    pub inside: Option<turn::Inside>,
    /// What the call that is being made asks of a device's memory, and whether the VM's limit forbids that.
    pub asked: Cell<u64>,
    pub limited: Cell<bool>,
}

impl Thread {
    /// Makes the message's context current. 0 leaves what is there: such calls need none.
    fn enter(&mut self, context: u32) -> Outcome {
        let epoch = self.session.context_epoch.load(Ordering::Acquire);
        if context == 0 || (context == self.context && epoch == self.epoch) {
            return Ok(());
        }
        let real = self.session.context_at(context)?;
        self.set_current(real)?;
        self.forget_work();
        (self.context, self.epoch) = (context, epoch);
        Ok(())
    }

    /// Whether the context that was current last still is.
    pub fn is_current(&self) -> bool {
        self.context != 0 && self.epoch == self.session.context_epoch.load(Ordering::Acquire)
    }

    /// Index of the current context; 0 for none.
    pub fn context_index(&self) -> u32 {
        self.context
    }

    /// That, and the session's epoch when it became current.
    pub fn context_now(&self) -> (u32, u64) {
        (self.context, self.epoch)
    }

    fn set_current(&self, real: u64) -> Outcome {
        let function = self.driver.cuCtxSetCurrent.ok_or(error::NOT_SUPPORTED)?;
        // SAFETY: a live context of this client.
        check(unsafe { function(real) })
    }

    /// Has all lane threads forget which context is current: it ends, and its index may mean another one next.
    pub fn forget_context(&mut self) {
        let lives = self.is_current().then_some(self.context);
        self.batch.leave(self.driver, lives);
        self.session.context_epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`Self::forget_context`]; this thread itself leaves it at once.
    pub fn leave_context(&mut self) {
        self.forget_context();
        snapshot::enter_first_context(self.driver);
        self.context = 0;
    }
}

impl Thread {
    /// A call of `function` is about to be executed or held: ends what holds only until then.
    #[inline]
    pub fn comes(&mut self, function: u32) {
        self.free_before(function);
        self.disturbs(function);
    }

    fn attempt(&mut self, message: &Message<'_>, reply: &mut Vec<u8>) -> Outcome {
        let outcome = self.enter(message.context).and_then(|()| {
            dispatch::dispatch(self, message.function, Reader::new(message.args), &mut Results(reply))
        });
        if self.inside.is_some() {
            self.leave_turn();
        }
        outcome
    }

    /// There was no memory for a call, which has done nothing: the broker may make room, and it is made again.
    #[cold]
    pub fn with_room(&mut self, mut again: impl FnMut(&mut Self) -> Outcome) -> Outcome {
        for _ in 0..MOST_ATTEMPTS {
            let (limited, asked) = (self.limited.take(), self.asked.take());
            let device = self.device().unwrap_or(0);
            // Nobody can help one that asks for more than there is.
            if asked > self.total_memory(device) || self.client.make_room(device, limited).is_err() {
                return Err(error::OUT_OF_MEMORY);
            }
            if self.client.account.is_away() {
                self.client.account.await_presence(&AtomicBool::new(false));
            }
            let outcome = again(self);
            if outcome != Err(error::OUT_OF_MEMORY) {
                return outcome;
            }
        }
        Err(error::OUT_OF_MEMORY)
    }

    /// Bytes of the device; all that there can be if the driver does not tell.
    fn total_memory(&self, device: u32) -> u64 {
        let mut bytes = 0_usize;
        // SAFETY: a place that outlives the call.
        let known = self
            .driver
            .cuDeviceTotalMem_v2
            .is_some_and(|get| unsafe { get(&raw mut bytes, device.cast_signed()) } == 0);
        if known { bytes as u64 } else { u64::MAX }
    }
}

impl Executor for Thread {
    fn execute(&mut self, message: &Message<'_>, wants_reply: bool, reply: &mut Vec<u8>) -> u32 {
        self.comes(message.function);
        self.modes.enter(self.driver, message.thread);
        self.calls(false);
        let waits = dispatch::waits(message.function);
        match (waits, wants_reply) {
            (true, _) => {}
            (false, true) => self.settle_wait(),
            (false, false) => self.forget_unsettled(),
        }
        self.ends.begin(message.end.filter(|_| waits));
        let mut outcome = self.attempt(message, reply);
        if outcome == Err(error::OUT_OF_MEMORY) {
            outcome = self.with_room(|t| {
                reply.clear();
                t.attempt(message, reply)
            });
        }
        match outcome {
            Ok(()) => 0,
            Err(error) => {
                reply.clear();
                if !wants_reply {
                    tracing::debug!("{}: error {} is deferred", dispatch::name(message.function), error.0);
                }
                error.0
            }
        }
    }

    fn take_told(&mut self) -> bool {
        self.ends.take_told()
    }

    fn leave_page(&mut self) {
        self.ends.leave(self.driver);
    }

    fn hold(&mut self, message: &Message<'_>) -> bool {
        self.forget_unsettled();
        self.hold_launch(message.function, (message.thread, message.context), message.args)
    }

    fn issue(&mut self, failed: &mut Vec<(u32, u32)>) {
        self.issue_held(failed);
    }

    fn reply_flags(&mut self) -> u32 {
        if output::pending() { reply_flags::OUTPUT } else { 0 }
    }

    fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    fn rest(&mut self) {
        // The driver of one that is away does not come back before it is here again.
        if self.client.account.is_away() {
            return;
        }
        self.settle_wait();
        self.free_now();
    }
}

/// Makes the executor of a lane of `client`.
pub fn new_executor(client: &Arc<ClientState>, lane: u16) -> Box<dyn Executor> {
    tracing::debug!("lane {lane}: executor starts");
    let Some(driver) = driver::get() else {
        return Box::new(NoDriver);
    };
    snapshot::enter_first_context(driver);
    let session = client.session(|| Session::new(driver));
    Box::new(Thread {
        session,
        client: Arc::clone(client),
        driver,
        context: 0,
        modes: Modes::default(),
        work: Work::default(),
        epoch: 0,
        known_current: Cell::default(),
        waits: Waits::default(),
        ends: Ends::default(),
        batch: Batch::default(),
        spare: Spare::default(),
        calls_kernel: Cell::new(false),
        inside: None,
        asked: Cell::new(0),
        limited: Cell::new(false),
    })
}

/// Stands in when CUDA was never loaded, which start-up excludes.
struct NoDriver;

impl Executor for NoDriver {
    fn execute(&mut self, _: &Message<'_>, _: bool, _: &mut Vec<u8>) -> u32 {
        error::NOT_INITIALIZED.0
    }

    fn take_told(&mut self) -> bool {
        false
    }

    fn leave_page(&mut self) {}

    fn hold(&mut self, _: &Message<'_>) -> bool {
        false
    }

    fn issue(&mut self, _: &mut Vec<(u32, u32)>) {}

    fn reply_flags(&mut self) -> u32 {
        0
    }

    fn take_work(&mut self) -> Work {
        Work::default()
    }

    fn rest(&mut self) {}
}
