//! What lane threads ask of the broker: to keep what this client shares, and to hand out what others of its VM do.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgpu_spec::wire::share::Token;
use zerocopy::{FromBytes, IntoBytes};

use crate::link::message::{Fetch, Header, Room, Share, Shared, kind, share_kind, status};
use crate::link::{Link, LinkError, Packet};

/// For the broker, which only looks into a table.
const PATIENCE: Duration = Duration::from_secs(20);
/// For other VMs to be moved: longer than the broker tries.
const ROOM_PATIENCE: Duration = Duration::from_secs(600);

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    #[error("sharing with other processes of the VM: the VM shares as much as it may")]
    Limit,
    #[error("looking up what another process shares: the token is not known in this VM")]
    Unknown,
    #[error("looking up what another process shares: that process is gone")]
    Gone,
    #[error("asking the broker: no answer within {0:?}")]
    Timeout(Duration),
    #[error("no VM can be moved off the device")]
    NoRoom,
    #[error("asking the broker: its answer is malformed")]
    Malformed,
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The link to the broker, for requests of this side.
#[derive(Debug)]
pub struct Broker {
    link: Arc<Link>,
    next_seq: AtomicU32,
    waiting: Mutex<HashMap<u32, SyncSender<Packet>>>,
}

impl Broker {
    pub fn new(link: Arc<Link>) -> Self {
        Broker { link, next_seq: AtomicU32::new(1), waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, SyncSender<Packet>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an answer that the control thread has received.
    pub fn answered(&self, packet: Packet) {
        let waiter = self.waiting().remove(&packet.header.seq);
        if let Some(waiter) = waiter {
            let _ = waiter.try_send(packet);
        }
    }

    fn request(&self, kind: u32, body: &[u8], file: Option<&OwnedFd>) -> Result<Packet, ShareError> {
        self.request_for(kind, body, file, PATIENCE)
    }

    fn request_for(
        &self,
        kind: u32,
        body: &[u8],
        file: Option<&OwnedFd>,
        patience: Duration,
    ) -> Result<Packet, ShareError> {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        self.waiting().insert(seq, sender);
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        let answer = match self.link.send(Header { kind, seq, ..Header::default() }, body, &fds) {
            Ok(()) => receiver.recv_timeout(patience).map_err(|_| ShareError::Timeout(patience)),
            Err(error) => Err(error.into()),
        };
        self.waiting().remove(&seq);
        let answer = answer?;
        match answer.header.status {
            0 => Ok(answer),
            status::SHARE_LIMIT => Err(ShareError::Limit),
            status::NO_ROOM => Err(ShareError::NoRoom),
            status::SHARE_GONE => Err(ShareError::Gone),
            _ => Err(ShareError::Unknown),
        }
    }

    /// Shares the driver's handle `data` with the VM.
    pub fn share_handle(&self, kind: u32, data: [u8; 64]) -> Result<Token, ShareError> {
        let share = Share { kind, reserved: 0, shared: Shared { tag: 0, data } };
        let answer = self.request(kind::SHARE, share.as_bytes(), None)?;
        Token::read_from_bytes(&answer.body).map_err(|_| ShareError::Malformed)
    }

    /// Shares a descriptor that the driver made, and a number that goes with it.
    pub fn share_file(&self, kind: u32, tag: u64, file: &OwnedFd) -> Result<Token, ShareError> {
        let share = Share { kind, reserved: 0, shared: Shared { tag, data: [0; 64] } };
        let answer = self.request(kind::SHARE, share.as_bytes(), Some(file))?;
        Token::read_from_bytes(&answer.body).map_err(|_| ShareError::Malformed)
    }

    fn fetch(&self, kind: u32, token: Token) -> Result<(Shared, Option<OwnedFd>), ShareError> {
        let fetch = Fetch { token, kind, reserved: 0 };
        let mut answer = self.request(kind::FETCH, fetch.as_bytes(), None)?;
        let shared = Shared::read_from_bytes(&answer.body).map_err(|_| ShareError::Malformed)?;
        Ok((shared, answer.fds.pop()))
    }

    /// The driver's handle that a token names.
    pub fn fetch_handle(&self, kind: u32, token: Token) -> Result<[u8; 64], ShareError> {
        Ok(self.fetch(kind, token)?.0.data)
    }

    /// The number and the descriptor that a token names.
    pub fn fetch_file(&self, kind: u32, token: Token) -> Result<(u64, OwnedFd), ShareError> {
        debug_assert!(share_kind::FILES.contains(&kind));
        match self.fetch(kind, token)? {
            (shared, Some(file)) => Ok((shared.tag, file)),
            _ => Err(ShareError::Malformed),
        }
    }

    /// Has room made on a full device of the host, or, if `limited`, below the VM's limit. Waits for that, which takes seconds.
    pub fn make_room(&self, device: u32, limited: bool) -> Result<(), ShareError> {
        let room = Room { device, limited: limited.into() };
        self.request_for(kind::ROOM, room.as_bytes(), None, ROOM_PATIENCE).map(drop)
    }

    /// Takes back what this client has shared.
    pub fn unshare(&self, token: Token) -> Result<(), ShareError> {
        let header = Header { kind: kind::UNSHARE, ..Header::default() };
        Ok(self.link.send(header, token.as_bytes(), &[])?)
    }
}
