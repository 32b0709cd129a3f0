//! Follows every process and thread of a command by ptrace(2).

use super::filter;
use super::process::Library;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that a process did. It waits until the event is dealt with, except at its end.
#[derive(Debug)]
pub enum Event {
    Started {
        pid: u32,
        parent: u32,
    },
    Executes {
        pid: u32,
        command: String,
    },
    Opened {
        pid: u32,
        path: PathBuf,
        opened: bool,
    },
    /// A process, or a thread of one.
    Ended {
        pid: u32,
        how: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("making a pipe for what the libraries say")]
    Pipe(#[source] io::Error),
    #[error("starting {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the processes cannot be followed: the kernel refuses ptrace")]
    Refused(#[source] io::Error),
    #[error("following the processes")]
    Wait(#[source] io::Error),
}

const OPTIONS: i32 = libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESYSGOOD
    // Without its tracer a process could open no files.
    | libc::PTRACE_O_EXITKILL;
/// A stop at a system call, as TRACESYSGOOD marks it.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// The most bytes of a path.
const PATH_MAX: usize = 4096;

/// What gets the events.
type Handler<'a> = &'a mut (dyn FnMut(Event) + Send);

/// Runs `command` to the end of its last process.
pub fn run(command: Command, on: Handler<'_>) -> Result<(), TraceError> {
    // A thread of its own waits for its own children only: this process may have others, which end when they like.
    std::thread::scope(|scope| {
        let tracer = std::thread::Builder::new().name("tracer".into());
        let running = tracer.spawn_scoped(scope, || run_here(command, on)).map_err(TraceError::Wait)?;
        running.join().unwrap_or_else(|_| Err(TraceError::Wait(io::ErrorKind::Other.into())))
    })
}

fn run_here(mut command: Command, on: Handler<'_>) -> Result<(), TraceError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let prepare = || {
        ask(libc::PTRACE_TRACEME, 0, 0)?;
        filter::set()
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().map_err(|source| match source.raw_os_error() {
        // What exec itself may say of a program is EACCES.
        Some(libc::EPERM | libc::EINVAL | libc::ENOSYS) => TraceError::Refused(source),
        _ => TraceError::Start { program, source },
    })?;
    ignore_interrupts();
    let mut tracer = Tracer { known: HashSet::new(), told: HashSet::new(), opening: HashMap::new(), on };
    tracer.follow(child.id().cast_signed()).map_err(TraceError::Wait)
}

/// Runs `command` without following it.
pub fn run_alone(mut command: Command) -> Result<(), TraceError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|source| TraceError::Start { program, source })?;
    ignore_interrupts();
    child.wait().map(|_| ()).map_err(TraceError::Wait)
}

/// An interrupt at the terminal is for the command, which was started before; the report is wanted then too.
fn ignore_interrupts() {
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

struct Tracer<'a> {
    /// Threads that were seen.
    known: HashSet<i32>,
    /// Processes that were told of.
    told: HashSet<u32>,
    /// Files that threads are about to open.
    opening: HashMap<i32, PathBuf>,
    on: Handler<'a>,
}

impl Tracer<'_> {
    fn follow(&mut self, first: i32) -> io::Result<()> {
        // The program has just been executed, and waits.
        let Some((_, status)) = wait(first)? else { return Ok(()) };
        if libc::WIFSTOPPED(status) {
            ask(libc::PTRACE_SETOPTIONS, first, i64::from(OPTIONS))?;
            self.start(first);
            self.executes(first);
            go_on(libc::PTRACE_CONT, first, 0);
        } else {
            self.ended(first, status);
        }
        while let Some((thread, status)) = wait(-1)? {
            if libc::WIFSTOPPED(status) {
                self.stopped(thread, status);
            } else {
                self.ended(thread, status);
            }
        }
        Ok(())
    }

    /// The first stop of a thread.
    fn start(&mut self, thread: i32) {
        self.known.insert(thread);
        let Some((process, parent)) = kin(thread) else { return };
        if process == thread.cast_unsigned() {
            self.tell(process, parent);
        }
    }

    /// `thread` has made a process, which may be killed before it stops for the first time.
    fn forks(&mut self, thread: i32) {
        let (Some(child), Some((parent, _))) = (message(thread), kin(thread)) else { return };
        self.tell(child, parent);
    }

    fn tell(&mut self, process: u32, parent: u32) {
        if self.told.insert(process) {
            (self.on)(Event::Started { pid: process, parent });
        }
    }

    fn executes(&mut self, process: i32) {
        let bytes = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let words = bytes.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let command = words.collect::<Vec<_>>().join(" ").trim_end().to_owned();
        (self.on)(Event::Executes { pid: process.cast_unsigned(), command });
    }

    fn ended(&mut self, thread: i32, status: i32) {
        self.opening.remove(&thread);
        self.known.remove(&thread);
        self.told.remove(&thread.cast_unsigned());
        let how = if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("exit code {}", libc::WEXITSTATUS(status))
        };
        (self.on)(Event::Ended { pid: thread.cast_unsigned(), how });
    }

    fn stopped(&mut self, thread: i32, status: i32) {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        match event {
            libc::PTRACE_EVENT_SECCOMP => return self.opens(thread),
            libc::PTRACE_EVENT_EXEC => self.executes(thread),
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => self.forks(thread),
            0 if signal == SYSCALL_STOP => self.opened(thread),
            // New threads and processes begin with a stop.
            0 if !self.known.contains(&thread) => {
                self.start(thread);
                let pass = if signal == libc::SIGSTOP { 0 } else { signal };
                return go_on(libc::PTRACE_CONT, thread, pass);
            }
            // The signal is the program's. In a group-stop there is none to pass on.
            0 => {
                let pass = if is_group_stop(thread) { 0 } else { signal };
                return go_on(libc::PTRACE_CONT, thread, pass);
            }
            _ => {}
        }
        go_on(libc::PTRACE_CONT, thread, 0);
    }

    /// The thread is about to open a file: if that is of interest, it stops again when it has.
    fn opens(&mut self, thread: i32) {
        let path = registers(thread).ok().and_then(|registers| {
            let at = if registers.orig_rax == libc::SYS_open.cast_unsigned() {
                registers.rdi
            } else {
                registers.rsi
            };
            read_path(thread, at)
        });
        match path.filter(|path| Library::of(path).is_some()) {
            Some(path) => {
                let folder = || fs::read_link(format!("/proc/{thread}/cwd")).unwrap_or_default();
                self.opening.insert(thread, if path.is_absolute() { path } else { folder().join(path) });
                go_on(libc::PTRACE_SYSCALL, thread, 0);
            }
            None => go_on(libc::PTRACE_CONT, thread, 0),
        }
    }

    fn opened(&mut self, thread: i32) {
        let Some(path) = self.opening.remove(&thread) else { return };
        let Ok(registers) = registers(thread) else { return };
        let pid = kin(thread).map_or(thread.cast_unsigned(), |(process, _)| process);
        (self.on)(Event::Opened { pid, path, opened: registers.rax.cast_signed() >= 0 });
    }
}

/// The next thread of `which` (-1: of any of this thread's) that stopped or ended; `None` if there is none left.
fn wait(which: i32) -> io::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: the place outlives the call.
        let thread = unsafe { libc::waitpid(which, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if thread > 0 {
            return Ok(Some((thread, status)));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ECHILD) => return Ok(None),
            Some(libc::EINTR) => {}
            _ => return Err(error),
        }
    }
}

/// A request without an address.
fn ask(request: libc::c_uint, thread: i32, data: i64) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: requests of this kind take a number and touch no memory of this process.
    match unsafe { libc::ptrace(request, thread, none, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets the thread run; if it was killed meanwhile, its end comes by `wait`.
fn go_on(request: libc::c_uint, thread: i32, signal: i32) {
    let _ = ask(request, thread, i64::from(signal));
}

/// Whether the thread stopped because its process was stopped: then there is no signal information.
fn is_group_stop(thread: i32) -> bool {
    // SAFETY: all-zero bytes are a value of this plain structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the structure outlives the call, which fills it.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, thread, none, &raw mut info) };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

/// What belongs to an event: the new process's number.
fn message(thread: i32) -> Option<u32> {
    let mut message: libc::c_ulong = 0;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the place outlives the call, which fills it.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, thread, none, &raw mut message) };
    if result == -1 { None } else { u32::try_from(message).ok() }
}

fn registers(thread: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: all-zero bytes are a value of this plain structure.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the structure outlives the call, which fills it.
    match unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, none, &raw mut registers) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(registers),
    }
}

/// The path in the thread's memory at `at`, a page at a time: the next one may not be there.
fn read_path(thread: i32, at: u64) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let memory = fs::File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut path = Vec::new();
    while path.len() < PATH_MAX {
        let from = at.checked_add(path.len() as u64)?;
        let mut bytes = vec![0; usize::try_from(4096 - from % 4096).ok()?];
        let count = memory.read_at(&mut bytes, from).ok().filter(|&count| count > 0)?;
        let bytes = bytes.get(..count)?;
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            path.extend_from_slice(bytes.get(..end)?);
            return Some(Path::new(&std::ffi::OsString::from_vec(path)).to_path_buf());
        }
        path.extend_from_slice(bytes);
    }
    None
}

/// A thread's process and its parent.
fn kin(thread: i32) -> Option<(u32, u32)> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let number =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    Some((number("Tgid:")?, number("PPid:")?))
}
