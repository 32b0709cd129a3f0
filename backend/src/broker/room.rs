//! Room on a device: for a worker to which the driver, or its VM's limit, gave no memory.
//!
//! Natively a process that has ended has given its memory back by the time that its parent knows. Here its worker may still be ending:
//! that is waited for first. Else other VMs may make room.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use zerocopy::FromBytes;

use super::sharing::Asked;
use super::vm::Vm;
use super::worker_link::Worker;
use super::{lock, suspend};
use crate::link::Packet;
use crate::link::message::{Room, status};

/// For workers to end: the driver takes a second to free a whole device.
const PATIENCE: Duration = Duration::from_secs(5);
/// Workers of a VM that wait at once; each takes a thread.
const MOST: u32 = 16;

/// Answers a worker's request, at once or later.
pub fn serve(vm: &Vm, worker: Weak<Worker>, packet: &Packet) -> Asked {
    let Ok(room) = Room::read_from_bytes(&packet.body) else { return Asked::Broken };
    if !packet.fds.is_empty() {
        return Asked::Broken;
    }
    let seq = packet.header.seq;
    let reply = move |status| {
        if let Some(worker) = worker.upgrade() {
            worker.reply(seq, status);
        }
    };
    let ending = ending(vm);
    if !ending.is_empty() && vm.rooms.fetch_add(1, Ordering::AcqRel) < MOST {
        wait(vm, ending, reply);
    } else if room.limited != 0 {
        // Nobody else can help a VM that is at its limit.
        reply(status::NO_ROOM);
    } else {
        suspend::serve(vm.pool.suspender(), &vm.tenant, room.device, reply);
    }
    Asked::Nothing
}

/// Workers whose guest process is gone, and which still have memory.
fn ending(vm: &Vm) -> Vec<Arc<Worker>> {
    let state = lock(&vm.state);
    let gone = state.clients.values().filter(|client| client.closing.is_some() || client.lost);
    gone.filter(|client| client.worker.is_alive()).map(|client| Arc::clone(&client.worker)).collect()
}

fn wait(vm: &Vm, ending: Vec<Arc<Worker>>, reply: impl FnOnce(u32) + Send + 'static) {
    let weak = vm.weak();
    let body = move || {
        let deadline = Instant::now() + PATIENCE;
        let ended =
            |worker: &Arc<Worker>| worker.wait_ended(deadline.saturating_duration_since(Instant::now()));
        let all = ending.iter().all(ended);
        reply(if all { 0 } else { status::NO_ROOM });
        if let Some(vm) = weak.upgrade() {
            vm.rooms.fetch_sub(1, Ordering::AcqRel);
        }
    };
    if std::thread::Builder::new().name("room".into()).spawn(body).is_err() {
        // The worker's own patience ends, and its call with OUT_OF_MEMORY.
        vm.rooms.fetch_sub(1, Ordering::AcqRel);
    }
}
