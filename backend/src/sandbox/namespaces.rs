//! Namespaces of the process's own: it has no network, and shares no System V objects, message queues or host name with others.
//!
//! No mount and no process namespace: files are Landlock's affair, and NVIDIA's driver tells processes of the same machine apart by their
//! numbers.

use std::fs;

use rustix::process::{getgid, getuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::SandboxError;

const OWN: UnshareFlags = UnshareFlags::NEWNET.union(UnshareFlags::NEWIPC).union(UnshareFlags::NEWUTS);

/// With a user namespace if the process may not do it otherwise.
pub fn enter() -> Result<String, SandboxError> {
    // SAFETY: single-threaded, and none of the flags lets descriptors or memory be shared with others.
    if unsafe { unshare_unsafe(OWN) }.is_ok() {
        return Ok("network, IPC, host name".into());
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    // All at once: if the kernel forbids it, nothing has changed.
    // SAFETY: as above.
    unsafe { unshare_unsafe(OWN | UnshareFlags::NEWUSER) }
        .map_err(SandboxError::system("making namespaces"))?;
    // Stays who it was, seen from inside and outside. Without a map it would still be, to everyone else: so a failure is harmless.
    let _ = fs::write("/proc/self/setgroups", "deny");
    let mapped = fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
    let note = if mapped.is_ok() { "" } else { " (without a map)" };
    Ok(format!("network, IPC, host name, user{note}"))
}
