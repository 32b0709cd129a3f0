//! Who is at the other end of the operator's socket.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// More groups than a user has.
const MAX_GROUPS: usize = 1024;

/// Whether the other end is root, this process's user, or in `group`. The socket's mode says so too; this holds whatever becomes of it.
pub fn may(stream: &UnixStream, group: Option<u32>) -> bool {
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else { return false };
    let uid = peer.uid.as_raw();
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return true;
    }
    group.is_some_and(|group| peer.gid.as_raw() == group || groups(stream).contains(&group))
}

/// The groups that the other end was in when it connected, besides its first.
fn groups(stream: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
    // SAFETY: the buffer has as many bytes as is said, and the kernel writes at most those.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    groups.truncate(if result == 0 { bytes as usize / size_of::<u32>() } else { 0 });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_may_talk_to_itself() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(may(&ours, None));
        let mine: Vec<u32> =
            rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        let mut told = groups(&ours);
        told.sort_unstable();
        assert!(mine.iter().all(|group| told.contains(group)), "{mine:?} of {told:?}");
    }
}
