//! Kicks of clients: they write an eventfd, the agent writes the device's notify register, which only it can reach.

use super::virtio::VirtioPci;
use crate::carrier::Queue;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vgpu_spec::wire::control::FIRST_LANE;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

struct Lane {
    queue: u16,
    kick: EventFd,
    place: usize,
}

/// Starts the thread that serves the kicks of all lanes.
pub fn start(virtio: &Arc<VirtioPci>, queues: &[Queue], places: &[usize]) -> io::Result<()> {
    let all = (0_u16..).zip(queues.iter().zip(places)).skip(usize::from(FIRST_LANE));
    let lanes = all
        .map(|(queue, (from, &place))| Ok(Lane { queue, kick: from.kick.try_clone()?, place }))
        .collect::<io::Result<Vec<_>>>()?;
    let epoll = Epoll::new()?;
    for (index, lane) in (0_u64..).zip(&lanes) {
        epoll.ctl(ControlOperation::Add, lane.kick.as_raw_fd(), EpollEvent::new(EventSet::IN, index))?;
    }
    let virtio = virtio.clone();
    std::thread::Builder::new().name("kicks".into()).spawn(move || run(&epoll, &lanes, &virtio))?;
    Ok(())
}

fn run(epoll: &Epoll, lanes: &[Lane], virtio: &VirtioPci) {
    let mut events = vec![EpollEvent::default(); 64];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!("waiting for kicks: {error}");
                return;
            }
        };
        let ready =
            events.iter().take(count).filter_map(|event| lanes.get(usize::try_from(event.data()).ok()?));
        for lane in ready {
            // Read first: a kick that comes after is seen again.
            crate::wait::drain(&lane.kick);
            virtio.notify(lane.queue, lane.place);
        }
    }
}
