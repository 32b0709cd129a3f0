//! What this process shares with others of its VM, by token (PROTOCOL.md 18), and the descriptors that stand for tokens.

use crate::{calls, client, error};
use std::{
    collections::{HashMap, VecDeque},
    ffi::c_void,
    os::fd::{IntoRawFd, RawFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use vgpu_spec::wire::share::Token;

/// CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.
pub const FILE_DESCRIPTOR: u32 = 1;

/// What is shared until it ends: memory by its first address, or an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thing {
    Memory(u64),
    Event(u64),
}

/// Tokens of what ended that are still known: until then, the driver says itself what becomes of them.
const LATE: usize = 256;

#[derive(Default)]
struct State {
    tokens: HashMap<Thing, Vec<Token>>,
    ended: VecDeque<Token>,
}

static SHARED: Mutex<Option<State>> = Mutex::new(None);
/// Set once something is shared, so that others pay nothing.
static ANY: AtomicBool = AtomicBool::new(false);

fn shared() -> MutexGuard<'static, Option<State>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that a token names `thing`.
pub fn remember(thing: Thing, token: Token) {
    let mut shared = shared();
    ANY.store(true, Ordering::Release);
    let state = shared.get_or_insert_with(State::default);
    // The driver gives the handle of what ended again.
    state.ended.retain(|&ended| ended != token);
    let tokens = state.tokens.entry(thing).or_default();
    if !tokens.contains(&token) {
        tokens.push(token);
    }
}

/// `thing` ends with the message after this one: its shares are taken back some time later.
pub fn withdraw(thing: Thing) {
    if !ANY.load(Ordering::Acquire) {
        return;
    }
    let mut shared = shared();
    let Some(state) = shared.as_mut() else { return };
    let Some(tokens) = state.tokens.remove(&thing) else { return };
    state.ended.extend(tokens);
    while state.ended.len() > LATE
        && let Some(token) = state.ended.pop_front()
    {
        let _ = calls::vgpuUnshare(token.low, token.high);
    }
}

/// A token from the two halves that a call gives.
pub fn token(ask: impl FnOnce(&mut u64, &mut u64) -> error::Result) -> error::Result<Token> {
    let mut token = Token::default();
    ask(&mut token.low, &mut token.high)?;
    Ok(token)
}

/// Writes a new descriptor for the file that `token` names to the program's `place`; without one, the share is taken back.
///
/// # Safety
/// `place` is the program's int.
pub unsafe fn put_descriptor(place: *mut c_void, token: Token) -> error::Result {
    match client::get()?.lanes.connection().share_fd(token) {
        Ok(file) => {
            // SAFETY: the caller's promise.
            unsafe { place.cast::<RawFd>().write_unaligned(file.into_raw_fd()) };
            Ok(())
        }
        Err(e) => {
            vgpu_client::warn!("{e}{}", error::sources(&e));
            let _ = calls::vgpuUnshare(token.low, token.high);
            Err(error::OPERATING_SYSTEM)
        }
    }
}

/// The token of a program's descriptor, which the API passes as a pointer.
pub fn token_of_descriptor(descriptor: *mut c_void) -> Option<Token> {
    // The driver takes the lower half, too.
    let number = (descriptor.expose_provenance() as u32).cast_signed();
    vgpu_client::share::token_of(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_remembered_once_and_per_thing() {
        let token = Token { low: 1, high: 2 };
        let thing = Thing::Memory(0xabc000);
        remember(thing, token);
        remember(thing, token);
        remember(Thing::Event(0xabc000), token);
        let known = |thing| shared().as_ref().and_then(|all| all.tokens.get(&thing).map(Vec::len));
        let ended = || shared().as_ref().map_or(0, |all| all.ended.len());
        assert_eq!((known(thing), known(Thing::Event(0xabc000))), (Some(1), Some(1)));
        withdraw(thing);
        assert_eq!((known(thing), known(Thing::Event(0xabc000))), (None, Some(1)));
        assert_eq!(ended(), 1);
        remember(thing, token);
        assert_eq!(ended(), 0, "it is used again");
    }
}
