//! What kernels print: the driver writes it to the process's standard output, which a pipe replaces.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

/// Size of the pipe.
const PIPE_SIZE: usize = 1 << 20;
/// The most bytes kept for the guest; what comes beyond is counted and left out.
const MAX_KEPT: usize = 16 << 20;

static OUTPUT: OnceLock<Output> = OnceLock::new();

struct Output {
    read: OwnedFd,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    left_out: u64,
}

/// Replaces standard output by a pipe, and starts the thread that keeps it from filling up.
///
/// # Errors
/// Of the system calls; the process's standard output is unchanged or closed then.
pub fn capture() -> io::Result<()> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    // Only a larger buffer: without it the thread below has more to do.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
    rustix::stdio::dup2_stdout(&write)?;
    if OUTPUT.set(Output { read, kept: Mutex::default() }).is_err() {
        return Err(io::Error::other("standard output is captured already"));
    }
    std::thread::Builder::new().name("output".into()).stack_size(256 << 10).spawn(keep_empty)?;
    Ok(())
}

/// A driver that prints blocks when the pipe is full, and would block its lane with it.
fn keep_empty() {
    let Some(output) = OUTPUT.get() else { return };
    loop {
        match crate::link::wait_readable(output.read.as_fd(), None) {
            Ok(_) => output.take_in(),
            Err(error) => {
                tracing::error!("waiting for kernels' output: {error}");
                return;
            }
        }
    }
}

impl Output {
    fn take_in(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0_u8; 16 << 10];
        while let Ok(n @ 1..) = rustix::io::read(&self.read, &mut buffer) {
            let room = MAX_KEPT.saturating_sub(kept.bytes.len()).min(n);
            kept.bytes.extend(&buffer[..room]);
            kept.left_out += (n - room) as u64;
        }
    }
}

/// Everything printed so far and not yet drained. Cheap when there is nothing.
pub fn drain() -> Vec<u8> {
    let Some(output) = OUTPUT.get() else { return Vec::new() };
    // Before the lock: a driver thread may hold a stream's lock while it waits for the pipe to be emptied.
    // SAFETY: a null stream means all output streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    if rustix::io::ioctl_fionread(&output.read).unwrap_or(0) > 0 {
        output.take_in();
    }
    let mut kept = output.kept.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes: Vec<u8> = std::mem::take(&mut kept.bytes).into();
    let left_out = std::mem::take(&mut kept.left_out);
    if left_out > 0 {
        bytes.extend_from_slice(format!("\n[vgpu: {left_out} bytes of output left out]\n").as_bytes());
    }
    bytes
}
