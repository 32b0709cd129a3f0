//! Lending lanes to workers, and taking them back: attach, stop, resume, loss, close.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use vgpu_spec::wire::control::{Event, FIRST_LANE, LaneAttach, event, status};
use vgpu_spec::wire::lane::state;
use vgpu_spec::wire::split;
use vhost_user_backend::VringT;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::control::Refusal;
use super::events;
use super::lanes::LanePage;
use super::lock;
use super::ring::{Memory, Ring};
use super::vm::{Lent, Vm, identity};
use super::worker_link::{Exit, Worker, WorkerError};
use crate::link::message::{LaneFds, LaneQueue, LaneStart, LaneStopped, kind};
use crate::log::chain;

/// For a worker to take a lane: mapping 2 MiB and starting a thread.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// For a worker to stop a lane. QEMU waits meanwhile; a worker whose thread is stuck in a call is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// LANE_ATTACH: checks everything, hands the ring to the client's worker. Returns the start index.
pub fn attach(vm: &Vm, request: &LaneAttach) -> Result<u16, Refusal> {
    let queue = request.queue;
    let ring = match vm.ring(queue) {
        Some(ring) if queue >= FIRST_LANE => ring,
        _ => return Err(Refusal::new(status::INVALID, format!("queue {queue} is not a lane"))),
    };
    let settings = ring.settings();
    if !settings.running {
        return Err(Refusal::new(status::INVALID, format!("queue {queue} is not running")));
    }
    let memory = vm.memory.memory();
    let page = LanePage::check(&memory, request.page, &settings)
        .map_err(|e| Refusal::new(status::INVALID, format!("queue {queue}: {}", chain(&e))))?;
    let place = place(&memory, &page).ok_or_else(|| Refusal::new(status::INVALID, "the page has no file"))?;
    let (worker, next, epoch) = {
        let mut state = lock(&vm.state);
        let client = state
            .clients
            .get(&request.client)
            .filter(|c| !c.lost && c.closing.is_none())
            .ok_or_else(|| Refusal::no_client(request.client))?;
        let worker = Arc::clone(&client.worker);
        // SECURITY: two clients must not share a page, whatever the agent says: each would see the other's calls.
        let taken = |lent: &Lent| lent.page.page == page.page;
        if state.lanes.iter().flatten().any(taken) {
            return Err(Refusal::new(status::INVALID, format!("the page {:#x} is lent already", page.page)));
        }
        let epoch = state.epoch;
        let slot = state
            .lanes
            .get_mut(usize::from(queue))
            .ok_or_else(|| Refusal::new(status::INVALID, format!("queue {queue} is not a lane")))?;
        if slot.is_some() {
            return Err(Refusal::new(status::INVALID, format!("queue {queue} is lent already")));
        }
        // What a former client left in the ring is skipped.
        let next =
            page.drain(&memory).ok_or_else(|| Refusal::new(status::INVALID, "the ring is not in memory"))?;
        page.set_attached(&memory);
        *slot = Some(Lent { client: request.client, page, place, running: true, next });
        (worker, next, epoch)
    };
    ring.set_queue_next_avail(next);
    match start(&worker, ring, queue, &memory, &page, next) {
        Ok(()) => Ok(next),
        Err(error) => {
            let mut state = lock(&vm.state);
            if state.epoch == epoch
                && let Some(slot) = state.lanes.get_mut(usize::from(queue))
            {
                page.set_state(&memory, state::IDLE);
                *slot = None;
            }
            Err(Refusal::new(status::FAILED, format!("lending queue {queue}: {}", chain(&error))))
        }
    }
}

fn place(memory: &GuestMemoryMmap, page: &LanePage) -> Option<(u64, u64, u64)> {
    page.with_file(memory, |file, offset| identity(file).map(|(dev, ino)| (dev, ino, offset)))?
}

fn start(
    worker: &Worker,
    ring: &Ring,
    queue: u16,
    memory: &GuestMemoryMmap,
    page: &LanePage,
    next: u16,
) -> Result<(), WorkerError> {
    let (kick, call) = eventfds(ring)?;
    let message = LaneStart {
        queue,
        size: page.layout.size,
        next,
        event_idx: u8::from(ring.settings().event_idx),
        has_call: u8::from(call.is_some()),
        page: page.page,
        offset: 0,
    };
    let sent = page.with_file(memory, |file, offset| {
        let mut fds: Vec<BorrowedFd<'_>> = vec![file, kick.as_fd()];
        fds.extend(call.as_ref().map(AsFd::as_fd));
        let message = LaneStart { offset, ..message };
        worker.request(kind::LANE_START, message.as_bytes(), &fds, START_TIMEOUT)
    });
    sent.unwrap_or(Err(WorkerError::Gone)).map(|_| ())
}

fn eventfds(ring: &Ring) -> Result<(OwnedFd, Option<OwnedFd>), WorkerError> {
    let refused = |text: String| WorkerError::Refused { status: status::FAILED, text };
    let (kick, call) = ring.eventfds().map_err(|e| refused(format!("duplicating eventfds: {e}")))?;
    let kick = kick.ok_or_else(|| refused("the ring has no kick eventfd".into()))?;
    Ok((kick, call))
}

/// The worker of a lane that is lent and running.
fn served(vm: &Vm, queue: u16) -> Option<Arc<Worker>> {
    let state = lock(&vm.state);
    let lent = state.lanes.get(usize::from(queue))?.as_ref().filter(|l| l.running)?;
    let client = state.clients.get(&lent.client).filter(|c| !c.lost)?;
    Some(Arc::clone(&client.worker))
}

/// The front end exchanged a ring's eventfds: the worker must use the new ones before the front end goes on.
pub fn forward_eventfds(vm: &Vm, queue: u16) {
    let (Some(ring), Some(worker)) = (vm.ring(queue), served(vm, queue)) else { return };
    let result = eventfds(ring).and_then(|(kick, call)| {
        let message = LaneFds { queue, has_call: u16::from(call.is_some()), reserved: 0 };
        let mut fds = vec![kick.as_fd()];
        fds.extend(call.as_ref().map(AsFd::as_fd));
        worker.request(kind::LANE_FDS, message.as_bytes(), &fds, STOP_TIMEOUT)
    });
    if let Err(error) = result {
        tracing::warn!(vm = vm.name, queue, pid = worker.pid, "exchanging eventfds: {}", chain(&error));
    }
}

/// The front end stops a ring: the worker stops the lane and says where. Afterwards nobody touches the ring.
pub fn stop(vm: &Vm, queue: u16) {
    let Some(ring) = vm.ring(queue) else { return };
    let (worker, page) = {
        let mut guard = lock(&vm.state);
        let state = &mut *guard;
        let Some(Some(lent)) = state.lanes.get_mut(usize::from(queue)) else { return };
        if !lent.running {
            return;
        }
        // First: should the worker die now, its end must not be written into the ring.
        lent.running = false;
        let client = state.clients.get(&lent.client).filter(|client| !client.lost);
        (client.map(|client| Arc::clone(&client.worker)), lent.page)
    };
    let next = worker.and_then(|worker| stop_at(vm, queue, &worker));
    // Without a worker's word: what it had finished. A lost lane is completed up to its available index.
    let next = next.or_else(|| page.used_idx(&vm.memory.memory()));
    let mut state = lock(&vm.state);
    let Some(Some(lent)) = state.lanes.get_mut(usize::from(queue)) else { return };
    lent.next = next.unwrap_or(lent.next);
    ring.set_queue_next_avail(lent.next);
}

/// Has a worker stop a lane; the index at which it stopped. A worker that cannot is killed, and gone afterwards.
fn stop_at(vm: &Vm, queue: u16, worker: &Worker) -> Option<u16> {
    let message = LaneQueue { queue, reserved: [0; 3] };
    let result = worker.request(kind::LANE_STOP, message.as_bytes(), &[], STOP_TIMEOUT);
    let next = result.ok().and_then(|body| split::<LaneStopped>(&body).map(|(stopped, _)| stopped.next));
    if next.is_none() {
        tracing::warn!(vm = vm.name, queue, pid = worker.pid, "worker did not stop the lane: killed");
        worker.end();
    }
    next
}

/// A ring runs (again): if it is lent and was stopped, its worker goes on with it.
pub fn resume(vm: &Vm, queue: u16) {
    let Some(ring) = vm.ring(queue) else { return };
    let settings = ring.settings();
    let memory = vm.memory.memory();
    let (worker, page) = {
        let mut guard = lock(&vm.state);
        let state = &mut *guard;
        let Some(Some(lent)) = state.lanes.get_mut(usize::from(queue)) else { return };
        if lent.running || !settings.running {
            return;
        }
        let same = LanePage::check(&memory, lent.page.page, &settings) == Ok(lent.page);
        if !same || settings.next_avail != lent.next {
            drop(guard);
            vm.drop_clients("the guest started the device anew");
            return;
        }
        let Some(client) = state.clients.get(&lent.client) else { return };
        lent.running = true;
        if client.lost {
            lose(vm, queue, lent);
            return;
        }
        (Arc::clone(&client.worker), lent.page)
    };
    if let Err(error) = start(&worker, ring, queue, &memory, &page, settings.next_avail) {
        tracing::error!(vm = vm.name, queue, pid = worker.pid, "resuming a lane: {}", chain(&error));
        worker.kill();
    }
}

/// The memory table changed: a lane whose page is not where it was has lost its worker's memory.
pub fn memory_changed(vm: &Vm, memory: &Memory) {
    let memory = memory.memory();
    let state = lock(&vm.state);
    for lent in state.lanes.iter().flatten() {
        if place(&memory, &lent.page) != Some(lent.place)
            && let Some(client) = state.clients.get(&lent.client)
        {
            tracing::error!(
                vm = vm.name,
                client = client.label,
                "the memory of a lane was taken away: worker killed"
            );
            client.worker.kill();
        }
    }
}

/// Marks a running lane lost, completes what is outstanding and wakes whoever waits for it.
fn lose(vm: &Vm, queue: u16, lent: &Lent) {
    let memory = vm.memory.memory();
    lent.page.set_state(&memory, state::LOST);
    let next = lent.page.complete_all(&memory);
    if let Some(ring) = vm.ring(queue) {
        if let Some(next) = next {
            ring.set_queue_next_avail(next);
        }
        // Unconditionally: the dead worker may have used entries and died before its own signal.
        let _ = ring.signal_used_queue();
    }
}

/// A worker ended. If nobody asked for it: its lanes are lost, and the agent is told.
pub fn worker_ended(vm: &Vm, number: u32, pid: u32, exit: Exit) {
    let mut guard = lock(&vm.state);
    let state = &mut *guard;
    let Some(client) = state.clients.get_mut(&number).filter(|c| c.worker.pid == pid && c.closing.is_none())
    else {
        return;
    };
    client.lost = true;
    state.shares.forget_client(number);
    let lanes = (0_u16..).zip(&state.lanes);
    let mine = lanes.filter_map(|(queue, lane)| Some((queue, lane.as_ref().filter(|l| l.client == number)?)));
    let mut count = 0;
    for (queue, lent) in mine {
        count += 1;
        if lent.running {
            lose(vm, queue, lent);
        }
    }
    tracing::warn!(vm = vm.name, client = client.label, pid, lanes = count, "worker lost: {exit}");
    let (signal, exit_code) = (exit.signal, exit.code);
    events::send(vm, state, Event { kind: event::WORKER_LOST, client: number, signal, exit_code });
}

/// Takes back all lanes of a client whose worker is gone: drained, idle, free.
pub fn take_back(vm: &Vm, number: u32) {
    let memory = vm.memory.memory();
    let mut state = lock(&vm.state);
    for (queue, slot) in (0_u16..).zip(state.lanes.iter_mut()) {
        let Some(lent) = slot.take_if(|l| l.client == number) else { continue };
        if !lent.running {
            continue;
        }
        let next = lent.page.drain(&memory);
        lent.page.set_state(&memory, state::IDLE);
        if let (Some(next), Some(ring)) = (next, vm.ring(queue)) {
            ring.set_queue_next_avail(next);
        }
    }
}
