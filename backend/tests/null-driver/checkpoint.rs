//! Checkpoints that move nothing: where a process is stands in a file `checkpoint-PID` of the current folder, and other files there have
//! steps fail or take long, as a test wants it.

use std::ffi::c_void;
use std::path::Path;
use std::time::Duration;

use crate::{INVALID_VALUE, SUCCESS};

const NOT_READY: u32 = 600;
const ILLEGAL_STATE: u32 = 401;
const UNKNOWN: u32 = 999;
pub const OUT_OF_MEMORY: u32 = 2;

const RUNNING: u32 = 0;
const LOCKED: u32 = 1;
const CHECKPOINTED: u32 = 2;

fn file(pid: i32) -> String {
    format!("checkpoint-{pid}")
}

fn read(pid: i32) -> u32 {
    std::fs::read_to_string(file(pid)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(RUNNING)
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

/// Whether all processes that a test has named in files `user-PID` are away, but for this one.
pub fn others_are_away() -> bool {
    others_than(std::process::id().cast_signed())
}

fn others_than(mine: i32) -> bool {
    let folder = std::fs::read_dir(".").into_iter().flatten().flatten();
    let names = folder.filter_map(|entry| entry.file_name().into_string().ok());
    let users = names.filter_map(|name| name.strip_prefix("user-")?.parse::<i32>().ok());
    users.filter(|&pid| pid != mine).all(|pid| read(pid) == CHECKPOINTED)
}

/// From one state to the next, unless the file `trouble` says otherwise.
fn step(pid: i32, from: u32, to: u32, trouble: &str, error: u32) -> u32 {
    if let Ok(text) = std::fs::read_to_string(format!("slow-{trouble}")) {
        std::thread::sleep(Duration::from_millis(text.trim().parse().unwrap_or(0)));
    }
    if !lives(pid) {
        return INVALID_VALUE;
    }
    if trouble == "restore" && Path::new("small-device").exists() && !others_than(pid) {
        return OUT_OF_MEMORY;
    }
    if Path::new(&format!("fail-{trouble}")).exists() {
        return error;
    }
    if read(pid) != from {
        return ILLEGAL_STATE;
    }
    std::fs::write(file(pid), to.to_string()).map_or(UNKNOWN, |()| SUCCESS)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCheckpointProcessGetState(pid: i32, state: *mut u32) -> u32 {
    if !lives(pid) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's out parameter.
    unsafe { *state = read(pid) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCheckpointProcessLock(pid: i32, _arguments: *mut c_void) -> u32 {
    step(pid, RUNNING, LOCKED, "lock", NOT_READY)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCheckpointProcessCheckpoint(pid: i32, _arguments: *mut c_void) -> u32 {
    step(pid, LOCKED, CHECKPOINTED, "save", UNKNOWN)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCheckpointProcessRestore(pid: i32, _arguments: *mut c_void) -> u32 {
    step(pid, CHECKPOINTED, LOCKED, "restore", OUT_OF_MEMORY)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCheckpointProcessUnlock(pid: i32, _arguments: *mut c_void) -> u32 {
    step(pid, LOCKED, RUNNING, "unlock", UNKNOWN)
}
