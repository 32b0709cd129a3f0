//! What clients of a VM share with each other: the driver's handles and descriptors by token (PROTOCOL.md 18).
//!
//! SECURITY: each VM has a table of its own, so a token means nothing elsewhere. Workers are hostile: what they give is bounded in number
//! and size and never looked at, and ends with their client unless the agent has it kept.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vgpu_spec::wire::share::Token;
use zerocopy::{FromBytes, IntoBytes};

use super::lock;
use super::vm::Vm;
use crate::link::Packet;
use crate::link::message::{Fetch, Share, Shared, kind, share_kind, status};

/// The most shares of a VM.
pub const MAX_SHARES: usize = 4096;
/// The most of them that are files: each is a descriptor of the broker, and one of the agent once it is kept.
pub const MAX_FILES: usize = 1024;
/// Tokens of memory whose process is gone that are still told from those that never were.
const MAX_GONE: usize = 1024;

/// Why something is not shared, kept or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    #[error("sharing: the VM has {MAX_SHARES} shares")]
    Shares,
    #[error("sharing a file: the VM shares {MAX_FILES} files")]
    Files,
    #[error("sharing: the system has no random numbers")]
    Random,
    #[error("the token names no file that could be kept or dropped")]
    Token,
}

/// What a token names.
#[derive(Debug)]
struct Entry {
    /// The client with which it ends; none for a file that is kept.
    owner: Option<u32>,
    /// The client that made it.
    maker: u32,
    /// A number for what a client left when it ended; 0 before.
    left: u64,
    kind: u32,
    shared: Shared,
    file: Option<Arc<OwnedFd>>,
}

/// What clients of one VM share.
#[derive(Debug, Default)]
pub struct Shares {
    entries: HashMap<Token, Entry>,
    files: usize,
    gone: VecDeque<Token>,
    last_left: u64,
}

impl Shares {
    /// Takes what `owner` shares. The same handle again has the same token.
    pub fn insert(
        &mut self,
        owner: u32,
        kind: u32,
        shared: Shared,
        file: Option<OwnedFd>,
    ) -> Result<Token, ShareError> {
        if file.is_none() {
            let known = self.entries.iter().find(|(_, e)| {
                e.owner == Some(owner) && e.kind == kind && e.file.is_none() && e.shared == shared
            });
            if let Some((token, _)) = known {
                return Ok(*token);
            }
        }
        if self.entries.len() >= MAX_SHARES {
            return Err(ShareError::Shares);
        }
        if file.is_some() && self.files >= MAX_FILES {
            return Err(ShareError::Files);
        }
        let token = self.new_token()?;
        self.files += usize::from(file.is_some());
        let file = file.map(Arc::new);
        self.entries.insert(token, Entry { owner: Some(owner), maker: owner, left: 0, kind, shared, file });
        Ok(token)
    }

    fn new_token(&self) -> Result<Token, ShareError> {
        let mut token = Token::default();
        // The null token stands for none. Anything else is never met twice.
        while token == Token::default() || self.entries.contains_key(&token) {
            random(token.as_mut_bytes())?;
        }
        Ok(token)
    }

    /// What a token names, if it is of that kind.
    pub fn get(&self, token: Token, kind: u32) -> Option<(Shared, Option<Arc<OwnedFd>>)> {
        let entry = self.entries.get(&token).filter(|e| e.kind == kind)?;
        Some((entry.shared, entry.file.clone()))
    }

    /// Ends a share of `owner`; others' are left alone.
    pub fn withdraw(&mut self, owner: u32, token: Token) {
        if self.entries.get(&token).is_some_and(|e| e.owner == Some(owner)) {
            self.remove(token);
        }
    }

    /// Keeps the file that `owner` shared, from now on without it.
    pub fn keep(&mut self, owner: u32, token: Token) -> Result<(), ShareError> {
        let entry = self.entries.get_mut(&token).filter(|e| e.owner == Some(owner) && e.file.is_some());
        entry.ok_or(ShareError::Token)?.owner = None;
        Ok(())
    }

    /// Ends a file that was kept.
    pub fn drop_kept(&mut self, token: Token) -> Result<(), ShareError> {
        let entry = self.entries.get(&token).filter(|e| e.owner.is_none() && e.file.is_some());
        let left = entry.ok_or(ShareError::Token)?.left;
        self.remove(token);
        // Memory of a pool whose process is gone goes with the last file of that process's pools.
        let is_last = !self.entries.values().any(|e| e.left == left && e.kind == share_kind::POOL);
        if left != 0 && is_last {
            self.entries.retain(|_, e| e.left != left || e.kind != share_kind::POOL_MEMORY);
        }
        Ok(())
    }

    /// Ends what a client has shared and nobody keeps. As natively, memory of a pool outlives its process while a file of the pool is kept.
    ///
    /// SECURITY: other handles name the worker by its process id, and would lead to another VM's worker that gets that id some day.
    pub fn forget_client(&mut self, owner: u32) {
        self.last_left += 1;
        let mine = |e: &Entry| e.maker == owner && e.left == 0;
        let keeps_pool =
            self.entries.values().any(|e| mine(e) && e.owner.is_none() && e.kind == share_kind::POOL);
        let (gone, left) = (&mut self.gone, self.last_left);
        self.entries.retain(|token, e| {
            if !mine(e) {
                return true;
            }
            let stays = e.owner.is_none() || (e.kind == share_kind::POOL_MEMORY && keeps_pool);
            (e.owner, e.left) = (None, left);
            if !stays && e.kind == share_kind::MEMORY {
                gone.push_back(*token);
            }
            stays
        });
        self.gone.drain(..self.gone.len().saturating_sub(MAX_GONE));
        self.files = self.entries.values().filter(|e| e.file.is_some()).count();
    }

    /// Whether a token named memory of a process that is gone.
    fn is_gone(&self, token: Token) -> bool {
        self.gone.contains(&token)
    }

    fn remove(&mut self, token: Token) {
        if let Some(entry) = self.entries.remove(&token) {
            self.files -= usize::from(entry.file.is_some());
        }
    }
}

/// Fills `bytes` with random numbers of the kernel's.
fn random(bytes: &mut [u8]) -> Result<(), ShareError> {
    // SAFETY: writes at most the slice's length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) { Ok(()) } else { Err(ShareError::Random) }
}

/// An answer to a worker: status, body, descriptor.
pub struct Answer {
    pub status: u32,
    pub body: Vec<u8>,
    pub file: Option<Arc<OwnedFd>>,
}

impl Answer {
    fn refused(status: u32) -> Self {
        Answer { status, body: Vec::new(), file: None }
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.file.iter().map(|file| file.as_fd()).collect()
    }
}

/// What a worker asked, or that it broke the protocol.
pub enum Asked {
    Answer(Answer),
    /// Nothing is to be answered.
    Nothing,
    Broken,
}

/// What a worker asks, decoded.
#[derive(Debug)]
pub enum Request {
    Share { kind: u32, shared: Shared, file: Option<OwnedFd> },
    Fetch { kind: u32, token: Token },
    Unshare(Token),
}

impl Request {
    /// `None` if it breaks the protocol: sizes are exact, and a file comes with what is one, and with nothing else.
    pub fn parse(packet: Packet) -> Option<Self> {
        let mut fds = packet.fds;
        match packet.header.kind {
            kind::SHARE => {
                let request = Share::read_from_bytes(&packet.body).ok()?;
                let is_file = share_kind::FILES.contains(&request.kind);
                let is_known = is_file || share_kind::HANDLES.contains(&request.kind);
                let fits = fds.len() == usize::from(is_file);
                (is_known && fits).then(|| Request::Share {
                    kind: request.kind,
                    shared: request.shared,
                    file: fds.pop(),
                })
            }
            kind::FETCH => {
                let request = Fetch::read_from_bytes(&packet.body).ok()?;
                Some(Request::Fetch { kind: request.kind, token: request.token })
            }
            kind::UNSHARE => Token::read_from_bytes(&packet.body).ok().map(Request::Unshare),
            _ => None,
        }
    }
}

/// Answers the worker `pid` of client `number`.
pub fn serve(vm: &Vm, number: u32, pid: u32, packet: Packet) -> Asked {
    let Some(request) = Request::parse(packet) else { return Asked::Broken };
    let state = &mut *lock(&vm.state);
    // A client that ends shares nothing any more: its shares are ended already.
    let alive =
        state.clients.get(&number).is_some_and(|c| c.worker.pid == pid && !c.lost && c.closing.is_none());
    match request {
        Request::Share { .. } if !alive => Asked::Answer(Answer::refused(status::NO_SHARE)),
        Request::Share { kind, shared, file } => {
            Asked::Answer(match state.shares.insert(number, kind, shared, file) {
                Ok(token) => Answer { status: 0, body: token.as_bytes().to_vec(), file: None },
                Err(error) => {
                    vm.complain(&error);
                    Answer::refused(status::SHARE_LIMIT)
                }
            })
        }
        Request::Fetch { kind, token } => {
            let found = if alive { state.shares.get(token, kind) } else { None };
            Asked::Answer(match found {
                Some((shared, file)) => Answer { status: 0, body: shared.as_bytes().to_vec(), file },
                None if kind == share_kind::MEMORY && state.shares.is_gone(token) => {
                    Answer::refused(status::SHARE_GONE)
                }
                None => Answer::refused(status::NO_SHARE),
            })
        }
        Request::Unshare(token) => {
            state.shares.withdraw(number, token);
            Asked::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(byte: u8) -> Shared {
        Shared { tag: 0, data: [byte; 64] }
    }

    fn file() -> OwnedFd {
        rustix::pipe::pipe().unwrap().0
    }

    const MEMORY: u32 = share_kind::MEMORY;
    const ALLOCATION: u32 = share_kind::ALLOCATION;

    #[test]
    fn a_handle_has_one_token_and_is_found_by_its_kind_only() {
        let mut shares = Shares::default();
        let token = shares.insert(1, MEMORY, shared(1), None).unwrap();
        assert_eq!(shares.insert(1, MEMORY, shared(1), None), Ok(token));
        let others = [shares.insert(2, MEMORY, shared(1), None), shares.insert(1, MEMORY, shared(2), None)];
        assert!(others.iter().all(|t| t.is_ok_and(|t| t != token)));
        assert_eq!(shares.get(token, MEMORY).map(|(s, f)| (s, f.is_some())), Some((shared(1), false)));
        assert!(shares.get(token, share_kind::EVENT).is_none());
        assert!(Shares::default().get(token, MEMORY).is_none(), "another VM does not know it");
        shares.withdraw(2, token);
        assert!(shares.get(token, MEMORY).is_some(), "another client's");
        shares.withdraw(1, token);
        assert!(shares.get(token, MEMORY).is_none());
    }

    #[test]
    fn a_kept_file_outlives_its_client_and_nothing_else_does() {
        let mut shares = Shares::default();
        let kept = shares.insert(1, ALLOCATION, shared(1), Some(file())).unwrap();
        let ends = shares.insert(1, ALLOCATION, shared(1), Some(file())).unwrap();
        let memory = shares.insert(1, MEMORY, shared(1), None).unwrap();
        assert_ne!(kept, ends, "each export is a file of its own");
        assert_eq!(shares.keep(2, kept), Err(ShareError::Token));
        assert_eq!(shares.keep(1, memory), Err(ShareError::Token));
        assert_eq!(shares.drop_kept(kept), Err(ShareError::Token), "not kept yet");
        assert_eq!(shares.keep(1, kept), Ok(()));
        assert_eq!(shares.keep(1, kept), Err(ShareError::Token));
        shares.withdraw(1, kept);
        shares.forget_client(1);
        assert!(shares.get(kept, ALLOCATION).is_some_and(|(_, f)| f.is_some()));
        assert!(shares.get(ends, ALLOCATION).is_none() && shares.get(memory, MEMORY).is_none());
        assert_eq!(shares.drop_kept(kept), Ok(()));
        assert_eq!((shares.entries.len(), shares.files), (0, 0));
        assert!(shares.is_gone(memory) && !shares.is_gone(kept));
    }

    #[test]
    fn memory_of_a_pool_lives_as_long_as_a_kept_file_of_its_pool() {
        let (pool, memory) = (share_kind::POOL, share_kind::POOL_MEMORY);
        let mut shares = Shares::default();
        let files: Vec<Token> =
            (0..2).map(|_| shares.insert(1, pool, shared(0), Some(file())).unwrap()).collect();
        let pooled = shares.insert(1, memory, shared(1), None).unwrap();
        files.iter().for_each(|&f| shares.keep(1, f).unwrap());
        shares.forget_client(1);
        // The next client of that number has nothing to do with it.
        let other = shares.insert(1, memory, shared(2), None).unwrap();
        shares.forget_client(1);
        assert!(shares.get(other, memory).is_none(), "its pool is not kept");
        assert_eq!(shares.drop_kept(pooled), Err(ShareError::Token), "no file");
        shares.drop_kept(files[0]).unwrap();
        assert!(shares.get(pooled, memory).is_some());
        shares.drop_kept(files[1]).unwrap();
        assert!(shares.get(pooled, memory).is_none() && shares.entries.is_empty());
    }

    #[test]
    fn shares_are_limited_and_room_comes_back() {
        let mut shares = Shares::default();
        for i in 0..MAX_SHARES as u64 {
            shares.insert(1, MEMORY, Shared { tag: i, data: [0; 64] }, None).unwrap();
        }
        assert_eq!(shares.insert(2, MEMORY, shared(1), None), Err(ShareError::Shares));
        shares.forget_client(1);
        assert!(shares.insert(2, MEMORY, shared(1), None).is_ok());
        let file = file();
        let mut last = None;
        shares.files = MAX_FILES - 1;
        for want in [true, false] {
            let made = shares.insert(2, ALLOCATION, shared(1), Some(file.try_clone().unwrap()));
            assert_eq!(made.is_ok(), want);
            last = last.or(made.ok());
        }
        shares.withdraw(2, last.unwrap());
        assert!(shares.insert(2, ALLOCATION, shared(1), Some(file)).is_ok());
    }
}
