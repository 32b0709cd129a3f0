//! Starting a worker process, the monitor and the checkpointer.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::config::Config;
use crate::link::{Link, LinkError};

/// The kernel places a process's mmap area below its stack limit: with this soft limit, device memory gets addresses
/// at which no guest process has its libraries. The worker sets the limit back before it starts a thread.
const STEERING_STACK_LIMIT: u64 = 16 << 40;

/// No worker was started yet.
static FIRST: AtomicBool = AtomicBool::new(true);

/// Why a worker process could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("executing a worker")]
    Exec(#[source] std::io::Error),
    #[error("opening a pidfd of worker {pid}")]
    PidFd { pid: u32, source: rustix::io::Errno },
}

/// A worker process, just executed.
pub struct Spawned {
    pub child: Child,
    pub pidfd: OwnedFd,
    pub link: Link,
}

/// Executes a worker that sees the devices `visible`, as CUDA_VISIBLE_DEVICES has them, or all. To be called on a thread that lives as
/// long as the broker: the worker dies with that thread.
pub fn spawn(config: &Config, visible: Option<&str>) -> Result<Spawned, SpawnError> {
    spawn_as(config, "vgpu-worker", |command, fd| {
        if let Some(visible) = visible {
            // The broker's own has had its effect on what this was chosen of.
            command.env("CUDA_VISIBLE_DEVICES", visible);
        }
        command
            .args(["worker", "--link-fd", fd])
            .args(["--poll-us", &config.poll.as_micros().to_string()])
            .args(["--log", &config.log]);
        if let Some(folder) = &config.cuda_dir {
            command.arg("--folder").arg(folder);
        }
        // One line of the log says how all are confined.
        if FIRST.swap(false, Ordering::Relaxed) {
            command.arg("--first");
        }
        command.args(config.sandbox.arguments());
    })
}

/// Executes the monitor. The same holds for its thread.
pub fn spawn_monitor(config: &Config) -> Result<Spawned, SpawnError> {
    spawn_as(config, "vgpu-monitor", |command, fd| {
        command.args(["monitor", "--link-fd", fd]).args(["--log", &config.log]);
        if let Some(folder) = &config.cuda_dir {
            command.arg("--folder").arg(folder);
        }
        command.args(config.sandbox.arguments());
    })
}

/// Executes the checkpointer. The same holds for its thread.
pub fn spawn_checkpointer(config: &Config) -> Result<Spawned, SpawnError> {
    spawn_as(config, "vgpu-checkpointer", |command, fd| {
        command.args(["checkpointer", "--link-fd", fd]).args(["--log", &config.log]);
        if let Some(folder) = &config.cuda_dir {
            command.arg("--folder").arg(folder);
        }
        command.args(config.sandbox.arguments());
    })
}

fn spawn_as(
    config: &Config,
    name: &str,
    arguments: impl FnOnce(&mut Command, &str),
) -> Result<Spawned, SpawnError> {
    let (ours, theirs) = Link::pair()?;
    let fd = theirs.as_fd().as_raw_fd();
    let parent = rustix::process::getpid();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).stdin(Stdio::null());
    arguments(&mut command, &fd.to_string());
    if let Some(dir) = &config.cuda_dir {
        let mut path = dir.clone().into_os_string();
        if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(old);
        }
        command.env("LD_LIBRARY_PATH", path);
    }
    // SAFETY: `prepare` makes only system calls, which is allowed between fork and exec; `fd` is open until after it.
    unsafe { command.pre_exec(move || prepare(fd, parent)) };
    let mut child = command.spawn().map_err(SpawnError::Exec)?;
    drop(theirs);
    let pid = child.id();
    let pidfd = Pid::from_raw(pid.cast_signed())
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|p| rustix::process::pidfd_open(p, rustix::process::PidfdFlags::empty()));
    match pidfd {
        Ok(pidfd) => Ok(Spawned { child, pidfd, link: ours }),
        Err(source) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(SpawnError::PidFd { pid, source })
        }
    }
}

/// Marks all descriptors but the standard ones close-on-exec.
///
/// SECURITY: vhost-user receives a VM's memory and eventfds without that mark (vmm-sys-util asks for no
/// MSG_CMSG_CLOEXEC), and a worker must not inherit the memory of other VMs.
fn close_others_on_exec() -> std::io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only sets flags on this process's descriptors.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    // Before Linux 5.11: one by one, up to the limit.
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    for fd in 3..i32::try_from(limit).unwrap_or(i32::MAX) {
        // SAFETY: fails for numbers that are not open, which is meant.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Runs in the child before exec.
fn prepare(link: i32, parent: Pid) -> std::io::Result<()> {
    rustix::process::setsid()?;
    // A broker that is killed takes its workers along: they must not go on writing into a VM's memory.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        return Err(std::io::Error::other("the broker is gone"));
    }
    let limit = rustix::process::getrlimit(Resource::Stack);
    let steering = limit.maximum.map_or(STEERING_STACK_LIMIT, |hard| hard.min(STEERING_STACK_LIMIT));
    rustix::process::setrlimit(Resource::Stack, Rlimit { current: Some(steering), maximum: limit.maximum })?;
    // SAFETY: the sets live on this stack; the broker's blocked signals must not stay blocked in the worker.
    let result = unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    close_others_on_exec()?;
    // SAFETY: `link` is the descriptor of the worker's end, kept open by `spawn`.
    let link = unsafe { std::os::fd::BorrowedFd::borrow_raw(link) };
    rustix::io::fcntl_setfd(link, rustix::io::FdFlags::empty())?;
    Ok(())
}
