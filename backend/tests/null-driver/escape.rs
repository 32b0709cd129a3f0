//! What a guest would try that has taken its worker over. Each attempt goes to standard error, which is the broker's log.

use std::ffi::c_void;
use std::io::{ErrorKind, Result, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

/// This driver's folder, which the broker's socket lies in too.
fn folder() -> PathBuf {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&paths).next().unwrap_or_default()
}

/// Beside it, and no business of a worker's.
fn secret() -> PathBuf {
    let mut path = folder().into_os_string();
    path.push("-secret");
    PathBuf::from(path).join("file")
}

fn refused<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Whether no other worker of the broker can be looked into. There is one.
fn neighbours_refuse() -> bool {
    let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
    let is_worker = |pid: u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        command.starts_with(b"vgpu-worker") && status.contains(&format!("PPid:\t{parent}\n"))
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut others = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && is_worker(pid))
        .peekable();
    others.peek().is_some() && others.all(|pid| refused(std::fs::File::open(format!("/proc/{pid}/mem"))))
}

fn done(result: i32) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// What a driver does in its compute cache: it finds the folder, makes one for an entry, writes that under another name, and locks an index.
fn cache() -> Result<()> {
    use std::fs;
    let folder = PathBuf::from(std::env::var_os("CUDA_CACHE_PATH").ok_or(ErrorKind::NotFound)?);
    fs::create_dir_all(&folder)?;
    fs::read_dir(&folder)?;
    let own = folder.join(format!("null-driver-{}", std::process::id()));
    fs::create_dir_all(own.join("entry"))?;
    let index =
        fs::File::options().read(true).write(true).create(true).truncate(true).open(own.join("index"))?;
    // SAFETY: an open file's descriptor.
    unsafe {
        done(libc::flock(index.as_raw_fd(), libc::LOCK_EX))?;
        done(libc::lockf(index.as_raw_fd(), libc::F_LOCK, 0))?;
    }
    fs::write(own.join("new"), "code")?;
    fs::rename(own.join("new"), own.join("entry/code"))?;
    index.set_len(16)?;
    index.sync_all()?;
    if fs::read(own.join("entry/code"))? != b"code" {
        return Err(ErrorKind::InvalidData.into());
    }
    fs::remove_dir_all(own)
}

fn status(of: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(of));
    line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
}

/// Attempts by name, and whether each was refused.
fn attempts() -> Vec<(&'static str, bool)> {
    // SAFETY: plain system calls; signal 0 goes to nobody.
    let (signal, death, user, core) = unsafe {
        let mut core = libc::rlimit { rlim_cur: 9, rlim_max: 9 };
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut core);
        let signal = done(libc::kill(libc::getppid(), 0));
        // The system call itself: the C library's function has all threads make it.
        let user = done(i32::try_from(libc::syscall(libc::SYS_setresuid, 0, 0, 0)).unwrap_or(-1));
        (signal, done(libc::prctl(libc::PR_SET_PDEATHSIG, 0)), user, core)
    };
    let parent = std::os::unix::process::parent_id();
    let folder = folder();
    vec![
        ("read", refused(std::fs::read(secret()))),
        ("write", refused(std::fs::write(folder.join("written"), "x"))),
        ("list", refused(std::fs::read_dir(std::env::temp_dir()))),
        ("memory", refused(std::fs::File::open(format!("/proc/{parent}/mem")))),
        ("neighbour", neighbours_refuse()),
        ("signal", refused(signal)),
        ("connect", refused(UnixStream::connect(folder.join("vm.sock")))),
        // Refused, or not there: anything but a host that answers.
        (
            "network",
            TcpStream::connect(("127.0.0.1", 9)).is_err_and(|e| e.kind() != ErrorKind::ConnectionRefused),
        ),
        ("execute", Command::new("/bin/true").status().is_err()),
        ("outlive", refused(death)),
        ("root", refused(user)),
        ("capabilities", status("CapEff").chars().all(|digit| digit == '0') && status("NoNewPrivs") == "1"),
        ("core", core.rlim_max <= 1),
        // Not what an attacker wants.
        ("cache", cache().is_err()),
    ]
}

/// Says of each attempt what came of it.
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> u32 {
    let mut text = String::new();
    for (what, refused) in attempts() {
        text.push_str(&format!("attempt {what}: {}\n", if refused { "refused" } else { "possible" }));
    }
    let _ = std::io::stderr().write_all(format!("{text}attempts: done\n").as_bytes());
    0
}

/// Takes hold of the broker. Does not come back where that is forbidden.
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> u32 {
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: PTRACE_SEIZE takes a process's number and no memory.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, libc::getppid(), none, none) };
    if result == 0 { 0 } else { 1 }
}
