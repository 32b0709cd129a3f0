//! A second process for `sandbox-check`, confined as the first: what processes share by IPC crosses between two workers.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Sandbox, SandboxArgs};
use crate::link::message::{Header, kind};
use crate::link::{Link, wait_readable};
use crate::log::chain;
use crate::worker::api::{self, Exported};

/// For the other process to load CUDA and to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The other process, and the link to it.
pub struct Peer {
    link: Link,
}

impl Peer {
    /// Executes this program again with the same arguments. To be called before this process is confined.
    pub fn start() -> Result<Self, String> {
        let failed = |what: &str, error: &dyn std::error::Error| format!("{what}: {}", chain(error));
        let (ours, theirs) = Link::pair().map_err(|e| chain(&e))?;
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
            .map_err(|e| failed("passing a link on", &e))?;
        // It ends when the link does: this process will not be allowed to end it.
        Command::new("/proc/self/exe")
            .args(std::env::args_os().skip(1))
            .args(["--peer", &theirs.as_fd().as_raw_fd().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| failed("executing a second process", &e))?;
        Ok(Peer { link: ours })
    }

    /// Has it open what this process makes.
    pub fn try_ipc(&self) -> Result<(), String> {
        let exported = api::export()?;
        let body = [exported.memory, exported.event].concat();
        let header = Header { kind: kind::SHARE, ..Header::default() };
        self.link.send(header, &body, &[]).map_err(|e| chain(&e))?;
        match wait_readable(self.link.as_fd(), Some(PATIENCE)) {
            Ok(true) => {}
            Ok(false) => return Err(format!("the other process does not answer within {PATIENCE:?}")),
            Err(error) => return Err(error.to_string()),
        }
        let answer = self.link.receive().map_err(|e| format!("the other process: {}", chain(&e)))?;
        if answer.body.is_empty() { Ok(()) } else { Err(crate::log::printable(&answer.body)) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.link.shutdown();
    }
}

/// Is the second process: `link` is a descriptor of its own.
pub fn run(link: RawFd, args: &SandboxArgs, folders: &[std::path::PathBuf]) -> Result<(), String> {
    // SAFETY: the first process passes the number of a descriptor that nobody else here owns.
    let link = Link::from_fd(unsafe { OwnedFd::from_raw_fd(link) });
    let answer = |text: &str| {
        let header = Header { kind: kind::REPLY, ..Header::default() };
        link.send(header, text.as_bytes(), &[]).map_err(|e| chain(&e))
    };
    let prepared = prepare(args, folders);
    // Nothing is asked if there is nothing to ask.
    let Ok(packet) = link.receive() else { return Ok(()) };
    let opened = prepared.and_then(|()| {
        let (memory, event) = packet.body.split_first_chunk().ok_or("a malformed message")?;
        let event = event.try_into().map_err(|_| "a malformed message")?;
        api::import(&Exported { memory: *memory, event })
    });
    answer(&opened.err().unwrap_or_default())?;
    // What it has opened lasts until the first process has seen the answer.
    let _ = link.receive();
    Ok(())
}

fn prepare(args: &SandboxArgs, folders: &[std::path::PathBuf]) -> Result<(), String> {
    let mut sandbox = Sandbox::enter(args, folders).map_err(|e| chain(&e))?;
    api::warm_up()?;
    sandbox.close().map_err(|e| chain(&e))
}
