//! The border between lanes (which know nothing of CUDA) and the API (which knows nothing of rings).

use std::sync::{Arc, OnceLock};

use super::account::Account;
use super::api::{End, Session};
use super::broker_link::{Broker, ShareError};
use super::deps::LaneTable;
use super::windows::Windows;

/// One message, checked and copied out of the guest's memory.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Which function: `vgpu_spec::wire::lane::function_id`.
    pub function: u32,
    /// The guest thread, as a number of the client's own.
    pub thread: u32,
    /// Index of the handle of the thread's current context, or 0.
    pub context: u32,
    pub flags: u16,
    /// Where the program looks for the end, if at the reply's header.
    pub end: Option<End<'a>>,
    /// What follows the header and the dependencies.
    pub args: &'a [u8],
}

/// What an executor has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Kernels and graphs.
    pub launches: u64,
    /// Bytes of copies between host and device.
    pub to_device: u64,
    pub from_device: u64,
}

/// Executes messages. One per lane thread, made on that thread.
pub trait Executor {
    /// Executes one message and returns its CUresult. If `wants_reply`, `reply` (empty at entry) gets the reply's body;
    /// otherwise a result other than 0 becomes the lane's deferred error.
    fn execute(&mut self, message: &Message<'_>, wants_reply: bool, reply: &mut Vec<u8>) -> u32;

    /// Whether the program was told already that the call executed last went well, in the place that its message names; then there is no reply
    /// to write.
    fn take_told(&mut self) -> bool;

    /// The lane's page is about to be unmapped.
    fn leave_page(&mut self);

    /// Takes a message without reply, to be issued later together with those taken before it. False if it is to be executed by itself, after
    /// them.
    fn hold(&mut self, message: &Message<'_>) -> bool;

    /// Issues what is held, in its order; adds function and CUresult of each that failed.
    fn issue(&mut self, failed: &mut Vec<(u32, u32)>);

    /// Flags (`reply_flags`) for the reply that is about to be written.
    fn reply_flags(&mut self) -> u32;

    /// There was nothing to do for a moment.
    fn rest(&mut self);

    /// What it has done since it was last asked.
    fn take_work(&mut self) -> Work;
}

/// What all lanes of a client share.
pub struct ClientState {
    /// The guest process's name and process id, for logs.
    pub name: String,
    pub pid: u32,
    /// Guest memory at the guest process's addresses.
    pub windows: Windows,
    /// How far each lane is.
    pub lanes: LaneTable,
    /// For what is shared with other clients of the VM.
    pub broker: Arc<Broker>,
    /// What it does and uses, for the broker to see.
    pub account: Account,
    session: OnceLock<Arc<Session>>,
}

impl ClientState {
    pub fn new(name: String, pid: u32, broker: Arc<Broker>, account: Account) -> Self {
        ClientState {
            name,
            pid,
            windows: Windows::default(),
            lanes: LaneTable::default(),
            broker,
            account,
            session: OnceLock::new(),
        }
    }

    /// Has room made on a full device, or, if `limited`, below the VM's limit. Waits for that, which takes seconds.
    pub fn make_room(&self, ordinal: u32, limited: bool) -> Result<(), ShareError> {
        self.broker.make_room(self.account.host_ordinal(ordinal).unwrap_or(u32::MAX), limited)
    }

    /// The API's state of this client, made by the first caller.
    pub fn session(&self, make: impl FnOnce() -> Session) -> Arc<Session> {
        Arc::clone(self.session.get_or_init(|| Arc::new(make())))
    }
}
