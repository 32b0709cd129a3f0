//! Completion interrupts: a vector for each queue, or few vectors that a thread passes on.

use super::access::Access;
use super::{DeviceError, NO_VECTOR};
use crate::carrier::Queue;
use crate::memory::Rings;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The vector of queue `index` when `vectors` are in use.
pub fn vector(index: u16, vectors: usize) -> u16 {
    match u16::try_from(vectors) {
        Ok(0) => NO_VECTOR,
        Ok(vectors) => index % vectors,
        Err(_) => index,
    }
}

/// Enables as many vectors as there are queues, or as the device has; returns how many.
pub fn enable(access: &dyn Access, queues: &[Queue]) -> Result<usize, DeviceError> {
    let has = access.vectors();
    if has == 0 {
        return Ok(0);
    }
    let failed = |source| DeviceError::Io(io::Error::other(crate::error::chain(&source)));
    if has >= queues.len() {
        let fds: Vec<&EventFd> = queues.iter().map(|queue| &queue.completion).collect();
        access.enable_vectors(&fds).map_err(failed)?;
        return Ok(queues.len());
    }
    let fds = (0..has)
        .map(|_| EventFd::new(EFD_NONBLOCK))
        .collect::<Result<Vec<_>, _>>()
        .map_err(DeviceError::Io)?;
    access.enable_vectors(&fds.iter().collect::<Vec<_>>()).map_err(failed)?;
    dispatch(fds, queues).map_err(DeviceError::Io)?;
    Ok(has)
}

/// A queue that shares a vector.
struct Shared {
    rings: Rings,
    completion: EventFd,
    /// Used index at the last look.
    seen: u16,
}

/// Starts the thread that passes the interrupts of shared vectors on to the queues that have news.
fn dispatch(vectors: Vec<EventFd>, queues: &[Queue]) -> io::Result<()> {
    let mut groups: Vec<Vec<Shared>> = vectors.iter().map(|_| Vec::new()).collect();
    for (index, queue) in queues.iter().enumerate() {
        let shared =
            Shared { rings: queue.rings.clone(), completion: queue.completion.try_clone()?, seen: 0 };
        groups[index % vectors.len()].push(shared);
    }
    let epoll = Epoll::new()?;
    for (index, vector) in (0_u64..).zip(&vectors) {
        epoll.ctl(ControlOperation::Add, vector.as_raw_fd(), EpollEvent::new(EventSet::IN, index))?;
    }
    std::thread::Builder::new()
        .name("interrupts".into())
        .spawn(move || run(&epoll, &vectors, &mut groups))?;
    Ok(())
}

fn run(epoll: &Epoll, vectors: &[EventFd], groups: &mut [Vec<Shared>]) {
    let mut events = vec![EpollEvent::default(); 16];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!("waiting for interrupts: {error}");
                return;
            }
        };
        for event in events.iter().take(count) {
            let Ok(index) = usize::try_from(event.data()) else { continue };
            if let (Some(vector), Some(group)) = (vectors.get(index), groups.get_mut(index)) {
                // Read first: an interrupt that comes after is seen again.
                crate::wait::drain(vector);
                pass_on(group);
            }
        }
    }
}

fn pass_on(group: &mut [Shared]) {
    for queue in group {
        let used = queue.rings.used_index().load(Ordering::Acquire);
        if used != queue.seen {
            queue.seen = used;
            if let Err(error) = queue.completion.write(1) {
                tracing::debug!("signalling a queue: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MockDevice, rings};

    #[test]
    fn queues_share_vectors_in_turn() {
        assert_eq!([0, 1, 2, 5].map(|queue| vector(queue, 2)), [0, 1, 0, 1]);
        assert_eq!([0, 7].map(|queue| vector(queue, 0)), [NO_VECTOR; 2]);
        assert_eq!(vector(7, 8), 7);
    }

    #[test]
    fn only_queues_with_news_are_signalled_and_once() {
        let queue = || Shared { rings: rings(8), completion: EventFd::new(EFD_NONBLOCK).unwrap(), seen: 0 };
        let mut group = [queue(), queue()];
        MockDevice::new(&group[1].rings).complete(0, 0);
        pass_on(&mut group);
        pass_on(&mut group);
        assert!(group[0].completion.read().is_err());
        assert_eq!(group[1].completion.read().unwrap(), 1);
    }
}
