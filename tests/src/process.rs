//! Processes, as `/proc` shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Whether a process exists and is no zombie.
pub fn runs(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// Sends a signal to a process that the test started.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: a system call on a process of this test.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0, "killing {pid}");
}

/// Children of all threads of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let mut pids = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    // The broker's monitor is no worker.
    pids.retain(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.starts_with(b"vgpu-monitor"))
    });
    pids
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What a process has open, by kind and count: for messages.
pub fn open_files(pid: u32) -> BTreeMap<String, u32> {
    let mut files = BTreeMap::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if let Ok(link) = fs::read_link(fd.path()) {
            let link = link.to_string_lossy().into_owned();
            // "socket:[123]": numbers differ from time to time.
            let kind = link.split_once(":[").map_or(link.as_str(), |(kind, _)| kind);
            *files.entry(kind.to_owned()).or_default() += 1;
        }
    }
    files
}

/// Threads of a process.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Bytes of memory in the memfds that a process has open.
pub fn memfd_bytes(pid: u32) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let is_memfd = fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"));
        let Ok(meta) = fs::metadata(fd.path()) else { continue };
        if is_memfd && seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}

/// CPU time of a process in clock ticks (10 ms).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Has the process killed when the calling thread ends, so that nothing outlives a test that was killed itself.
pub fn end_with_this_thread(command: &mut Command) {
    let set = || {
        // SAFETY: a system call without pointers, allowed between fork and exec.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure only makes a system call.
    unsafe { command.pre_exec(set) };
}
