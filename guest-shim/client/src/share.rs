//! Descriptors that stand for files which a process has exported: sockets of the agent's, in which a ticket lies.

use rustix::fd::{BorrowedFd, RawFd};
use rustix::net::RecvFlags;
use vgpu_spec::wire::share::{TICKET_MAGIC, Ticket, Token};
use zerocopy::FromBytes;

/// The token of the file that `fd` stands for; `None` for any other descriptor, and for what is none.
pub fn token_of(fd: RawFd) -> Option<Token> {
    if fd < 0 {
        return None;
    }
    // SAFETY: used for one system call, which fails for a number that is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // One byte more than a ticket has, so that a longer packet is seen as such. The ticket stays for others.
    let mut bytes = [0; size_of::<Ticket>() + 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, len) = rustix::io::retry_on_intr(|| rustix::net::recv(fd, &mut bytes[..], flags)).ok()?;
    let ticket = Ticket::read_from_bytes(bytes.get(..len)?).ok()?;
    (ticket.magic == TICKET_MAGIC).then_some(ticket.token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsRawFd;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
    use zerocopy::IntoBytes;

    #[test]
    fn only_a_ticket_has_a_token() {
        let pair = || {
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap()
        };
        let token = Token { low: 3, high: 4 };
        let good = Ticket { magic: TICKET_MAGIC, token };
        let wrong = Ticket { magic: 7, token };
        let longer = [good.as_bytes(), &[0]].concat();
        for (packet, want) in
            [(good.as_bytes(), Some(token)), (wrong.as_bytes(), None), (&longer[..], None), (b"x", None)]
        {
            let (a, b) = pair();
            rustix::net::send(&a, packet, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(token_of(b.as_raw_fd()), want);
            assert_eq!(token_of(b.as_raw_fd()), want, "it stays");
        }
        let (empty, _other) = pair();
        assert_eq!(token_of(empty.as_raw_fd()), None);
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        assert_eq!(token_of(pipe.as_raw_fd()), None);
        assert_eq!(token_of(-1), None);
        assert_eq!(token_of(1 << 20), None);
    }
}
