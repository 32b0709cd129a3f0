//! Files that clients export: each is a socket pair, of which the program has one end and this agent the other. The program's end holds
//! a ticket with the file's token; when all its copies are closed, this end hangs up, and the broker drops the file.

use crate::service::Service;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use vgpu_spec::wire::share::{TICKET_MAGIC, Ticket, Token};
use zerocopy::IntoBytes;

/// Ends taken from the kernel at a time.
const EVENTS: usize = 32;

/// The ends of all exported files. How many there can be is the broker's limit: only kept files have one.
#[derive(Debug, Default)]
pub struct Shares {
    epoll: OnceLock<OwnedFd>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ends: HashMap<u64, (Token, OwnedFd)>,
    last: u64,
}

impl Shares {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor for a file that the broker keeps, which is dropped when all copies of the descriptor are closed.
    pub fn hold(service: &Arc<Service>, token: Token) -> io::Result<OwnedFd> {
        let shares = service.shares();
        let mut held = shares.held();
        if shares.epoll.get().is_none() {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let (watched, weak) = (rustix::io::fcntl_dupfd_cloexec(&epoll, 0)?, Arc::downgrade(service));
            std::thread::Builder::new().name("shares".into()).spawn(move || watch(&watched, &weak))?;
            let _ = shares.epoll.set(epoll);
        }
        let Some(epoll) = shares.epoll.get() else { return Err(io::ErrorKind::Other.into()) };
        let (ours, theirs) = pair(token)?;
        held.last += 1;
        let number = held.last;
        // No event is asked for: the end of the other side is always told.
        epoll::add(epoll, &ours, EventData::new_u64(number), EventFlags::empty())?;
        held.ends.insert(number, (token, ours));
        Ok(theirs)
    }

    /// How many files are held.
    pub fn count(&self) -> usize {
        self.held().ends.len()
    }
}

/// This agent's end and the program's, in which the ticket lies.
fn pair(token: Token) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let ticket = Ticket { magic: TICKET_MAGIC, token };
    rustix::net::send(&ours, ticket.as_bytes(), SendFlags::NOSIGNAL)?;
    // Nothing that holders of the other end send is kept here.
    rustix::net::shutdown(&ours, Shutdown::Read)?;
    Ok((ours, theirs))
}

/// Drops files until the agent ends.
fn watch(epoll: &OwnedFd, service: &Weak<Service>) {
    let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
    loop {
        let ended: Vec<u64> = match epoll::wait(epoll, &mut space, None) {
            Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::error!("waiting for the end of exported files: {error}");
                return;
            }
        };
        let Some(service) = service.upgrade() else { return };
        for number in ended {
            // Closing the end takes it out of the set.
            let Some((token, _)) = service.shares().held().ends.remove(&number) else { continue };
            drop_file(&service, token);
        }
    }
}

/// Has the broker drop a kept file.
pub fn drop_file(service: &Service, token: Token) {
    if let Err(error) = service.control().share_drop(token) {
        tracing::warn!("dropping an exported file: {}", crate::error::chain(&error));
        if error.status().is_none() {
            service.fail(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::RecvFlags;

    #[test]
    fn the_ticket_stays_for_all_who_look_and_nothing_can_be_sent_back() {
        let token = Token { low: 5, high: 6 };
        let (ours, theirs) = pair(token).unwrap();
        for _ in 0..3 {
            let mut bytes = [0; 64];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (_, len) = rustix::net::recv(&theirs, &mut bytes[..], flags).unwrap();
            assert_eq!(&bytes[..len], Ticket { magic: TICKET_MAGIC, token }.as_bytes());
        }
        let sent = rustix::net::send(&theirs, b"x", SendFlags::NOSIGNAL);
        assert_eq!(sent, Err(rustix::io::Errno::PIPE));
        drop(ours);
    }
}
