//! A helper: a process beside the workers that answers the broker's requests, one at a time.

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use super::message::{Header, kind};
use super::{Link, LinkError, Packet};
use crate::log::chain;

/// The link that the broker handed to this process; `None`, with a line on stderr, if `fd` is none.
pub fn adopt(who: &str, fd: i32) -> Option<Link> {
    // SAFETY: the broker passes the descriptor's number and nobody else in this process owns it.
    let link = Link::from_fd(unsafe { OwnedFd::from_raw_fd(fd) });
    if rustix::io::fcntl_setfd(&link, rustix::io::FdFlags::CLOEXEC).is_err() {
        eprintln!("vgpu-backend {who}: descriptor {fd} is no link to a broker");
        return None;
    }
    Some(link)
}

/// Runs until the broker is gone: says that it is ready, or why it is not, and answers with a status and a body.
pub fn run<T, E: std::error::Error>(
    who: &str,
    fd: i32,
    open: impl FnOnce() -> Result<T, E>,
    mut answer: impl FnMut(&mut T, &Packet) -> (u32, Vec<u8>),
) -> ExitCode {
    crate::log::set_prefix(format!("{who}: "));
    let Some(link) = adopt(who, fd) else { return ExitCode::FAILURE };
    let mut opened = match open() {
        Ok(opened) => opened,
        Err(error) => {
            let header = Header { kind: kind::FAILED, ..Header::default() };
            let _ = link.send(header, chain(&error).as_bytes(), &[]);
            return ExitCode::SUCCESS;
        }
    };
    let header = Header { kind: kind::READY, ..Header::default() };
    if let Err(error) = link.send(header, &[], &[]) {
        tracing::error!("saying ready: {}", chain(&error));
        return ExitCode::FAILURE;
    }
    loop {
        match link.receive() {
            Ok(packet) => {
                let (status, body) = answer(&mut opened, &packet);
                let header = Header { kind: kind::REPLY, seq: packet.header.seq, status, len: 0 };
                if let Err(error) = link.send(header, &body, &[]) {
                    tracing::error!("answering the broker: {}", chain(&error));
                    return ExitCode::FAILURE;
                }
            }
            Err(LinkError::Closed) => return ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("the link to the broker failed: {}", chain(&error));
                return ExitCode::FAILURE;
            }
        }
    }
}
