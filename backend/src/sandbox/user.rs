//! Another user.

use std::ffi::CString;
use std::fmt;
use std::io;

use rustix::process::{Signal, getgid, getppid, getuid, set_parent_process_death_signal};

use super::SandboxError;

/// As whom workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// A name, or numbers as UID or UID:GID.
    ///
    /// # Errors
    /// A text for the command line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        let user = match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => User { uid, gid },
            _ => User::named(text).ok_or_else(|| format!("there is no user \"{text}\""))?,
        };
        // Numbers that mean "unchanged" to the kernel.
        if user.uid == u32::MAX || user.gid == u32::MAX {
            return Err(format!("\"{text}\" is no user"));
        }
        Ok(user)
    }

    fn named(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: on the main thread, before others are started; the result is copied before another call.
        let entry = unsafe { libc::getpwnam(name.as_ptr()).as_ref() }?;
        Some(User { uid: entry.pw_uid, gid: entry.pw_gid })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// Takes the user's numbers for good. The process must have one thread.
pub fn become_user(user: User) -> Result<(), SandboxError> {
    if getuid().as_raw() == user.uid && getgid().as_raw() == user.gid {
        return Ok(());
    }
    let parent = getppid();
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let failed = SandboxError::system("becoming the user of workers");
    // SAFETY: plain system calls; groups first, while there is the right to.
    let result = unsafe {
        done(libc::setgroups(0, std::ptr::null()))
            .and_then(|()| done(libc::setresgid(user.gid, user.gid, user.gid)))
            .and_then(|()| done(libc::setresuid(user.uid, user.uid, user.uid)))
    };
    result.map_err(failed)?;
    // The change has cleared it: a worker must not outlive its broker.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(SandboxError::system("asking to end with the broker"))?;
    if getppid() != parent { Err(SandboxError::Orphan) } else { Ok(()) }
}

/// Says who the process is.
pub fn describe(wanted: Option<User>) -> String {
    match (wanted, getuid().as_raw()) {
        (Some(user), _) => format!("UID {}, GID {}", user.uid, user.gid),
        (None, 0) => "root without capabilities; --worker-user gives another".into(),
        (None, uid) => format!("UID {uid}, the broker's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        assert_eq!(User::parse("0"), Ok(User { uid: 0, gid: 0 }));
        assert_eq!(User::parse("7:8"), Ok(User { uid: 7, gid: 8 }));
        assert_eq!(User::parse("root"), Ok(User { uid: 0, gid: 0 }));
        for text in ["", "7:", ":8", "no such user", "4294967295", "7:4294967295", "-1"] {
            assert!(User::parse(text).is_err(), "{text}");
        }
    }
}
