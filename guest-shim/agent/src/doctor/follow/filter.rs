//! The seccomp filter of followed processes: opening a file goes to the tracer, everything else runs at full speed.

use std::io;

/// `AUDIT_ARCH_X86_64` of linux/audit.h. System calls of 32-bit programs pass.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips `jt` statements if the loaded value is `k`, else `jf`.
const fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: EQUAL, jt, jf, k }
}

static FILTER: [libc::sock_filter; 8] = [
    statement(LOAD, ARCH_AT),
    jump(ARCH, 0, 4),
    statement(LOAD, NUMBER_AT),
    jump(libc::SYS_openat as u32, 3, 0),
    jump(libc::SYS_open as u32, 2, 0),
    jump(libc::SYS_openat2 as u32, 1, 0),
    statement(RETURN, libc::SECCOMP_RET_ALLOW),
    statement(RETURN, libc::SECCOMP_RET_TRACE),
];

/// Sets the filter for this process and its children. For between fork and exec: allocates nothing.
pub fn set() -> io::Result<()> {
    let program = libc::sock_fprog { len: FILTER.len() as u16, filter: FILTER.as_ptr().cast_mut() };
    let set = || {
        // SAFETY: the program and its filter are as linux/filter.h has them, and are only read.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }
    };
    if set() == 0 {
        return Ok(());
    }
    // Without privileges the kernel wants it given up that children gain any (sudo).
    // SAFETY: a system call without pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0 && set() == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
