//! Which system calls a process may make: seccomp.
//!
//! Two filters. One, from before CUDA is loaded, ends the process for a call that only an attacker makes. The other, when the driver has
//! started, refuses with EPERM all that is not known to be needed: should a new driver want more, it gets an error, the log names the call
//! (level debug), and `--sandbox-allow` permits it.

mod lists;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::{SandboxError, refusals};

/// A call's rules: none for a call that is permitted whatever its arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Set in a clone's flags if it makes a thread, not a process.
const CLONE_THREAD: u64 = 0x0001_0000;
/// What a lane's thread or the driver asks of prctl: names of threads and mappings, huge pages, timer slack, and what is the case. Not to
/// outlive the broker (PR_SET_PDEATHSIG).
const PRCTL: [u64; 10] = [2, 3, 15, 16, 23, 29, 39, 41, 42, 0x5356_4d41];
/// Of [`seccompiler`]'s return instruction: the action follows.
const RETURN: u16 = 0x06;

/// The number of a system call that `--sandbox-allow` names.
///
/// # Errors
/// A text for the command line.
pub fn parse(name: &str) -> Result<i64, String> {
    if lists::HOSTILE.iter().any(|&(_, hostile)| hostile == name) {
        return Err(format!("{name} is not for workers"));
    }
    let known = all().find(|&&(_, known)| known == name);
    let number = known.map(|&(number, _)| number).or_else(|| name.parse().ok());
    number
        .filter(|&n| !is_hostile(n))
        .ok_or_else(|| format!("{name} is no system call's name or number that can be allowed"))
}

/// The name of a system call, or its number.
pub fn name(number: i64) -> String {
    all().find(|&&(n, _)| n == number).map_or_else(|| number.to_string(), |&(_, name)| name.to_owned())
}

fn all() -> impl Iterator<Item = &'static (i64, &'static str)> {
    [lists::ALLOWED, lists::CONDITIONAL, lists::REFUSED, lists::HOSTILE].into_iter().flatten()
}

fn is_hostile(number: i64) -> bool {
    lists::HOSTILE.iter().any(|&(n, _)| n == number)
}

/// The first filter, for workers and the monitor: what is hostile ends the process.
pub fn forbid_hostile() -> Result<String, SandboxError> {
    install(&hostile(&[])?, 0)?;
    // It has its flags in memory, where a filter cannot look; told that there is no such call, the C library takes clone.
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    install(&compile(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))?, 0)?;
    Ok("hostile calls end the process".into())
}

/// The first filter, but for what the broker does itself before it executes a worker.
pub fn forbid_hostile_but(needed: &[i64]) -> Result<(), SandboxError> {
    install(&hostile(needed)?, 0).map(drop)
}

/// The second filter, for all threads.
pub fn allow_listed(also: &[i64]) -> Result<String, SandboxError> {
    let how = format!("{} allowed, hostile ones end the process", lists::ALLOWED.len() + also.len());
    let program = allowed(also)?;
    // Whose log is not at debug needs no thread for it, and the kernel's own log has the calls.
    if !tracing::enabled!(tracing::Level::DEBUG) {
        install(&program, libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG)?;
        return Ok(how);
    }
    let program = told(program);
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
        | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Before the filter: making a thread could be what it refuses.
    let refusals = refusals::Reporter::start()
        .map_err(SandboxError::system("starting the thread that names refused calls"))?;
    let listener = install(&program, flags)?;
    // SAFETY: the kernel gave the descriptor just now, with that flag.
    refusals.listen(unsafe { OwnedFd::from_raw_fd(listener) });
    Ok(how)
}

fn hostile(but: &[i64]) -> Result<BpfProgram, SandboxError> {
    let calls = lists::HOSTILE.iter().filter(|(number, _)| !but.contains(number));
    let rules: Rules = calls.map(|&(number, _)| (number, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn allowed(also: &[i64]) -> Result<BpfProgram, SandboxError> {
    let mut rules: Rules = lists::ALLOWED.iter().map(|&(number, _)| (number, Vec::new())).collect();
    let own = u64::from(std::process::id());
    // The first filter's affair, of which the answer would be another else.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Only threads: processes are for nobody to make.
    rules.insert(
        libc::SYS_clone,
        vec![rule(&[condition(0, SeccompCmpOp::MaskedEq(CLONE_THREAD), CLONE_THREAD)?])?],
    );
    rules.insert(libc::SYS_prctl, each(0, &PRCTL)?);
    // Its own limits and threads only.
    rules.insert(libc::SYS_prlimit64, each(0, &[0, own])?);
    rules.insert(libc::SYS_tgkill, each(0, &[own])?);
    rules.insert(libc::SYS_move_pages, each(0, &[0, own])?);
    rules.insert(libc::SYS_migrate_pages, each(0, &[0, own])?);
    for &call in also {
        rules.insert(call, Vec::new());
    }
    compile(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

/// A rule for each value of an argument.
fn each(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|&value| rule(&[condition(argument, SeccompCmpOp::Eq, value)?])).collect()
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let architecture =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SandboxError::Architecture)?;
    Ok(SeccompFilter::new(rules, otherwise, listed, architecture)?.try_into()?)
}

/// The same filter, but what it refuses is told to a listener, which refuses it.
fn told(program: BpfProgram) -> BpfProgram {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let tell = |instruction: sock_filter| match instruction {
        sock_filter { code: RETURN, k, .. } if k == refuse => {
            sock_filter { k: libc::SECCOMP_RET_USER_NOTIF, ..instruction }
        }
        other => other,
    };
    program.into_iter().map(tell).collect()
}

/// Installs a filter. What the kernel returns: 0, or a listener.
fn install(program: &BpfProgram, flags: libc::c_ulong) -> Result<i32, SandboxError> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| BackendError::FilterTooLarge(filter.len()))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // The kernel wants it of a process without the privilege to install filters.
    super::privileges::renounce_new()?;
    // Older kernels slow a filtered process down, so that none of its parts can spy on another by speculation. Here all is one client's.
    let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the program and its instructions live during the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let listens = flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    match i32::try_from(result) {
        Ok(value) if value == 0 || (value > 0 && listens) => Ok(value),
        Ok(-1) | Err(_) => Err(seccompiler::Error::Seccomp(io::Error::last_os_error()).into()),
        Ok(thread) => Err(SandboxError::Thread(thread.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_call_is_on_two_lists() {
        let mut seen = HashSet::new();
        for &(number, name) in all() {
            assert!(seen.insert(number), "{name} is listed twice");
        }
    }

    #[test]
    fn filters_compile_and_a_told_one_refuses_nothing_itself() {
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        let strict = allowed(&[libc::SYS_socket]).unwrap();
        assert!(strict.iter().any(|i| i.code == RETURN && i.k == refuse));
        assert!(!told(strict).iter().any(|i| i.k == refuse));
        assert!(hostile(&[]).unwrap().len() > hostile(&[libc::SYS_unshare]).unwrap().len());
    }

    #[test]
    fn names_and_numbers_are_each_others() {
        assert_eq!(parse("socket"), Ok(libc::SYS_socket));
        assert_eq!(name(libc::SYS_socket), "socket");
        assert_eq!((parse("9999"), name(9999)), (Ok(9999), "9999".into()));
        assert!(parse(&libc::SYS_ptrace.to_string()).is_err());
    }
}
